"""The tokenizer of a pretrained model, with its chat template."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gaejax.language.files.packages import package


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
        if self.template is None:
            raise ValueError("chat needs a model with a chat template, got one without: write the prompt yourself")

        def refuse(reason: str) -> None:
            raise ValueError(f"messages must suit the model's chat template: {reason}")

        def spelled(token: int | None) -> str:
            return "" if token is None else self.backend.id_to_token(token)

        jinja = package("jinja2.sandbox").ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        return jinja.from_string(self.template).render(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=spelled(self.bos),
            eos_token=spelled(self.eos),
            raise_exception=refuse,
        )


def make_tokenizer(backend: Any, eos: int | None, pad: int | None, bos: int | None, template: str | None) -> Tokenizer:
    """Returns a `Tokenizer` of a file's entries; raises ValueError if there is no EOS token."""
    if eos is None:
        raise ValueError("tokenizer must have an eos token: name it as eos_token in tokenizer_config.json")
    return Tokenizer(backend, eos, eos if pad is None else pad, bos, template)


def read_tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer | None:
    """Reads the tokenizer of a Hugging Face folder, given its `config.json`; None if it has no `tokenizer.json`."""
    if not (folder / "tokenizer.json").exists():
        return None
    backend = package("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_padding()
    backend.no_truncation()
    file = folder / "tokenizer_config.json"
    options = json.loads(file.read_text("utf-8")) if file.exists() else {}

    def token(name: str) -> int | None:
        spelled = options.get(f"{name}_token")
        spelled = spelled["content"] if isinstance(spelled, dict) else spelled
        found = config.get(f"{name}_token_id") if spelled is None else backend.token_to_id(spelled)
        return found[0] if isinstance(found, list) else found

    template = options.get("chat_template")
    if isinstance(template, list):
        template = {each["name"]: each["template"] for each in template}.get("default")
    if (file := folder / "chat_template.jinja").exists():
        template = file.read_text("utf-8")
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
