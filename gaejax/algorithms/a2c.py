"""Advantage actor-critic, synchronous (Mnih et al. 2016, arXiv:1602.01783): a short rollout, one gradient step."""

from functools import partial
from typing import Unpack

import jax
import jax.numpy as jnp
import optax
from flax import struct

from gaejax.algorithms.actor_critic import ActorCriticConfig, actor_critic_loss
from gaejax.algorithms.core import Algorithm
from gaejax.algorithms.on_policy import OnPolicy, Parts
from gaejax.algorithms.training_state import TrainingInfo, TrainingState
from gaejax.environments import Environment
from gaejax.losses import policy_gradient_loss
from gaejax.policies import Policy


@struct.dataclass
class A2CConfig(ActorCriticConfig):
    """A2C's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), all else is static."""

    num_steps: int = struct.field(default=8, pytree_node=False)
    """Steps of a rollout, T."""
    learning_rate: float = 2e-3
    """Of the optimizer, at the start."""


def rms_prop(learning_rate: jax.Array) -> optax.GradientTransformation:
    """RMSProp as A2C implementations use it, decay .99 and epsilon 1e-5."""
    return optax.rmsprop(learning_rate, decay=0.99, eps=1e-5)


def a2c(environment: Environment, policy: Policy, **parts: Unpack[Parts]) -> Algorithm:
    """A2C on an environment with a policy: one step up the policy gradient with each rollout.

    Args:
      environment, policy: as of `gaejax.ppo`.
      **parts: `optimizer` (default RMSProp), `estimator`, `schedules`, `transforms`: see `OnPolicy`.

    Returns:
      An `Algorithm`: `init(key, config: A2CConfig) -> TrainingState`, `step(state) -> (TrainingState, TrainingInfo)`.
    """
    on_policy = OnPolicy(environment, policy, **{"optimizer": rms_prop, **parts})

    def step(state: TrainingState) -> tuple[TrainingState, TrainingInfo]:
        experience = on_policy.collect(state)
        batch = on_policy.batch(state, experience, state.params)
        training, diagnostics = on_policy.gradient_step(
            experience.config,
            partial(actor_critic_loss, policy_gradient_loss, policy, experience.config),
            (state.params, state.optimizer),
            batch,
            experience.trajectory.initial_carry,
        )
        diagnostics["first_log_ratio"] = jnp.max(jnp.abs(diagnostics.pop("log_ratios")))
        diagnostics["learning_rate"] = experience.config.learning_rate
        return on_policy.finish(state, experience, batch, training, diagnostics)

    return on_policy.algorithm(step)
