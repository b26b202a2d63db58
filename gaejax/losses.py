"""Policy-gradient losses, element by element: the caller takes the masked mean."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def clipped_surrogate_loss(log_ratios: jax.Array, advantages: jax.Array, clip_epsilon: jax.Array) -> jax.Array:
    """PPO's pessimistic surrogate, negated to be minimized (Schulman et al. 2017, arXiv:1707.06347, equation 7)."""
    ratios = jnp.exp(log_ratios)
    clipped = jnp.clip(ratios, 1 - clip_epsilon, 1 + clip_epsilon)
    return -jnp.minimum(ratios * advantages, clipped * advantages)


def value_loss(
    values: Any,
    targets: jax.Array,
    old_values: jax.Array | None = None,
    clip_epsilon: jax.Array | None = None,
    huber_delta: jax.Array | None = None,
) -> jax.Array:
    """What a critic's error costs, step by step.

    Half the squared error; with `huber_delta` linear beyond that error; with `clip_epsilon` the larger of that and of
    the value kept near the old one. (The clipped form is that of OpenAI baselines; Andrychowicz et al. 2021,
    arXiv:2006.05990, find that it hurts.) A histogram (`CategoricalValue`) has a loss of its own, its cross-entropy.

    Raises:
      ValueError: if a histogram's loss is to be clipped.
    """
    if not isinstance(values, jax.Array):
        if clip_epsilon is not None or huber_delta is not None:
            raise ValueError("value_clip_epsilon and huber_delta must be None where the critic predicts a histogram")
        return values.loss(targets)

    def loss(values: jax.Array) -> jax.Array:
        if huber_delta is None:
            return 0.5 * jnp.square(values - targets)
        return optax.losses.huber_loss(values, targets, delta=huber_delta)

    if clip_epsilon is None:
        return loss(values)
    return jnp.maximum(loss(values), loss(old_values + jnp.clip(values - old_values, -clip_epsilon, clip_epsilon)))


def kl_estimate(log_ratios: jax.Array) -> jax.Array:
    """The non-negative estimate `ratio - 1 - log ratio` of KL(old || new) (Schulman 2020, "k3")."""
    return jnp.expm1(log_ratios) - log_ratios
