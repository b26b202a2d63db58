"""Pretrained decoders: read from Hugging Face folders and .gguf files, written as Hugging Face folders."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gaejax.language.files.gguf import read_gguf
from gaejax.language.files.layout import params_of, tensors_of
from gaejax.language.files.packages import package
from gaejax.language.files.tokenizer import Tokenizer, read_tokenizer, write_tokenizer
from gaejax.language.models.config import DecoderConfig


class LanguageModel(NamedTuple):
    """A decoder with its weights.

    Attributes:
      config: its shape.
      params: of `decoder_policy(config, value="none")`, float32.
      tokenizer: None if the files hold none.
    """

    config: DecoderConfig
    params: dict
    tokenizer: Tokenizer | None = None


def load(path: str | Path, *, context: int | None = None) -> LanguageModel:
    """A model of the Llama or Qwen2 family (SmolLM2 is a Llama), its weights as float32.

    Args:
      path: of a folder as Hugging Face's libraries write it (config.json, safetensors, tokenizer.json), of a .gguf
        file, or `"hub:owner/name"`, which is fetched from the Hugging Face hub.
      context: instead of the model's own max_position_embeddings, as every row keeps a cache of that length.

    Raises:
      ImportError: if a package of the extra `language` is missing.
      ValueError: for a path that holds no model of these families, and for tensors or a tokenizer that do not fit its
        config.
    """
    if context is not None and context < 1:
        raise ValueError(f"context must be at least 1, got {context}")
    path = from_hub(path[4:]) if str(path).startswith("hub:") else Path(path)
    if path.suffix == ".gguf" and path.is_file():
        config, tensors, tokenizer = read_gguf(path)
    elif path.is_dir():
        config, tensors, tokenizer = read_folder(path)
    else:
        problem = "got another file" if path.exists() else "and there is nothing"
        raise ValueError(f"path must be a folder, a .gguf file or 'hub:owner/name', {problem} at {path}")
    if context is not None:
        config = dataclasses.replace(config, max_position_embeddings=context)
    config.validate()
    check_tokenizer(config, tokenizer)
    return LanguageModel(config, params_of(config, tensors), tokenizer)


def save(path: str | Path, model: LanguageModel) -> None:
    """Writes a model as a folder that `load` and Hugging Face's `AutoModelForCausalLM` read, made if need be.

    Of the params, the actor and the head are written; a value head or a critic has no place in such a folder.

    Raises:
      ImportError: if a package of the extra `language` is missing.
      ValueError: for learned positions, and for params or a tokenizer that do not fit the config.
    """
    folder, config = Path(path), model.config.to_hugging_face()
    check_tokenizer(model.config, model.tokenizer)
    tensors = tensors_of(model.config, model.params)
    write = package("safetensors.numpy").save_file
    folder.mkdir(parents=True, exist_ok=True)
    if model.tokenizer is not None:
        config |= write_tokenizer(folder, model.tokenizer)
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    write(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def read_folder(folder: Path) -> tuple[DecoderConfig, dict[str, Callable[[], np.ndarray]], Tokenizer | None]:
    """The configuration, how to read each tensor, and the tokenizer of a Hugging Face folder."""
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


def from_hub(name: str) -> Path:
    """Where the Hugging Face hub's files of a model lie once they are fetched."""
    wanted = ["*.json", "*.safetensors", "*.jinja"]
    try:
        return Path(package("huggingface_hub").snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"path must name a model that can be fetched, got 'hub:{name}': {reason}") from error


def check_tokenizer(config: DecoderConfig, tokenizer: Tokenizer | None) -> None:
    """Raises ValueError if the tokenizer writes tokens that the model does not know."""
    if tokenizer is not None and (size := tokenizer.vocab_size) > config.vocab_size:
        raise ValueError(f"tokenizer must fit the model's vocab_size = {config.vocab_size}, got one of {size} tokens")
