"""Advantage estimators: pure functions of time-major arrays `[T, ...]`, a few lines each on the recurrence."""

from typing import Any

import jax
import jax.numpy as jnp

from gaejax import checks
from gaejax.recurrence import isolated_product, reverse_linear_recurrence


def gae(
    *,
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    discount: Any,
    gae_lambda: Any,
    mask: Any = None,
    final_advantage: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """Generalized Advantage Estimation (Schulman et al. 2016, arXiv:1506.02438, equations 11 to 16).

        delta[t] = rewards[t] + discount * (0 if terminated[t] else next_values[t]) - values[t]
        A[t]     = delta[t] + discount * gae_lambda * (0 if terminated[t] or truncated[t] else A[t + 1])

    A terminated step's successor is worth 0. A truncated step's successor is real: its value is bootstrapped, while
    the sum over later deltas stops. Where both flags are set, termination wins. Nothing behind a boundary, not even a
    NaN, reaches an earlier advantage or a gradient.

    Args:
      rewards: `[T, ...]` floats, the reward of step t.
      values: `[T, ...]` floats, the critic's value of the observation at step t.
      next_values: `[T, ...]` floats, the value of step t's successor: at a truncated step that of the episode's final
        observation, never of the observation after a reset. Ignored where `terminated`.
      terminated: `[T, ...]` booleans: the successor is worth 0.
      truncated: `[T, ...]` booleans: the episode (or its recording) was cut behind step t.
      discount: gamma, a scalar or an array of the rewards' rank with axes of size 1 or full.
      gae_lambda: lambda, like `discount`.
      mask: optional `[T, ...]` booleans, true for the steps that count. A masked step is as if deleted: its reward is
        dropped and the step before it continues with the next kept step of the segment, whose value is then read
        instead of `next_values` (which is read at truncated steps and at the array's end). Its flags still cut.
      final_advantage: `[...]`, the advantage behind the last step. Default: zeros. A long trajectory cut in two gives
        the advantages of the whole when the first half is given the second half's `advantages[0]`.

    Returns:
      `(advantages, value_targets)`, each `[T, ...]`; `value_targets = advantages + values` is the lambda-return. At a
      masked step the advantage is that of the next kept step (what a cut there must carry over), the target is 0.
      Differentiable in every float argument.

    Raises:
      TypeError, ValueError: if an argument has the wrong dtype or shape; the message names it.
    """
    rewards, values, next_values = (
        checks.as_float(name, array)
        for name, array in (("rewards", rewards), ("values", values), ("next_values", next_values))
    )
    terminated, truncated = checks.as_bool("terminated", terminated), checks.as_bool("truncated", truncated)
    mask = None if mask is None else checks.as_bool("mask", mask)
    if rewards.ndim == 0 or rewards.shape[0] == 0:
        raise ValueError(f"rewards must have a leading time axis of at least one step, got shape {rewards.shape}")
    arrays = dict(values=values, next_values=next_values, terminated=terminated, truncated=truncated, mask=mask)
    for name, array in arrays.items():
        if array is not None:
            checks.same_shape(name, array, rewards.shape, "rewards")
    dtype = jnp.result_type(rewards, values, next_values)
    discount = checks.as_float("discount", discount).astype(dtype)
    gae_lambda = checks.as_float("gae_lambda", gae_lambda).astype(dtype)
    checks.broadcastable("discount", discount, rewards.shape, "rewards")
    checks.broadcastable("gae_lambda", gae_lambda, rewards.shape, "rewards")
    if final_advantage is not None:
        final_advantage = checks.as_float("final_advantage", final_advantage)
        checks.same_shape("final_advantage", final_advantage, rewards.shape[1:], "one step of rewards")

    if mask is not None:
        discount = jnp.where(mask, discount, 1)
        gae_lambda = jnp.where(mask, gae_lambda, 1)
        next_values = _next_kept_values(values, next_values, terminated, truncated, mask)
    successors = jnp.where(terminated, 0, next_values)
    deltas = rewards + isolated_product(discount, successors) - values
    if mask is not None:
        deltas = jnp.where(mask, deltas, 0)
    advantages = reverse_linear_recurrence(
        deltas.astype(dtype), discount * gae_lambda, final_advantage, reset=jnp.logical_or(terminated, truncated)
    )
    value_targets = advantages + values
    return advantages, value_targets if mask is None else jnp.where(mask, value_targets, 0)


def _next_kept_values(
    values: jax.Array, next_values: jax.Array, terminated: jax.Array, truncated: jax.Array, mask: jax.Array
) -> jax.Array:
    """The value of each step's successor when masked steps are passed over, `[T, ...]`."""
    # The value seen on arriving at step t: its own if it is kept, else that of its own successor.
    own = jnp.where(mask, values, jnp.where(truncated & ~terminated, next_values, 0))
    arriving = reverse_linear_recurrence(own, 1.0, next_values[-1], reset=mask | terminated | truncated)
    following = jnp.concatenate([arriving[1:], next_values[-1:]])
    return jnp.where(truncated, next_values, following)
