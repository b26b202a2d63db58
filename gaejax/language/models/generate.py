"""Text generation with any policy over tokens."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.language.models.context import context_of
from gaejax.policies import Policy


class Generation(NamedTuple):
    """Generated responses.

    Attributes:
      tokens: `[B, max_new]`; EOS after each response's end.
      lengths: `[B]`, the EOS that ends a response included.
    """

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
    """Continues prompts until EOS with the policy's own `apply`: all prompts in one pass, then one token at a time.

    Prompts are shifted so that they end together; the padding then precedes each prompt's reset, where the policy
    forgets it.

    Args:
      policy: The policy that generates.
      params: Its parameters.
      prompts: Integers `[B, L]`, padded on the right.
      lengths: How many tokens of each prompt count, `[B]`.
      max_new: Maximum number of tokens of a response, static.
      key: Randomness of the samples.
      eos: The token that ends a response.
      greedy: Whether to take each distribution's mode instead of a sample.

    Returns:
      The responses and their lengths.

    Raises:
      ValueError: if prompt and response do not fit into the policy's context.
    """
    prompts, lengths = jnp.asarray(prompts), jnp.asarray(lengths)
    batch, size = prompts.shape
    context, steps = context_of(policy), size + max_new - 1
    if context is not None and steps > context:
        total = f"prompts of {size} tokens with max_new = {max_new}"
        raise ValueError(f"{total} need {steps} steps, more than the policy's context of {context}")
    carry = policy.initial_carry(batch)
    column = jnp.arange(size)
    shifted = jnp.take_along_axis(prompts, (column - (size - lengths[:, None])) % size, axis=1).T
    resets = column[:, None] == size - lengths
    if size > 1:  # all but the last token, after which the first new one is sampled
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
