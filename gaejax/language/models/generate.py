"""Text from a policy, on its own `apply`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.policies.attention import Cache
from gaejax.policies.core import Policy


class Generation(NamedTuple):
    """Responses `[B, max_new]` (EOS behind their end), and their lengths `[B]`, the EOS that ends one included."""

    tokens: jax.Array
    lengths: jax.Array


def generate(
    policy: Policy,
    params: Any,
    prompts: jax.Array,
    lengths: jax.Array,
    max_new: int,
    key: jax.Array,
    *,
    eos: int,
    greedy: bool = False,
) -> Generation:
    """Continues prompts until EOS, on the policy's own `apply`: one pass over all prompts, then one token at a time.

    Prompts are shifted so that they end together; a row's padding lies before its reset, and is forgotten there.

    Args:
      policy, params: whose distribution writes.
      prompts, lengths: integers `[B, L]` from the left, and how many of each row count, `[B]`.
      max_new: the most tokens of a response, static.
      key: randomness of the samples.
      eos: the token that ends a response.
      greedy: whether to take each distribution's mode instead of a sample.

    Raises:
      ValueError: if prompt and response do not fit the policy's context.
    """
    prompts, lengths = jnp.asarray(prompts), jnp.asarray(lengths)
    batch, size = prompts.shape
    carry = policy.initial_carry(batch)
    is_cache = lambda node: isinstance(node, Cache)  # noqa: E731
    for cache in filter(is_cache, jax.tree.leaves(carry, is_leaf=is_cache)):
        if size + max_new - 1 > (context := cache.positions.shape[1]):
            total = f"prompts of {size} tokens with max_new = {max_new}"
            raise ValueError(f"{total} need {size + max_new - 1} steps, more than the policy's context of {context}")
    column = jnp.arange(size)
    shifted = jnp.take_along_axis(prompts, (column - (size - lengths[:, None])) % size, axis=1).T
    resets = column[:, None] == size - lengths
    if size > 1:  # all but the last, whose distributions are of no use
        carry = policy.apply(params, carry, shifted[:-1], resets[:-1])[0]

    def unfinished(loop: tuple) -> jax.Array:
        index, _, _, ended, _, _ = loop
        return (index < max_new) & ~jnp.all(ended)

    def step(loop: tuple) -> tuple:
        index, carry, tokens, ended, token, reset = loop
        carry, distributions, _ = policy.apply(params, carry, token[None], reset[None])
        chosen = distributions.mode() if greedy else distributions.sample(jax.random.fold_in(key, index))
        token = jnp.where(ended, eos, chosen[0]).astype(jnp.int32)
        return index + 1, carry, tokens.at[:, index].set(token), ended | (token == eos), token, jnp.zeros_like(reset)

    tokens, nothing = jnp.full((batch, max_new), eos, jnp.int32), jnp.zeros(batch, bool)
    start = (0, carry, tokens, nothing, shifted[-1].astype(jnp.int32), resets[-1])
    tokens = jax.lax.while_loop(unfinished, step, start)[2]
    ends = jnp.cumsum(tokens == eos, axis=1) > 0
    return Generation(tokens, jnp.minimum(jnp.sum(~ends, axis=1) + 1, max_new))
