"""Models as folders in Hugging Face's format: config.json, safetensors and tokenizer.json."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gaejax.language.files.layout import Tensors
from gaejax.language.files.packages import package
from gaejax.language.files.tokenizer import Tokenizer, read_tokenizer, write_tokenizer
from gaejax.language.models.config import DecoderConfig


def read_folder(folder: Path) -> tuple[DecoderConfig, Tensors, Tokenizer | None]:
    """Reads a folder's configuration and tokenizer; its tensors are read when called for.

    Raises:
      ValueError: if the folder has no config.json or lacks weights.
    """
    if not (folder / "config.json").exists():
        raise ValueError(f"path must be a folder with a model's config.json, and {folder} has none")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    shape = DecoderConfig.from_hugging_face(config)
    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"}
    if index.exists():
        files = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    tensors = {}
    for name in sorted(files):
        if not (folder / name).exists():
            raise ValueError(f"path must be a folder with the model's weights, and {folder} has no {name}")
        file = package("safetensors").safe_open(folder / name, "numpy")
        tensors |= {tensor: functools.partial(file.get_tensor, tensor) for tensor in file.keys()}  # noqa: SIM118
    return shape, tensors, read_tokenizer(folder, config)


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
