"""Proximal Policy Optimization with Generalized Advantage Estimation (Schulman et al. 2017, arXiv:1707.06347)."""

from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import struct

from gaejax.algorithms.actor_critic import ActorCriticConfig, actor_critic_loss
from gaejax.algorithms.batches import Batch
from gaejax.algorithms.core import Algorithm
from gaejax.algorithms.on_policy import OnPolicy, Parts
from gaejax.algorithms.training_state import TrainingInfo, TrainingState
from gaejax.environments import Environment
from gaejax.losses import Objective, clipped_surrogate_loss, drift_loss, kl_estimate, kl_penalty_loss
from gaejax.minibatches import minibatch_epochs
from gaejax.policies import Policy
from gaejax.statistics import masked_mean, standardize


@struct.dataclass
class PPOConfig(ActorCriticConfig):
    """PPO's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), all else is static."""

    num_epochs: int = struct.field(default=4, pytree_node=False)
    """Passes over a rollout."""
    num_minibatches: int = struct.field(default=4, pytree_node=False)
    """Parts of a pass."""
    recompute_advantages: bool = struct.field(default=False, pytree_node=False)
    """Whether every pass estimates values and advantages anew (Andrychowicz et al. 2021, arXiv:2006.05990)."""
    clip_epsilon: float = 0.2
    """How far the probability ratio may move before its gradient is cut."""
    clip_epsilon_high: float = 0.28
    """The same above 1, of the objective "clip_higher"."""
    kl_coefficient: float = 1.0
    """Weight of the penalty of the objectives "kl" and "adaptive_kl"; the latter changes it."""
    kl_target: float = 0.01
    """The KL divergence of an update at which "adaptive_kl" aims."""

    def validate(self) -> None:
        super().validate()
        if self.num_envs * self.num_steps % self.num_minibatches:
            raise ValueError(
                f"num_minibatches must divide num_envs * num_steps = {self.num_envs * self.num_steps}, "
                f"got {self.num_minibatches}"
            )


def clip(log_ratios: jax.Array, advantages: jax.Array, config: PPOConfig) -> jax.Array:
    return clipped_surrogate_loss(log_ratios, advantages, config.clip_epsilon)


def clip_higher(log_ratios: jax.Array, advantages: jax.Array, config: PPOConfig) -> jax.Array:
    return clipped_surrogate_loss(log_ratios, advantages, config.clip_epsilon, config.clip_epsilon_high)


def kl(log_ratios: jax.Array, advantages: jax.Array, config: PPOConfig) -> jax.Array:
    return kl_penalty_loss(log_ratios, advantages, config.kl_coefficient)


def adaptive_kl(log_ratios: jax.Array, advantages: jax.Array, config: PPOConfig) -> jax.Array:
    return kl(log_ratios, advantages, config)


def dpo(log_ratios: jax.Array, advantages: jax.Array, config: PPOConfig) -> jax.Array:
    return drift_loss(log_ratios, advantages)


def unclipped(log_ratios: jax.Array, advantages: jax.Array, config: PPOConfig) -> jax.Array:
    return kl_penalty_loss(log_ratios, advantages, 0.0)


OBJECTIVES = {each.__name__: each for each in (clip, clip_higher, kl, adaptive_kl, dpo, unclipped)}


def ppo(
    environment: Environment, policy: Policy, *, objective: str | Objective = "clip", **parts: Unpack[Parts]
) -> Algorithm:
    """PPO on an environment with a policy.

    Args:
      environment: what to train on; it need not reset itself, and bounded real actions are rescaled from [-1, 1].
      policy: an actor-critic for its spaces.
      objective: "clip", "clip_higher", "kl", "adaptive_kl", "dpo", "unclipped" (see `gaejax.losses`), or a function
        `(log_ratios, advantages, config) -> losses` of arrays of one shape.
      **parts: `optimizer`, `estimator`, `schedules`, `transforms`: see `OnPolicy`.

    Returns:
      An `Algorithm`: `init(key, config: PPOConfig) -> TrainingState`, `step(state) -> (TrainingState, TrainingInfo)`.
    """
    on_policy = OnPolicy(environment, policy, **parts)
    if not callable(objective) and objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)} or a function, got {objective!r}")
    objective = objective if callable(objective) else OBJECTIVES[objective]

    def step(state: TrainingState) -> tuple[TrainingState, TrainingInfo]:
        experience = on_policy.collect(state)
        config = experience.config

        def batch(training: tuple) -> Batch:
            batch = on_policy.batch(state, experience, training[0])
            if config.advantage_normalization == "batch":
                batch = batch._replace(advantages=standardize(batch.advantages, experience.trajectory.mask))
            return batch

        def update(training: tuple, minibatch: tuple) -> tuple:
            loss = partial(actor_critic_loss, objective, policy, config)
            training, diagnostics = on_policy.gradient_step(config, loss, training, *minibatch)
            log_ratios, mask = diagnostics.pop("log_ratios"), minibatch[0].mask
            return training, diagnostics | dict(
                approx_kl=masked_mean(kl_estimate(log_ratios), mask),
                clip_fraction=masked_mean(jnp.abs(jnp.expm1(log_ratios)) > config.clip_epsilon, mask),
                first_log_ratio=jnp.max(jnp.abs(log_ratios)),
            )

        training = (state.params, state.optimizer)
        first = batch(training)
        training, diagnostics = minibatch_epochs(
            experience.key,
            batch if config.recompute_advantages else first,
            experience.trajectory.initial_carry,
            update,
            training,
            config.num_epochs,
            config.num_minibatches,
        )
        if objective is adaptive_kl:
            coefficient = adapted(state.config.kl_coefficient, diagnostics["approx_kl"][-1].mean(), config.kl_target)
            diagnostics["kl_coefficient"] = coefficient
            state = state._replace(config=state.config.replace(kl_coefficient=coefficient))
        diagnostics["first_log_ratio"] = diagnostics["first_log_ratio"][0, 0]
        diagnostics["learning_rate"] = config.learning_rate
        return on_policy.finish(state, experience, first, training, diagnostics)

    return on_policy.algorithm(step, partial(check_objective, objective))


def adapted(coefficient: jax.Array, divergence: jax.Array, target: jax.Array) -> jax.Array:
    """The KL penalty's next coefficient: twice or half, where the divergence was off its target by half (section 4)."""
    factor = jnp.where(divergence > 1.5 * target, 2.0, jnp.where(divergence < target / 1.5, 0.5, 1.0))
    return jnp.clip(coefficient * factor, 1e-4, 1e4)


def check_objective(objective: Objective, config: Any) -> None:
    """Raises ValueError for an objective that does not return a loss for every step."""
    steps = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    losses = jax.eval_shape(objective, steps, steps, config)
    if getattr(losses, "shape", None) != steps.shape:
        got = getattr(losses, "shape", type(losses).__name__)
        raise ValueError(f"objective must return a loss for each step, {steps.shape} of such arrays, got {got}")
