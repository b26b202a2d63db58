"""Credit assignment for tokens: lambdas that depend on the length, aggregation over responses, critic warm-up."""

import functools
from collections.abc import Callable
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp

from gaejax import rows
from gaejax.advantages import (
    Steps,
    decoupled_gae,
    length_adaptive_lambda,
    relative_position_lambda,
    segment_lengths,
)
from gaejax.estimators import as_estimator, takes_inputs
from gaejax.statistics import standardize


def length_adaptive_gae(alpha: float = 0.05, floor: float = 0.0, value_lambda: float = 1.0) -> Callable:
    """Returns an estimator whose lambda grows with each response's length: `1 - 1 / (alpha * length)` (VAPO, Yue et al.
    2025, arXiv:2504.05118, equation 10).

    Args:
      alpha: How fast lambda approaches 1.
      floor: Lower bound of lambda.
      value_lambda: Lambda of the value targets.
    """

    def estimator(**steps: Unpack[Steps]) -> tuple[jax.Array, jax.Array]:
        lambdas = length_adaptive_lambda(_lengths(steps), alpha, floor)
        return decoupled_gae(**steps, gae_lambda=lambdas, value_lambda=value_lambda)

    return estimator


def relative_position_gae(fraction: float = 0.5, value_lambda: float = 1.0) -> Callable:
    """Returns an estimator with a lambda by which the last token's delta has the weight `fraction` in the first token's
    advantage, whatever the response's length.

    Args:
      fraction: That weight.
      value_lambda: Lambda of the value targets.
    """

    def estimator(**steps: Unpack[Steps]) -> tuple[jax.Array, jax.Array]:
        lambdas = relative_position_lambda(_lengths(steps), fraction)
        return decoupled_gae(**steps, gae_lambda=lambdas, value_lambda=value_lambda)

    return estimator


def aggregated(
    estimator: Callable[..., Any] | str,
    over: Literal["sequence", "constant"],
    *,
    max_length: int | None = None,
    normalize: bool = False,
) -> Callable:
    """Returns an estimator whose advantages are weighted, so that the loss's mean over tokens aggregates differently.

    Surrogate losses are proportional to the advantage, so weighting advantages weights the loss. The config's
    `advantage_normalization` must be "none", since normalization would divide by the spread of the weights.

    Args:
      estimator: The estimator whose advantages are weighted, as in `gaejax.ppo`; value targets are not weighted.
      over: "sequence": each response has the same weight, shared among its tokens (GRPO); "constant": losses are summed
        over tokens and divided by the number of responses times `max_length` (Dr. GRPO). Without `aggregated`, all
        tokens have the same weight (DAPO, VAPO).
      max_length: Maximum length of a response, for "constant".
      normalize: Whether to standardize the advantages over the rollout first.

    Raises:
      ValueError: if `over` is unknown, or `max_length` is missing for "constant" or given without it.
    """
    if over not in ("sequence", "constant") or (over == "constant") != (max_length is not None):
        raise ValueError(f"over must be 'sequence', or 'constant' with a max_length, got {over!r} with {max_length}")

    def weighted(estimates: tuple[jax.Array, jax.Array], steps: Any) -> tuple[jax.Array, jax.Array]:
        (advantages, value_targets), mask = estimates, steps["mask"]
        if normalize:
            advantages = standardize(advantages, mask)
        lengths = jnp.maximum(_lengths(steps), 1)
        responses = jnp.maximum(rows.total(jnp.where(mask, 1 / lengths, 0)), 1)
        divisor: Any = lengths if over == "sequence" else max_length
        return advantages * (rows.total(mask) / responses) / divisor, value_targets

    if isinstance(estimator, str) or takes_inputs(estimator):
        estimate = as_estimator(estimator)
        return lambda inputs: weighted(estimate(inputs), inputs.steps())

    @functools.wraps(estimator)  # it is called as the estimator is
    def with_keywords(**given: Any) -> tuple[jax.Array, jax.Array]:
        return weighted(estimator(**given), given)

    return with_keywords


def _lengths(steps: Any) -> jax.Array:
    """Returns the number of trainable tokens `[T, N]` of the response that each token belongs to."""
    flags = steps["terminated"], steps["truncated"]
    return segment_lengths(terminated=flags[0], truncated=flags[1], mask=steps.get("mask"))


def critic_warm_up(fraction: float) -> dict[str, Callable]:
    """Returns schedules under which only the critic learns at first (value pretraining in VC-PPO, Yuan et al. 2025,
    arXiv:2503.01491): until then, the coefficients of the policy's objective and of the entropy bonus are 0.

    Meanwhile a policy whose critic has a trunk of its own does not change at all; a policy that shares its trunk with
    the critic does.

    Args:
      fraction: Fraction of the schedules' `anneal_steps` in which only the critic learns.

    Raises:
      ValueError: if `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")

    def afterwards(progress: jax.Array) -> jax.Array:
        return jnp.where(progress < fraction, 0.0, 1.0)

    return {"policy_coefficient": afterwards, "entropy_coefficient": afterwards}
