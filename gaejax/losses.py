"""Policy-gradient losses, element by element: the caller takes the masked mean."""

import jax
import jax.numpy as jnp


def clipped_surrogate_loss(log_ratios: jax.Array, advantages: jax.Array, clip_epsilon: jax.Array) -> jax.Array:
    """PPO's pessimistic surrogate, negated to be minimized (Schulman et al. 2017, arXiv:1707.06347, equation 7)."""
    ratios = jnp.exp(log_ratios)
    clipped = jnp.clip(ratios, 1 - clip_epsilon, 1 + clip_epsilon)
    return -jnp.minimum(ratios * advantages, clipped * advantages)


def value_loss(
    values: jax.Array,
    targets: jax.Array,
    old_values: jax.Array | None = None,
    clip_epsilon: jax.Array | None = None,
) -> jax.Array:
    """Half the squared error; with `clip_epsilon`, the larger of that and of the value kept near the old one.

    (The clipped form is that of OpenAI baselines; Andrychowicz et al. 2021, arXiv:2006.05990, find that it hurts.)
    """
    loss = jnp.square(values - targets)
    if clip_epsilon is not None:
        clipped_values = old_values + jnp.clip(values - old_values, -clip_epsilon, clip_epsilon)
        loss = jnp.maximum(loss, jnp.square(clipped_values - targets))
    return 0.5 * loss


def kl_estimate(log_ratios: jax.Array) -> jax.Array:
    """The non-negative estimate `ratio - 1 - log ratio` of KL(old || new) (Schulman 2020, "k3")."""
    return jnp.expm1(log_ratios) - log_ratios
