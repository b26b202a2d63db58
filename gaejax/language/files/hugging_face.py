"""Models as folders in Hugging Face's format: config.json, safetensors and tokenizer.json."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gaejax._arguments import short
from gaejax.language.files.inside import exists, inside, read_json, short_text
from gaejax.language.files.layout import Tensors
from gaejax.language.files.packages import package
from gaejax.language.files.tokenizer import Tokenizer, read_tokenizer, write_tokenizer
from gaejax.language.models.config import DecoderConfig


def read_folder(folder: Path) -> tuple[DecoderConfig, Tensors, Tokenizer | None]:
    """Reads a folder's configuration and tokenizer; its tensors are read when called for.

    Raises:
      ValueError: if the folder has no config.json or lacks weights.
    """
    if not exists(folder, "config.json"):
        raise ValueError(f"path must be a folder with a model's config.json, and {folder} has none")
    config = read_json(folder, "config.json")
    try:
        shape = DecoderConfig.from_hugging_face(config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    tensors = {}
    for name in weight_files(folder):
        for tensor, read in read_safetensors(inside(folder, name)).items():
            if tensor in tensors:
                raise ValueError(f"{folder / name} must not repeat tensors of other files, got {short(tensor)}")
            tensors[tensor] = read
    return shape, tensors, read_tokenizer(folder, config)


def weight_files(folder: Path) -> list[str]:
    """Returns the names of the files of a folder that hold weights, in order.

    Raises:
      ValueError: if the index is damaged.
    """
    name = "model.safetensors.index.json"
    if not exists(folder, name):
        return ["model.safetensors"]
    files = read_json(folder, name).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise ValueError(f"weight_map in {folder / name} must be a dict from tensors to files, got {short(files)}")
    return sorted(set(files.values()))


def read_safetensors(path: Path) -> Tensors:
    """Returns the functions that read the tensors of a file.

    Raises:
      ValueError: if the file is damaged; one line with its path. The package checks that tensors lie within the file
        and do not overlap.
    """
    safetensors = package("safetensors")

    def get(tensor: str) -> np.ndarray:
        try:
            return file.get_tensor(tensor)
        except (safetensors.SafetensorError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: {short(tensor)} cannot be read: {short_text(error)}") from error

    try:
        file = safetensors.safe_open(path, "numpy")
        return {tensor: functools.partial(get, tensor) for tensor in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {short_text(error)}") from error


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], tokenizer: Tokenizer | None
) -> None:
    """Writes a folder, which is created if it does not exist, with this config.json, tensors and tokenizer."""
    write = package("safetensors.numpy").save_file
    folder.mkdir(parents=True, exist_ok=True)
    tokens = {} if tokenizer is None else write_tokenizer(folder, tokenizer)
    (folder / "config.json").write_text(json.dumps({**config, **tokens}, indent=2), "utf-8")
    write(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def from_hub(name: str) -> Path:
    """Downloads a model from the Hugging Face hub, unless it is in the cache, and returns its folder.

    Raises:
      ValueError: if the download fails.
    """
    wanted = ["*.json", "*.safetensors", "*.jinja"]
    try:
        return Path(package("huggingface_hub").snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"path must name a model that can be fetched, got 'hub:{name}': {reason}") from error
