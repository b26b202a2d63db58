"""The check of a .gguf file's header, before the package that reads such files believes its counts and lengths."""

import mmap
import struct
from pathlib import Path
from typing import Any

from gaejax._arguments import short
from gaejax.language.files.packages import package

SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by its type
STRING, ARRAY = 8, 9
LONGEST_ARRAY = 2**20  # the package makes an object of every element; vocabularies and merges have fewer
LONGEST_NAME = 2**12
MOST_ENTRIES = 2**16  # of metadata, and of tensors


class _Header:
    """Reads a file from its start; what would reach beyond its end is refused."""

    def __init__(self, path: Path, data: Any):
        self.path, self.data, self.place = path, data, 0

    def refuse(self, problem: str) -> ValueError:
        return ValueError(f"{self.path} is damaged: {problem}")

    def skip(self, count: int, what: str) -> int:
        """Passes over some bytes and returns where they begin."""
        start = self.place
        if count > len(self.data) - start:
            raise self.refuse(f"{what} has {count} bytes, and the file ends before")
        self.place += count
        return start

    def number(self, what: str, size: int = 8, most: int | None = None) -> int:
        start = self.skip(size, what)
        value = struct.unpack_from({4: "<I", 8: "<Q"}[size], self.data, start)[0]
        if most is not None and value > most:
            raise self.refuse(f"{what} must be at most {most}, got {value}")
        return value

    def text(self, what: str, most: int | None = None) -> str:
        size = self.number(f"the length of {what}", most=most)
        start = self.skip(size, what)
        try:
            return self.data[start : start + size].decode()
        except UnicodeDecodeError as error:
            raise self.refuse(f"{what} must be a text in UTF-8 ({error})") from None

    def value(self, what: str, kind: int) -> None:
        """Passes over a value of the metadata."""
        if kind == STRING:
            self.text(what)
        elif kind in SCALARS:
            self.skip(SCALARS[kind], what)
        elif kind == ARRAY:
            of, count = self.number(f"the type of {what}", 4), self.number(f"the length of {what}", most=LONGEST_ARRAY)
            if of in SCALARS:
                self.skip(SCALARS[of] * count, what)
            elif of == STRING:
                for _ in range(count):
                    self.text(what)
            else:
                raise self.refuse(f"{what} must be an array of numbers or texts, got type {of}")
        else:
            raise self.refuse(f"{what} must have a type that the format knows, got {kind}")


def check_gguf(path: Path) -> None:
    """Checks that the counts, lengths and places in a .gguf file fit the file, in time and memory of its size.

    Raises:
      ValueError: if one does not; one line with the path and the entry.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ValueError(f"{path} is damaged: it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check(_Header(path, data))


def _check(header: _Header) -> None:
    if header.data[header.skip(4, "the start") :][:4] != b"GGUF":
        raise header.refuse("it does not begin with GGUF")
    if (version := header.number("the version", 4)) not in (2, 3):
        raise header.refuse(f"its version must be 2 or 3, in little-endian order, got {version}")
    num_tensors = header.number("the number of tensors", most=MOST_ENTRIES)
    names = set()
    for index in range(header.number("the number of metadata", most=MOST_ENTRIES)):
        name = header.text(f"name {index} of the metadata", LONGEST_NAME)
        if name in names:
            raise header.refuse(f"{short(name)} is there twice")
        names.add(name)
        header.value(short(name), header.number(f"the type of {short(name)}", 4))
    needed = sum(_tensor_bytes(header, index) for index in range(num_tensors))
    if needed > (there := len(header.data) - header.place):
        raise header.refuse(f"its tensors have {needed} bytes, and {there} are left in the file")


def _tensor_bytes(header: _Header, index: int) -> int:
    """Passes over the description of a tensor and returns its size in bytes."""
    gguf = package("gguf")
    name = short(header.text(f"name {index} of the tensors", LONGEST_NAME))
    elements = 1
    for _ in range(header.number(f"the number of axes of {name}", 4, most=4)):
        elements *= header.number(f"an axis of {name}", most=2**40)
    kind = header.number(f"the type of {name}", 4)
    try:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    except (KeyError, ValueError):
        raise header.refuse(f"{name} must have a type that the format knows, got {kind}") from None
    if elements % block:
        raise header.refuse(f"{name} must have a multiple of {block} elements, got {elements}")
    offset, needed = header.number(f"the place of {name}"), elements // block * size
    if offset + needed > len(header.data):
        raise header.refuse(f"{name} has {needed} bytes at {offset}, and the file ends before")
    return needed
