"""Files that are whole or not there, and folders that belong to one process."""

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gaejax.training.devices import agreed

LOCK = ".lock"
PART = ".part."
"""How the name of a file begins until it is whole."""
READ_AS_PATTERNS = re.compile(r"[][*?\\]")


def check_output(path: Path | str) -> Path:
    """Returns `path` as a folder for results.

    Raises:
      ValueError: if it is a URL (a bucket), which is not supported, or a file.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # a Path has one of the two slashes
        raise ValueError(f"output must be a folder of this machine, got {path}: write there, then copy the folder")
    if Path(path).is_file():
        raise ValueError(f"output must be a folder, got the file {path}")
    return Path(path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write to, beside `path` and with its suffix, which takes the place of `path` at the end. After an
    exception, or a kill, `path` is what it was."""
    part = path.with_name(PART + path.name)
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file it had no room for
        raise


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that at any moment it is the old or the new one."""
    with replacing(path) as part:
        part.write_text(text, "utf-8")


def is_ours(path: Path) -> bool:
    """Whether a file of a run's folder holds nothing: the lock, or what a kill left of `replacing`."""
    return path.name == LOCK or path.name.startswith(PART)


def check_room(folder: Path, size: int) -> None:
    """Raises OSError if the file system of `folder` has no room for `size` bytes, as writing them would.

    Orbax tells of a full disk in hundreds of lines. Process 0 looks, so that all processes save or none does.
    """
    if agreed(shutil.disk_usage(folder).free < size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder, if it does not exist, and holds it for this process. The system lets go when the process ends.

    Raises:
      ValueError: if another process, or another run of this one, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is writing to {folder}: wait for it, or choose another folder") from None
        except (ImportError, OSError) as error:  # a system or a file system without locks
            print(f"warning: {folder} cannot be locked, use it from one process only: {error}", file=sys.stderr)
        yield


@contextmanager
def without_patterns(folder: Path) -> Iterator[Path]:
    """Gives a name of an existing folder that no library takes for a pattern: if it has a `[` or the like, a link."""
    folder = folder.absolute()
    if not READ_AS_PATTERNS.search(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="gaejax-") as temporary:
        link = Path(temporary) / "folder"
        link.symlink_to(folder, target_is_directory=True)
        yield link
