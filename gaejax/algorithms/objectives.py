"""PPO's objectives: what is asked of the policy, and what an objective adapts after every update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.losses import PolicyLoss, clipped_surrogate_loss, drift_loss, kl_penalty_loss


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


def clip(own: dict, log_ratios: jax.Array, advantages: jax.Array, config: Any) -> jax.Array:
    """Computes the clipped surrogate."""
    return clipped_surrogate_loss(log_ratios, advantages, config.clip_epsilon)


def clip_higher(own: dict, log_ratios: jax.Array, advantages: jax.Array, config: Any) -> jax.Array:
    """Computes the surrogate with another bound above 1."""
    return clipped_surrogate_loss(log_ratios, advantages, config.clip_epsilon, config.clip_epsilon_high)


def kl(own: dict, log_ratios: jax.Array, advantages: jax.Array, config: Any) -> jax.Array:
    """Computes the surrogate with a KL penalty of fixed weight."""
    return kl_penalty_loss(log_ratios, advantages, config.kl_coefficient)


def own_kl(own: dict, log_ratios: jax.Array, advantages: jax.Array, config: Any) -> jax.Array:
    """Computes the surrogate with a KL penalty of adapted weight."""
    return kl_penalty_loss(log_ratios, advantages, own["kl_coefficient"])


def adapted(own: dict, approx_kl: jax.Array, config: Any) -> dict[str, jax.Array]:
    """Doubles the coefficient if the divergence is above 1.5 times its target, halves it if it is below its target
    divided by 1.5 (Schulman et al. 2017, section 4), within [1e-4, 1e4]."""
    target = config.kl_target
    factor = jnp.where(approx_kl > 1.5 * target, 2.0, jnp.where(approx_kl < target / 1.5, 0.5, 1.0))
    return {"kl_coefficient": jnp.clip(own["kl_coefficient"] * factor, 1e-4, 1e4)}


def dpo(own: dict, log_ratios: jax.Array, advantages: jax.Array, config: Any) -> jax.Array:
    """Computes the loss of Discovered Policy Optimisation."""
    return drift_loss(log_ratios, advantages)


def unclipped(own: dict, log_ratios: jax.Array, advantages: jax.Array, config: Any) -> jax.Array:
    """Computes the surrogate as it is."""
    return kl_penalty_loss(log_ratios, advantages, 0.0)


OBJECTIVES = {
    "clip": Objective(clip),
    "clip_higher": Objective(clip_higher),
    "kl": Objective(kl),
    "adaptive_kl": Objective(
        own_kl, lambda config: {"kl_coefficient": jnp.asarray(config.kl_coefficient, jnp.float32)}, adapted
    ),
    "dpo": Objective(dpo),
    "unclipped": Objective(unclipped),
}


def as_objective(objective: str | PolicyLoss | Objective) -> Objective:
    """Returns the objective that PPO's argument stands for.

    Raises:
      ValueError: if it is neither a known name, a function, nor an `Objective`.
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, str) and objective in OBJECTIVES:
        return OBJECTIVES[objective]
    if not callable(objective):
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)} or a function, got {objective!r}")
    return Objective(lambda own, *inputs: objective(*inputs))


def check_objective(objective: Objective, config: Any) -> None:
    """Raises ValueError if an objective does not return a loss for every step."""
    steps = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    losses = jax.eval_shape(lambda *inputs: objective.loss(objective.init(config), *inputs, config), steps, steps)
    if getattr(losses, "shape", None) != steps.shape:
        got = getattr(losses, "shape", type(losses).__name__)
        raise ValueError(f"objective must return a loss for each step, {steps.shape} of such arrays, got {got}")
