"""Credit for tokens: lambdas that know the length, aggregation, critic warm-up."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gaejax.advantages import (
    decoupled_gae,
    length_adaptive_lambda,
    relative_position_lambda,
    segment_lengths,
)
from gaejax.estimators import Estimator, EstimatorInputs, as_estimator
from gaejax.statistics import standardize


def length_adaptive_gae(alpha: float = 0.05, floor: float = 0.0, value_lambda: float = 1.0) -> Estimator:
    """An estimator whose lambda grows with each response's length, `1 - 1 / (alpha * length)` (VAPO, Yue et al. 2025,
    arXiv:2504.05118, equation 10), and whose value targets have a lambda of their own."""

    def estimator(inputs: EstimatorInputs) -> tuple[jax.Array, jax.Array]:
        lambdas = length_adaptive_lambda(lengths_of(inputs), alpha, floor)
        return decoupled_gae(**inputs.steps(), gae_lambda=lambdas, value_lambda=value_lambda)

    return estimator


def relative_position_gae(fraction: float = 0.5, value_lambda: float = 1.0) -> Estimator:
    """An estimator whose lambda lets the last token's delta reach the first with weight `fraction`, at any length."""

    def estimator(inputs: EstimatorInputs) -> tuple[jax.Array, jax.Array]:
        lambdas = relative_position_lambda(lengths_of(inputs), fraction)
        return decoupled_gae(**inputs.steps(), gae_lambda=lambdas, value_lambda=value_lambda)

    return estimator


def aggregated(
    estimator: Estimator | Callable[..., Any] | str,
    over: Literal["sequence", "constant"],
    *,
    max_length: int | None = None,
    normalize: bool = False,
) -> Estimator:
    """An estimator after which the mean over tokens, which losses take, has other weights.

    Surrogate losses are proportional to the advantage, so a weight of the one is a weight of the other. The config's
    `advantage_normalization` must be "none": it would divide by the weights' spread.

    Args:
      estimator: whose advantages are weighted; value targets are not.
      over: "sequence": each response weighs the same, its tokens share that (GRPO); "constant": tokens are summed and
        divided by responses times `max_length` (Dr. GRPO). Without either, all tokens weigh the same (DAPO, VAPO).
      max_length: of a response, for "constant".
      normalize: whether to standardize the advantages over the rollout before.
    """
    if over not in ("sequence", "constant") or (over == "constant") != (max_length is not None):
        raise ValueError(f"over must be 'sequence', or 'constant' with a max_length, got {over!r} with {max_length}")

    estimate = as_estimator(estimator)

    def weighted(inputs: EstimatorInputs) -> tuple[jax.Array, jax.Array]:
        advantages, value_targets = estimate(inputs)
        if normalize:
            advantages = standardize(advantages, inputs.mask)
        lengths = jnp.maximum(lengths_of(inputs), 1)
        responses = jnp.maximum(jnp.sum(jnp.where(inputs.mask, 1 / lengths, 0)), 1)
        per_response = jnp.sum(inputs.mask) / responses
        return advantages * per_response / (lengths if over == "sequence" else max_length), value_targets

    return weighted


def lengths_of(inputs: EstimatorInputs) -> jax.Array:
    """Returns the number of trainable tokens `[T, N]` of the response that each token belongs to."""
    return segment_lengths(terminated=inputs.terminated, truncated=inputs.truncated, mask=inputs.mask)


def critic_warm_up(fraction: float) -> dict[str, Callable]:
    """Schedules under which only the critic learns at first (VC-PPO's value pretraining, Yuan et al. 2025,
    arXiv:2503.01491): the policy's objective and the entropy bonus are off.

    A policy whose critic has a trunk of its own stays exactly where it is meanwhile; one whose trunk is shared moves
    with it.

    Args:
      fraction: of `anneal_steps`, over which schedules run.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")

    def behind(progress: jax.Array) -> jax.Array:
        return jnp.where(progress < fraction, 0.0, 1.0)

    return {"policy_coefficient": behind, "entropy_coefficient": behind}
