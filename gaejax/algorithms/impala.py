"""IMPALA (Espeholt et al. 2018, arXiv:1802.01561): actors with earlier parameters, corrected by V-trace."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from gaejax import rows
from gaejax._arguments import refuses_unknown_arguments
from gaejax.algorithms import parts
from gaejax.algorithms.a2c import A2CConfig, rms_prop
from gaejax.algorithms.algorithm import Algorithm
from gaejax.algorithms.config import hyperparameters, size
from gaejax.algorithms.schedules import resolved_schedules
from gaejax.algorithms.state import TrainingInfo, TrainingState
from gaejax.environments import Environment
from gaejax.losses import actor_critic_loss, policy_gradient_loss
from gaejax.policies import Policy
from gaejax.statistics import masked_mean
from gaejax.transforms import Transform


@hyperparameters
class ImpalaConfig(A2CConfig):
    """IMPALA's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), the others are static."""

    num_steps: int = size(20)
    """Number of steps in a rollout, T."""
    actor_lag: int = size(4, least=0)
    """The actors take over the learner's parameters every so many updates, k: they lag by 0 to k - 1 updates. With 0 or
    1 they never lag: A2C with V-trace."""


@refuses_unknown_arguments
def impala(
    environment: Environment,
    policy: Policy,
    *,
    optimizer: parts.Optimizer = rms_prop,
    estimator: parts.AnyEstimator = "vtrace",
    schedules: parts.Schedules | None = None,
    transforms: Sequence[Transform] = (),
) -> Algorithm:
    """Makes IMPALA: rollouts by parameters of an earlier update, which stand in `state.algorithm`.

    `evaluate` and `export` act with the learner's parameters.

    Args:
      environment, policy, optimizer, estimator, schedules, transforms: as in `gaejax.ppo`; the default optimizer is
        RMSProp, the default estimator V-trace with truncation levels 1.

    Returns:
      An `Algorithm`: `init(key, config: ImpalaConfig) -> TrainingState`, `step(state) -> (TrainingState,
      TrainingInfo)`.

    Raises:
      ValueError, TypeError: for an argument that does not fit; one line that names it.
    """
    world = parts.training_environment(environment)
    optimizer = parts.as_optimizer("impala", optimizer)
    estimator = parts.resolved_estimator("impala", estimator, policy, environment)
    schedules = resolved_schedules({"learning_rate": "linear", **(schedules or {})})

    def step(state: TrainingState) -> tuple[TrainingState, TrainingInfo]:
        config = parts.scheduled(state.config, schedules, state.updates)
        next_key, rollout_key = jax.random.split(state.key)
        actor = state.algorithm
        experience = parts.collect(
            rollout_key, world, policy, parts.acting(policy, state, actor), state, config, transforms
        )
        batch = parts.make_batch(estimator, parts.acting(policy, state), state, experience, config)

        loss = partial(actor_critic_loss, policy_gradient_loss, policy, config)
        training, carry = (state.params, state.optimizer), experience.trajectory.initial_carry
        training, terms = parts.gradient_step(parts.clipped(optimizer, config), loss, training, batch, carry)
        due = (state.updates + 1) % max(config.actor_lag, 1) == 0
        actor = parts.select(due, training[0], actor)

        log_ratios, advantages = terms.pop("log_ratios"), terms.pop("advantages")
        terms["policy_loss"] = -masked_mean((batch.log_probs + log_ratios) * advantages, batch.mask)
        terms["first_log_ratio"] = rows.largest(jnp.max(jnp.abs(log_ratios)))
        terms["learning_rate"] = config.learning_rate
        info = parts.training_info(policy, state, experience, batch, config, terms)
        return parts.next_state(state, experience, next_key, *training, actor), info

    return parts.make_algorithm(
        "impala",
        ImpalaConfig,
        environment,
        policy,
        step,
        optimizer,
        schedules,
        transforms,
        own_state=lambda state: state.params,
    )
