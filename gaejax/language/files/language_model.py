"""Pretrained decoders: loaded from Hugging Face folders and .gguf files, saved as Hugging Face folders."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from gaejax.language.files.gguf import read_gguf
from gaejax.language.files.hugging_face import from_hub, read_folder, write_folder
from gaejax.language.files.layout import params_of, tensors_of
from gaejax.language.files.tokenizer import Tokenizer
from gaejax.language.models.config import DecoderConfig


class LanguageModel(NamedTuple):
    """A decoder with its weights.

    Attributes:
      config: Its shape.
      params: Params of `decoder_policy(config, value="none")`, float32.
      tokenizer: Its tokenizer; None if the files hold none.
    """

    config: DecoderConfig
    params: dict
    tokenizer: Tokenizer | None = None


def load(path: str | Path, *, context: int | None = None) -> LanguageModel:
    """Loads a model of the Llama or Qwen2 family (SmolLM2 is a Llama), with its weights as float32.

    Args:
      path: A folder as Hugging Face's libraries write it (config.json, safetensors, tokenizer.json), a .gguf file, or
        `"hub:owner/name"`, which is downloaded from the Hugging Face hub.
      context: Context length, instead of the model's own max_position_embeddings: every environment or prompt keeps a
        cache of that length.

    Raises:
      ImportError: if a package of the extra `language` is missing.
      ValueError: if the path holds no model of these families, or its tensors or tokenizer do not fit its config.
    """
    if context is not None and context < 1:
        raise ValueError(f"context must be at least 1, got {context}")
    path = from_hub(path[4:]) if isinstance(path, str) and path.startswith("hub:") else Path(path)
    try:
        return _loaded(path, context)
    except ImportError:
        raise
    except Exception as error:  # the files may come from anybody: whatever they make fail becomes one line
        said = " ".join(str(error).split())
        said = said if isinstance(error, ValueError) else f"{type(error).__name__}: {said[:200]}"
        raise ValueError(said if str(path) in said else f"{path}: {said}") from error


def _loaded(path: Path, context: int | None) -> LanguageModel:
    """Loads the model at a path."""
    if path.suffix == ".gguf" and path.is_file():
        config, tensors, tokenizer = read_gguf(path)
    elif path.is_dir():
        config, tensors, tokenizer = read_folder(path)
    else:
        problem = "another file is" if path.exists() else "nothing is"
        raise ValueError(f"path must be a folder, a .gguf file or 'hub:owner/name', but {problem} at {path}")
    if context is not None:
        config = dataclasses.replace(config, max_position_embeddings=context)
    config.validate()
    check_tokenizer(config, tokenizer)
    return LanguageModel(config, params_of(config, tensors), tokenizer)


def save(path: str | Path, model: LanguageModel) -> None:
    """Writes a model as a folder that `load` and Hugging Face's `AutoModelForCausalLM` read.

    The folder is created if it does not exist. The actor's trunk and the output head are written; a value head or a
    critic has no place in such a folder.

    Args:
      path: The folder.
      model: The model; its params may be those of any `decoder_policy(config)`.

    Raises:
      ImportError: if a package of the extra `language` is missing.
      ValueError: if positions are learned, or the params or the tokenizer do not fit the config.
    """
    config = model.config.to_hugging_face()
    check_tokenizer(model.config, model.tokenizer)
    write_folder(Path(path), config, tensors_of(model.config, model.params), model.tokenizer)


def check_tokenizer(config: DecoderConfig, tokenizer: Tokenizer | None) -> None:
    """Raises ValueError if the tokenizer has tokens that the model does not have."""
    if tokenizer is not None and (size := tokenizer.vocab_size) > config.vocab_size:
        raise ValueError(f"tokenizer must fit the model's vocab_size = {config.vocab_size}, got one of {size} tokens")
