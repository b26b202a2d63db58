"""Files and strings as arrays of tokens: prompts to respond to, and texts to learn from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.language.data.prompts import Prompts


class Encoder(Protocol):
    """Turns strings into tokens; a `Tokenizer` is one."""

    def encode(self, text: str, /) -> Sequence[int]:
        """Returns the tokens of a text, without special ones."""
        ...


class EncoderWithEnd(Encoder, Protocol):
    """An `Encoder` that has an end-of-text token; a `Tokenizer` is one."""

    @property
    def eos(self) -> int:
        """The token that ends a response."""
        ...


class Texts(NamedTuple):
    """B prompts with their responses, padded on the right; the values of the padding do not matter.

    Attributes:
      tokens: `[B, L]`.
      prompt_lengths: `[B]`, at least 1.
      lengths: `[B]`, prompt and response together, EOS included.
    """

    tokens: jax.Array
    prompt_lengths: jax.Array
    lengths: jax.Array


def read_jsonl(path: Path | str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Reads a file with one JSON object per line.

    Args:
      path: The file.
      fields: Names of the fields that every object must have, with strings as values.

    Raises:
      ValueError: naming the file and the line, if there is no such file, it is empty, or a line is not such an object.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} must be a file with one JSON object per line, and there is no such file")
    lines = Path(path).read_bytes().rstrip().split(b"\n")  # splitlines would cut strings that hold other separators
    if lines == [b""]:
        raise ValueError(f"{path} is empty: it must hold one JSON object per line, with the fields {', '.join(fields)}")
    return [_object(f"{path}, line {number}", line, fields) for number, line in enumerate(lines, start=1)]


def _object(where: str, line: bytes, fields: Sequence[str]) -> dict[str, Any]:
    """Parses a line; raises ValueError, beginning with `where`, if it is not an object with these fields."""
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{where}: must be a JSON object, got {line[:40]!r} ({getattr(error, 'msg', error)})"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: must be a JSON object, got {line[:40]!r}")
    for name in fields:
        if not isinstance(found.get(name), str):
            got = f"got {json.dumps(found[name])[:40]}" if name in found else f"which is not among {', '.join(found)}"
            raise ValueError(f"{where}: must have a string in the field {name!r}, {got}")
    return found


def encode_prompts(prompts: Sequence[str], tokenizer: Encoder, max_length: int | None = None) -> Prompts:
    """Encodes strings as prompts for `token_environment(tokens, lengths=lengths)` and `generate`.

    Args:
      prompts: P strings.
      tokenizer: A `Tokenizer`, or anything with its `encode`.
      max_length: The width L of the array. None: the longest prompt's.

    Returns:
      Tokens `[P, L]`, padded on the right with 0, and lengths `[P]`, int32.

    Raises:
      ValueError: naming the prompt by its number (from 1), if it is empty or too long.
    """
    return Prompts(*_padded([_prompt(*each, tokenizer) for each in enumerate(prompts, start=1)], "prompt", max_length))


def encode_pairs(
    prompts: Sequence[str], responses: Sequence[str], tokenizer: EncoderWithEnd, max_length: int | None = None
) -> Texts:
    """Encodes prompts and the responses to them, each ended by EOS, as texts to learn from.

    Prompt and response are encoded separately, since a policy is given the prompt alone. Preferences are two of these:
    the chosen and the rejected responses to the same prompts.

    Args:
      prompts: B strings.
      responses: B strings, which may be empty.
      tokenizer: A `Tokenizer`, or anything with its `encode` and `eos`.
      max_length: The width L of the array. None: the longest text's.

    Returns:
      Texts `[B, L]`, padded on the right with 0.

    Raises:
      ValueError: naming the text by its number (from 1), if a prompt is empty or a text too long; or if there are not
        as many responses as prompts.
    """
    if len(responses) != len(prompts):
        raise ValueError(f"responses must be as many as prompts, {len(prompts)}, got {len(responses)}")
    starts = [_prompt(*each, tokenizer) for each in enumerate(prompts, start=1)]
    texts = [
        [*start, *tokenizer.encode(response), tokenizer.eos] for start, response in zip(starts, responses, strict=True)
    ]
    tokens, lengths = _padded(texts, "text", max_length)
    return Texts(tokens, jnp.asarray([len(start) for start in starts], jnp.int32), lengths)


def _prompt(number: int, prompt: str, tokenizer: Encoder) -> list[int]:
    """Returns the tokens of a prompt; raises ValueError if there are none."""
    tokens = list(tokenizer.encode(prompt))
    if not tokens:
        raise ValueError(f"prompt {number} must have at least one token, got {prompt!r}")
    return tokens


def _padded(texts: list[list[int]], what: str, max_length: int | None) -> tuple[jax.Array, jax.Array]:
    """Pads texts of any lengths to an array `[B, L]`; also returns their lengths `[B]`."""
    if not texts:
        raise ValueError("prompts must hold at least one string, got none")
    lengths = np.array([len(text) for text in texts], np.int32)
    longest = int(lengths.argmax())
    width = int(lengths[longest]) if max_length is None else max_length
    if lengths[longest] > width:
        raise ValueError(f"max_length must be at least {lengths[longest]} for {what} {longest + 1}, got {max_length}")
    tokens = np.zeros((len(texts), width), np.int32)
    tokens[np.arange(width) < lengths[:, None]] = np.concatenate(texts)
    return jnp.asarray(tokens), jnp.asarray(lengths)
