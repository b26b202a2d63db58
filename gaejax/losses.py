"""Losses: of policies and critics, element by element, and the actor-critic loss that puts them together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gaejax.minibatches import Batch
from gaejax.policies import Policy
from gaejax.statistics import masked_mean, standardize

PolicyLoss = Callable[[jax.Array, jax.Array, Any], jax.Array]
"""The loss of a policy: `(log_ratios, advantages, config) -> losses`, all arrays of one shape."""


def policy_gradient_loss(log_ratios: jax.Array, advantages: jax.Array, config: Any = None) -> jax.Array:
    """Computes the policy gradient's surrogate (Williams 1992): its gradient is that of the log-probabilities times the
    advantages."""
    return -log_ratios * advantages


def clipped_surrogate_loss(
    log_ratios: jax.Array, advantages: jax.Array, clip_epsilon: jax.Array, clip_epsilon_high: jax.Array | None = None
) -> jax.Array:
    """Computes PPO's clipped surrogate, negated to be minimized (Schulman et al. 2017, arXiv:1707.06347, equation 7).

    Args:
      log_ratios, advantages: arrays of one shape.
      clip_epsilon: how far the probability ratio may move from 1 before its gradient is cut.
      clip_epsilon_high: another bound above 1, which lets improbable actions rise further ("clip-higher", Yu et al.
        2025, arXiv:2503.14476). Default: `clip_epsilon`.
    """
    ratios = jnp.exp(log_ratios)
    high = clip_epsilon if clip_epsilon_high is None else clip_epsilon_high
    clipped = jnp.clip(ratios, 1 - clip_epsilon, 1 + high)
    return -jnp.minimum(ratios * advantages, clipped * advantages)


def kl_penalty_loss(log_ratios: jax.Array, advantages: jax.Array, kl_coefficient: jax.Array | float) -> jax.Array:
    """Computes the unclipped surrogate with a penalty on KL(old || new), estimated at the old policy's actions by
    `kl_estimate` (Schulman et al. 2017, arXiv:1707.06347, equation 8). With coefficient 0 there is no penalty."""
    return -jnp.exp(log_ratios) * advantages + kl_coefficient * kl_estimate(log_ratios)


def drift_loss(log_ratios: jax.Array, advantages: jax.Array, alpha: float = 2.0, beta: float = 0.6) -> jax.Array:
    """Computes the loss of Discovered Policy Optimisation: the surrogate minus a drift that is 0, with gradient 0, at
    ratio 1 (Lu et al. 2022, arXiv:2210.05639, equation 6)."""
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
    """Computes the loss of a critic, element by element.

    Args:
      values: the critic's output, `[...]`, or a `CategoricalValue`, whose loss is its cross-entropy with the targets.
      targets: `[...]`.
      old_values, clip_epsilon: if given, the larger of the loss and of that of a value clipped to within
        `clip_epsilon` of the old one (as in OpenAI baselines; Andrychowicz et al. 2021, arXiv:2006.05990, find that it
        hurts).
      huber_delta: absolute error above which the loss is linear. Default: half the squared error everywhere.

    Raises:
      ValueError: if the loss of a histogram is to be clipped, or `clip_epsilon` is given without `old_values`.
    """
    if not isinstance(values, jax.Array):
        if clip_epsilon is not None or huber_delta is not None:
            raise ValueError("value_clip_epsilon and huber_delta must be None where the critic predicts a histogram")
        return values.loss(targets)

    if huber_delta is None:
        loss = lambda values: 0.5 * jnp.square(values - targets)
    else:
        loss = lambda values: optax.losses.huber_loss(values, targets, delta=huber_delta)
    if clip_epsilon is None:
        return loss(values)
    if old_values is None:
        raise ValueError("old_values must be given with clip_epsilon, got None")
    return jnp.maximum(loss(values), loss(old_values + jnp.clip(values - old_values, -clip_epsilon, clip_epsilon)))


def kl_estimate(log_ratios: jax.Array) -> jax.Array:
    """Computes the non-negative estimate `ratio - 1 - log ratio` of KL(old || new) (Schulman 2020, "k3")."""
    return jnp.expm1(log_ratios) - log_ratios


def actor_critic_loss(
    policy_loss: PolicyLoss, policy: Policy, config: Any, params: Any, batch: Batch, carry: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the loss of a minibatch, a mean over its unmasked steps (Schulman et al. 2017, arXiv:1707.06347,
    equation 9): `policy_coefficient * policy_loss + value_coefficient * value_loss - entropy_coefficient * entropy`.

    Args:
      policy_loss: `(log_ratios, advantages, config) -> losses`.
      policy: whose loss it is.
      config: with the fields of `gaejax.algorithms.ActorCriticConfig`.
      params: what the loss is differentiated by.
      batch: `[T, N, ...]`.
      carry: the policy's memory before the first step.

    Returns:
      The loss, and a dict of its terms `policy_loss`, `value_loss` and `entropy`, of `approx_kl`, and of the
      `log_ratios` and (standardized) `advantages` `[T, N]`.
    """
    mask = batch.mask
    # Masked steps are set to 0 before they are used: a NaN would reach the gradient through a product.
    log_probs, old_values, advantages, value_targets = (
        jnp.where(mask, x, 0) for x in (batch.log_probs, batch.values, batch.advantages, batch.value_targets)
    )
    if config.advantage_normalization == "minibatch":
        advantages = standardize(advantages, mask)

    _, distributions, values = policy.apply(params, carry, batch.observations, batch.resets)
    log_ratios = jnp.where(mask, distributions.log_prob(batch.actions) - log_probs, 0)
    policy_term = masked_mean(policy_loss(log_ratios, advantages, config), mask)
    value_term = masked_mean(
        value_loss(values, value_targets, old_values, config.value_clip_epsilon, config.huber_delta), mask
    )
    entropy = masked_mean(distributions.entropy(), mask)

    loss = config.policy_coefficient * policy_term
    loss += config.value_coefficient * value_term
    loss += -config.entropy_coefficient * entropy
    return loss, dict(
        policy_loss=policy_term,
        value_loss=value_term,
        entropy=entropy,
        approx_kl=masked_mean(kl_estimate(log_ratios), mask),
        log_ratios=log_ratios,
        advantages=advantages,
    )


