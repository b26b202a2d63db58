"""From files and strings to arrays of tokens: prompts to respond to, and texts to learn from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.language.data.prompts import Prompts


class Texts(NamedTuple):
    """Prompts with their responses, one text a row, padded on the right (what the padding holds does not matter).

    Attributes:
      tokens: `[B, L]`.
      prompt_lengths: `[B]`, at least 1.
      lengths: `[B]`, of prompt and response together, EOS included.
    """

    tokens: jax.Array
    prompt_lengths: jax.Array
    lengths: jax.Array


def read_jsonl(path: Path | str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of a file, each a JSON object that has these fields as strings.

    Raises:
      ValueError: in one line, naming the file and the line's number, for anything else, and for an empty file.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} is no file: it must hold one JSON object a line")
    lines = Path(path).read_bytes().rstrip().split(b"\n")  # splitlines would cut strings that hold other separators
    if lines == [b""]:
        raise ValueError(f"{path} is empty: it must hold one JSON object a line, with the fields {', '.join(fields)}")
    return [_object(f"{path}, line {number}", line, fields) for number, line in enumerate(lines, start=1)]


def _object(where: str, line: bytes, fields: Sequence[str]) -> dict[str, Any]:
    """The JSON object of a line."""
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


def encode_prompts(prompts: Sequence[str], tokenizer: Any, max_length: int | None = None) -> Prompts:
    """Strings as arrays for `token_environment(tokens, lengths=lengths)` and for `generate`.

    Args:
      prompts: P strings.
      tokenizer: has `encode(str) -> list[int]`.
      max_length: the width L of the array; None: what the longest needs.

    Returns:
      Tokens `[P, L]`, padded on the right with 0, and lengths `[P]`, int32.

    Raises:
      ValueError: in one line, with the prompt's number (from 1), for one that is empty or too long.
    """
    return Prompts(*_padded([_prompt(*each, tokenizer) for each in enumerate(prompts, start=1)], "prompt", max_length))


def encode_pairs(
    prompts: Sequence[str], responses: Sequence[str], tokenizer: Any, max_length: int | None = None
) -> Texts:
    """Prompts and the responses to them, EOS behind each, as texts to learn from.

    Both are encoded apart, since a policy is given the prompt alone. Preferences are two of these: the chosen responses
    to some prompts, and the rejected ones to the same.

    Args:
      prompts, responses: B strings each; a response may be empty.
      tokenizer: has `encode(str) -> list[int]` and `eos: int`.
      max_length: the width L of the array; None: what the longest needs.

    Raises:
      ValueError: in one line, with the text's number (from 1), for an empty prompt or a text that is too long.
    """
    if len(responses) != len(prompts):
        raise ValueError(f"responses must be as many as the {len(prompts)} prompts, got {len(responses)}")
    starts = [_prompt(*each, tokenizer) for each in enumerate(prompts, start=1)]
    texts = [
        [*start, *tokenizer.encode(response), tokenizer.eos] for start, response in zip(starts, responses, strict=True)
    ]
    tokens, lengths = _padded(texts, "text", max_length)
    return Texts(tokens, jnp.asarray([len(start) for start in starts], jnp.int32), lengths)


def _prompt(number: int, prompt: str, tokenizer: Any) -> list[int]:
    """The tokens of a prompt, at least one."""
    tokens = list(tokenizer.encode(prompt))
    if not tokens:
        raise ValueError(f"prompt {number} must have a token, and {prompt!r} has none")
    return tokens


def _padded(rows: list[list[int]], what: str, max_length: int | None) -> tuple[jax.Array, jax.Array]:
    """Rows of any lengths as `[B, L]`, with their lengths `[B]`."""
    if not rows:
        raise ValueError("prompts must hold at least one string, got none")
    lengths = np.array([len(row) for row in rows], np.int32)
    longest = int(lengths.argmax())
    width = lengths[longest] if max_length is None else max_length
    if lengths[longest] > width:
        raise ValueError(f"max_length must be at least {lengths[longest]} for {what} {longest + 1}, got {max_length}")
    tokens = np.zeros((len(rows), width), np.int32)
    tokens[np.arange(width) < lengths[:, None]] = np.concatenate(rows)
    return jnp.asarray(tokens), jnp.asarray(lengths)
