"""Prompts and texts as environments and rewards see them, and their validation before anything is compiled."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

NUM_PROBES = 16


class Sampler(Protocol):
    """Draws prompts; a pure function."""

    def __call__(self, key: jax.Array, params: Any, /) -> tuple[jax.Array, jax.Array, Any]:
        """Returns `(tokens [L], length, aux)`: integers, of which the first `length` count, and anything that rewards
        need to know of the prompt."""
        ...


class Text(NamedTuple):
    """A prompt and the response to it, as rewards see them. Padding after the lengths is 0.

    Attributes:
      prompt: Tokens `[L]`, of which `prompt_length` count.
      prompt_length: At least 1.
      response: Tokens `[R]`, of which `response_length` count, the EOS that ends it included.
      response_length: Number of tokens so far.
      aux: What the sampler returned with the prompt (an answer, a seed); `()` if nothing.
    """

    prompt: jax.Array
    prompt_length: jax.Array
    response: jax.Array
    response_length: jax.Array
    aux: Any = ()


Reward = Callable[[Text], jax.Array]
"""The reward of one text, a scalar."""


class Prompts(NamedTuple):
    """Prompts as an array `[P, L]`, and their lengths `[P]`: the params of an environment made of them."""

    tokens: jax.Array
    lengths: jax.Array


def checked_prompts(prompts: Any, lengths: Any, vocab_size: int) -> Prompts:
    """Returns `Prompts` made of an array `[P, L]` and lengths `[P]` (default: L).

    Raises:
      TypeError: if `prompts` is not an array of integers `[P, L]`.
      ValueError: if lengths or tokens are out of range.
    """
    tokens = np.asarray(prompts)
    if tokens.ndim != 2 or not tokens.size or tokens.dtype.kind not in "iu":
        raise TypeError(f"prompts must be integers [P, L] or a sampler, got {tokens.dtype} of shape {tokens.shape}")
    lengths = np.full(len(tokens), tokens.shape[1]) if lengths is None else np.asarray(lengths)
    if lengths.shape != (len(tokens),) or lengths.dtype.kind not in "iu":
        raise ValueError(f"lengths must be integers [{len(tokens)}], got {lengths.dtype} of shape {lengths.shape}")
    if lengths.min() < 1 or lengths.max() > tokens.shape[1]:
        wrong = lengths.min() if lengths.min() < 1 else lengths.max()
        raise ValueError(f"lengths must be between 1 and the width of prompts, {tokens.shape[1]}, got {wrong}")
    written = tokens[np.arange(tokens.shape[1]) < lengths[:, None]]
    if written.min() < 0 or written.max() >= vocab_size:
        wrong = written.min() if written.min() < 0 else written.max()
        raise ValueError(f"prompts must hold tokens of the vocabulary, 0 .. {vocab_size - 1}, got {wrong}")
    return Prompts(jnp.asarray(tokens, jnp.int32), jnp.asarray(lengths, jnp.int32))


def check_reward(reward: Reward, sample: Sampler, params: Any, vocab_size: int, max_response: int) -> None:
    """Raises ValueError if `reward` does not return one finite number for each of some random texts."""

    def probe(key: jax.Array) -> Any:
        tokens, length, aux = sample(key, params)
        response_key, length_key = jax.random.split(key)
        response = jax.random.randint(response_key, (max_response,), 0, vocab_size)
        response_length = jax.random.randint(length_key, (), 1, max_response + 1)
        response = jnp.where(jnp.arange(max_response) < response_length, response, 0)
        return reward(Text(jnp.asarray(tokens), jnp.asarray(length), response, response_length, aux))

    shape = getattr(jax.eval_shape(probe, jax.random.key(0)), "shape", None)
    if shape != ():
        raise ValueError(f"reward must return one number for each text, got shape {shape}")
    with jax.ensure_compile_time_eval():
        found = np.asarray(jax.jit(jax.vmap(probe))(jax.random.split(jax.random.key(0), NUM_PROBES)), np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"reward must be finite for every text, got {found[~np.isfinite(found)][0]} for a random one")


def draw(key: jax.Array, prompts: Prompts) -> tuple[jax.Array, jax.Array, tuple]:
    """Draws one of the prompts, with equal probabilities: a `Sampler`."""
    index = jax.random.randint(key, (), 0, prompts.lengths.shape[0])
    return prompts.tokens[index], prompts.lengths[index], ()


def prompt_size(sample: Sampler, params: Any) -> int:
    """Returns the width L of a sampler's prompts; raises ValueError or TypeError if it does not return prompts."""
    got = jax.eval_shape(sample, jax.random.key(0), params)
    if not isinstance(got, tuple) or len(got) != 3 or len(getattr(got[0], "shape", ())) != 1 or got[1].shape != ():
        shapes = jax.tree.map(np.shape, got)
        raise ValueError(f"prompts must be a sampler of (tokens [L], length, aux), got shapes {shapes}")
    if not (jnp.issubdtype(got[0].dtype, jnp.integer) and jnp.issubdtype(got[1].dtype, jnp.integer)):
        raise TypeError(f"prompts must be a sampler of integers, got {got[0].dtype} and lengths of {got[1].dtype}")
    return got[0].shape[0]


def key_of_group(key: jax.Array, size: int) -> jax.Array:
    """Returns the key of the first environment of this environment's group, groups being `size` neighbours.

    A reset does not know its environment's index. Under `vmap`, the custom rule sees the keys of all environments and
    gives each the key of its group's first one. (Keys carry no gradient and the rule is one gather, so the function can
    be used inside `grad`, vmapped again, and sharded.)
    """

    @jax.custom_batching.custom_vmap
    def shared(key: jax.Array) -> jax.Array:
        return key

    @shared.def_vmap
    def rule(axis_size: int, in_batched: list, keys: jax.Array) -> tuple[jax.Array, bool]:
        return keys[jnp.arange(axis_size) // size * size], True

    return shared(key)