class Objective(NamedTuple):
    """A policy loss with numbers of its own that it adapts, such as the coefficient of a penalty.

    Attributes:
      loss: `(own, log_ratios, advantages, config) -> losses`, arrays of one shape.
      init: `config -> own`, a dict of float32 scalars, which are reported in `TrainingInfo.extra`.
      adapt: `(own, approx_kl, config) -> own`, after every training step; `approx_kl` is the mean estimate of
        KL(old || new) over its last epoch.
    """

    loss: Callable[[dict, jax.Array, jax.Array, Any], jax.Array]
    init: Callable[[Any], dict[str, jax.Array]] = lambda config: {}
    adapt: Callable[[dict, jax.Array, Any], dict[str, jax.Array]] = lambda own, approx_kl, config: own


def adapted(own: dict, approx_kl: jax.Array, config: Any) -> dict[str, jax.Array]:
    """Doubles the coefficient if the divergence is above 1.5 times its target, halves it if it is below its target
    divided by 1.5 (Schulman et al. 2017, section 4), within [1e-4, 1e4]."""
    target = config.kl_target
    factor = jnp.where(approx_kl > 1.5 * target, 2.0, jnp.where(approx_kl < target / 1.5, 0.5, 1.0))
    return {"kl_coefficient": jnp.clip(own["kl_coefficient"] * factor, 1e-4, 1e4)}


OBJECTIVES = {
    "clip": Objective(
        lambda own, log_ratios, advantages, config: clipped_surrogate_loss(log_ratios, advantages, config.clip_epsilon)
    ),
    "clip_higher": Objective(
        lambda own, log_ratios, advantages, config: clipped_surrogate_loss(
            log_ratios, advantages, config.clip_epsilon, config.clip_epsilon_high
        )
    ),
    "kl": Objective(
        lambda own, log_ratios, advantages, config: kl_penalty_loss(log_ratios, advantages, config.kl_coefficient)
    ),
    "adaptive_kl": Objective(
        lambda own, log_ratios, advantages, config: kl_penalty_loss(log_ratios, advantages, own["kl_coefficient"]),
        lambda config: {"kl_coefficient": jnp.asarray(config.kl_coefficient, jnp.float32)},
        adapted,
    ),
    "dpo": Objective(lambda own, log_ratios, advantages, config: drift_loss(log_ratios, advantages)),
    "unclipped": Objective(lambda own, log_ratios, advantages, config: kl_penalty_loss(log_ratios, advantages, 0.0)),
}
"""PPO's objectives by name."""


def as_objective(objective: str | PolicyLoss | Objective) -> Objective:
    """Returns the objective that PPO's argument stands for.

    Raises:
      ValueError: if it is neither a known name, a function, nor an `Objective`.
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, str) and objective in OBJECTIVES:
        return OBJECTIVES[objective]
    if isinstance(objective, str) or not callable(objective):
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)} or a function, got {objective!r}")
    return Objective(lambda own, log_ratios, advantages, config: objective(log_ratios, advantages, config))


def check_objective(objective: Objective, config: Any) -> None:
    """Raises ValueError if an objective does not return a loss for every step."""
    steps = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    own = objective.init(config)
    losses = jax.eval_shape(lambda x, advantages: objective.loss(own, x, advantages, config), steps, steps)
    if getattr(losses, "shape", None) != steps.shape:
        got = getattr(losses, "shape", type(losses).__name__)
        raise ValueError(f"objective must return a loss for each step, {steps.shape} of such arrays, got {got}")
