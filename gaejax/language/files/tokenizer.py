"""The tokenizer of a pretrained model, with its chat template."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gaejax._arguments import short
from gaejax.language.files.inside import exists, inside, read_json, read_text, short_text
from gaejax.language.files.packages import package
from gaejax.language.files.templates import render


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a pretrained model.

    Attributes:
      backend: A `tokenizers.Tokenizer`.
      eos: The token that ends a response.
      pad: The padding token; eos if the model has none.
      bos: The token that begins a text, if the model has one.
      template: The chat template, in Jinja; None if the model has none.
    """

    backend: Any
    eos: int
    pad: int
    bos: int | None = None
    template: str | None = None

    @property
    def vocab_size(self) -> int:
        """One more than the largest token."""
        return max(self.backend.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text. No special tokens are added; those that the text spells out are recognized."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Iterable[int], *, special: bool = False) -> str:
        """Returns the text of tokens `[L]`; special tokens are left out unless `special`."""
        return self.backend.decode(np.asarray(tokens, int).tolist(), skip_special_tokens=not special)

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Renders a conversation with the model's chat template.

        Args:
          messages: Messages such as `{"role": "user", "content": "..."}`, in order.
          add_generation_prompt: Whether to end with the beginning of the model's answer.

        Raises:
          ValueError: if the model has no template, or its template refuses these messages.
        """
        return self.chats([messages], add_generation_prompt)[0]

    def chats(
        self, conversations: Sequence[Sequence[Mapping[str, str]]], add_generation_prompt: bool = True
    ) -> list[str]:
        """Renders several conversations, as `chat` does each; a template is started once for all of them."""
        if self.template is None:
            raise ValueError("chat needs a model with a chat template, got one without: write the prompt yourself")

        def spelled(token: int | None) -> str:
            return "" if token is None else self.backend.id_to_token(token)

        variables = dict(
            add_generation_prompt=add_generation_prompt, bos_token=spelled(self.bos), eos_token=spelled(self.eos)
        )
        return render(self.template, conversations, variables)


def make_tokenizer(backend: Any, eos: int | None, pad: int | None, bos: int | None, template: str | None) -> Tokenizer:
    """Returns a `Tokenizer` of a file's entries; raises ValueError if there is no EOS token, or an entry is of another
    type or not in the vocabulary."""
    if eos is None:
        raise ValueError("tokenizer must have an eos token: name it as eos_token in tokenizer_config.json")
    if not (vocabulary := backend.get_vocab()):
        raise ValueError("tokenizer must have tokens, got none")
    size = max(vocabulary.values()) + 1
    pad = None if pad == -1 else pad  # as some files write that there is none
    for name, token in (("eos", eos), ("pad", pad), ("bos", bos)):
        whole = isinstance(token, int) and not isinstance(token, bool)
        if token is not None and not (whole and 0 <= token < size):
            raise ValueError(f"the {name} token must be a whole number from 0 to {size - 1}, got {short(token)}")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"chat_template must be a text, got {short(template)}")
    return Tokenizer(backend, eos, eos if pad is None else pad, bos, template)


def read_tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer | None:
    """Reads the tokenizer of a Hugging Face folder, given its `config.json`; None if it has no `tokenizer.json`."""
    if not exists(folder, "tokenizer.json"):
        return None
    file = inside(folder, "tokenizer.json")
    try:
        backend = package("tokenizers").Tokenizer.from_file(str(file))
    except ImportError:
        raise
    except Exception as error:  # the package raises no other class
        raise ValueError(f"{file} must be a tokenizer of Hugging Face: {short_text(error)}") from None
    backend.no_padding()
    backend.no_truncation()
    options = read_json(folder, "tokenizer_config.json") if exists(folder, "tokenizer_config.json") else {}

    def token(name: str) -> Any:
        spelled = options.get(f"{name}_token")
        spelled = spelled.get("content") if isinstance(spelled, dict) else spelled
        if spelled is not None and not isinstance(spelled, str):
            raise ValueError(f"{name}_token in tokenizer_config.json must be a text, got {short(spelled)}")
        found = config.get(f"{name}_token_id") if spelled is None else backend.token_to_id(spelled)
        return (found[0] if found else None) if isinstance(found, list) else found

    template = options.get("chat_template")
    if isinstance(template, list):
        named = [each for each in template if isinstance(each, dict) and each.get("name") == "default"]
        template = named[-1].get("template") if named else None
    if exists(folder, "chat_template.jinja"):
        template = read_text(folder, "chat_template.jinja")
    return make_tokenizer(backend, token("eos"), token("pad"), token("bos"), template)


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> dict[str, int]:
    """Writes `tokenizer.json` and `tokenizer_config.json`; returns the entries that `config.json` has of them."""
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    special = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    special = {name: token for name, token in special.items() if token is not None}
    options = {f"{name}_token": tokenizer.backend.id_to_token(token) for name, token in special.items()}
    options |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if tokenizer.template is not None:
        options["chat_template"] = tokenizer.template
    (folder / "tokenizer_config.json").write_text(json.dumps(options, indent=2, ensure_ascii=False), "utf-8")
    return {f"{name}_token_id": token for name, token in special.items()}
