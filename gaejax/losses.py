"""Policy-gradient losses, element by element: the caller takes the masked mean."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Objective = Callable[[jax.Array, jax.Array, Any], jax.Array]
"""What a policy is asked for: `(log_ratios, advantages, config) -> losses`, all arrays of one shape."""


def policy_gradient_loss(log_ratios: jax.Array, advantages: jax.Array, config: Any = None) -> jax.Array:
    """The policy gradient's surrogate (Williams 1992): its gradient is that of the log-probabilities, weighted."""
    return -log_ratios * advantages


def clipped_surrogate_loss(
    log_ratios: jax.Array, advantages: jax.Array, clip_epsilon: jax.Array, clip_epsilon_high: jax.Array | None = None
) -> jax.Array:
    """PPO's pessimistic surrogate, negated to be minimized (Schulman et al. 2017, arXiv:1707.06347, equation 7);
    `clip_epsilon_high` is another bound above 1, to let the improbable rise ("clip-higher", Yu et al. 2025,
    arXiv:2503.14476)."""
    ratios = jnp.exp(log_ratios)
    high = clip_epsilon if clip_epsilon_high is None else clip_epsilon_high
    clipped = jnp.clip(ratios, 1 - clip_epsilon, 1 + high)
    return -jnp.minimum(ratios * advantages, clipped * advantages)


def kl_penalty_loss(log_ratios: jax.Array, advantages: jax.Array, kl_coefficient: jax.Array) -> jax.Array:
    """The unclipped surrogate with a penalty on KL(old || new), estimated at the old policy's actions by `kl_estimate`
    (Schulman et al. 2017, arXiv:1707.06347, equation 8). With coefficient 0 nothing keeps the policy."""
    return -jnp.exp(log_ratios) * advantages + kl_coefficient * kl_estimate(log_ratios)


def drift_loss(log_ratios: jax.Array, advantages: jax.Array, alpha: float = 2.0, beta: float = 0.6) -> jax.Array:
    """Discovered Policy Optimisation: the surrogate less a drift that is 0, with gradient 0, at ratio 1 (Lu et al.
    2022, arXiv:2210.05639, equation 6)."""
    gain, log_gain = jnp.expm1(log_ratios) * advantages, log_ratios * advantages
    positive = jax.nn.relu(gain - alpha * jnp.tanh(gain / alpha))
    negative = jax.nn.relu(log_gain - beta * jnp.tanh(log_gain / beta))
    return jnp.where(advantages >= 0, positive, negative) - jnp.exp(log_ratios) * advantages


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
