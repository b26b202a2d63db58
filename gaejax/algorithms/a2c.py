"""Advantage actor-critic, synchronous (Mnih et al. 2016, arXiv:1602.01783): a short rollout, one gradient step."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gaejax import rows
from gaejax._arguments import refuses_unknown_arguments
from gaejax.algorithms import parts
from gaejax.algorithms.algorithm import Algorithm
from gaejax.algorithms.config import ActorCriticConfig, hyperparameters, number, size
from gaejax.algorithms.schedules import resolved_schedules
from gaejax.algorithms.state import TrainingInfo, TrainingState
from gaejax.environments import Environment
from gaejax.losses import actor_critic_loss, policy_gradient_loss
from gaejax.policies import Policy
from gaejax.statistics import masked_mean
from gaejax.transforms import Transform


@hyperparameters
class A2CConfig(ActorCriticConfig):
    """A2C's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), the others are static."""

    num_steps: int = size(8)
    """Number of steps in a rollout, T."""
    learning_rate: float = number(2e-3)
    """Initial learning rate of the optimizer."""


def rms_prop(config: Any) -> optax.GradientTransformation:
    """Returns RMSProp as A2C implementations use it, with decay 0.99 and epsilon 1e-5."""
    return optax.rmsprop(config.learning_rate, decay=0.99, eps=1e-5)


@refuses_unknown_arguments
def a2c(
    environment: Environment,
    policy: Policy,
    *,
    optimizer: parts.Optimizer = rms_prop,
    estimator: parts.AnyEstimator = "gae",
    schedules: parts.Schedules | None = None,
    transforms: Sequence[Transform] = (),
) -> Algorithm:
    """Makes A2C: one step of policy gradient after each rollout.

    Args:
      environment, policy, optimizer, estimator, schedules, transforms: as in `gaejax.ppo`; the default optimizer is
        RMSProp.

    Returns:
      An `Algorithm`: `init(key, config: A2CConfig) -> TrainingState`, `step(state) -> (TrainingState, TrainingInfo)`.
    """
    world = parts.training_environment(environment)
    optimizer = parts.as_optimizer("a2c", optimizer)
    estimator = parts.resolved_estimator("a2c", estimator, policy, environment)
    schedules = resolved_schedules({"learning_rate": "linear", **(schedules or {})})

    def step(state: TrainingState) -> tuple[TrainingState, TrainingInfo]:
        config = parts.scheduled(state.config, schedules, state.updates)
        next_key, rollout_key, _ = jax.random.split(state.key, 3)
        act = parts.acting(policy, state)
        experience = parts.collect(rollout_key, world, policy, act, state, config, transforms)
        batch = parts.make_batch(estimator, act, state, experience, config)

        loss = partial(actor_critic_loss, policy_gradient_loss, policy, config)
        training = (state.params, state.optimizer)
        carry = experience.trajectory.initial_carry
        training, terms = parts.gradient_step(parts.clipped(optimizer, config), loss, training, batch, carry)

        # With ratio 1 the surrogate is always 0; the loss of the textbooks, with log-probabilities, says more.
        terms["policy_loss"] = -masked_mean(batch.log_probs * terms.pop("advantages"), batch.mask)
        terms["first_log_ratio"] = rows.largest(jnp.max(jnp.abs(terms.pop("log_ratios"))))
        terms["learning_rate"] = config.learning_rate
        del terms["approx_kl"]  # 0, before the only step
        info = parts.training_info(policy, state, experience, batch, config, terms)
        return parts.next_state(state, experience, next_key, *training), info

    return parts.make_algorithm("a2c", A2CConfig, environment, policy, step, optimizer, schedules, transforms)
