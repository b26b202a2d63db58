"""Parallelised Q-network: Q(lambda) without replay or target network (Gallici et al. 2025, arXiv:2407.04811)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gaejax._arguments import refuses_unknown_arguments
from gaejax.algorithms import parts
from gaejax.algorithms.algorithm import Algorithm
from gaejax.algorithms.config import OnPolicyConfig, hyperparameters, number, size
from gaejax.algorithms.schedules import resolved_schedules
from gaejax.algorithms.state import TrainingInfo, TrainingState
from gaejax.distributions import EpsilonGreedy
from gaejax.environments import Discrete, Environment, check_is_environment
from gaejax.minibatches import Batch, minibatch_epochs
from gaejax.policies import Policy, distribution_of
from gaejax.statistics import masked_mean
from gaejax.transforms import Transform


@hyperparameters
class PQNConfig(OnPolicyConfig):
    """PQN's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), the others are static."""

    num_steps: int = size(32)
    """Number of steps in a rollout, T."""
    num_epochs: int = size(2)
    """Passes over a rollout."""
    num_minibatches: int = size(8)
    """Minibatches in a pass."""
    gae_lambda: float = number(0.65, most=1)
    """Lambda of the estimator: 0 trusts the action values, 1 the observed rewards."""
    learning_rate: float = number(5e-4)
    """Initial learning rate of the optimizer."""
    optimizer_epsilon: float = number(1e-8)
    """Epsilon of RAdam. Once a task is solved and its errors vanish, steps keep their length and the parameters drift;
    with 0.1, and a larger learning rate, the steps vanish too."""
    max_grad_norm: float = number(10.0)
    """Global norm to which gradients are clipped."""
    epsilon: float = number(1.0)
    """Initial share of actions that are drawn uniformly."""


EXPLORATION: Any = optax.linear_schedule(1.0, 0.05, 0.1)  # pyright: ignore[reportArgumentType]
"""Falls to 0.05 in the first tenth of the run."""


def rectified_adam(config: Any) -> optax.GradientTransformation:
    """Returns RAdam with the config's epsilon."""
    return optax.radam(config.learning_rate, eps=config.optimizer_epsilon)


@refuses_unknown_arguments
def pqn(
    environment: Environment,
    policy: Policy,
    *,
    optimizer: parts.Optimizer = rectified_adam,
    estimator: parts.AnyEstimator = "td_lambda",
    schedules: parts.Schedules | None = None,
    transforms: Sequence[Transform] = (),
) -> Algorithm:
    """Makes PQN, for discrete actions.

    Args:
      environment: as in `gaejax.ppo`.
      policy: one of action values, `gaejax.q_network(environment, body)`; layer norm in its body keeps the values from
        diverging.
      optimizer, estimator, schedules, transforms: as in `gaejax.ppo`. The default optimizer is RAdam, the default
        estimator Peng's Q(lambda) ("td_lambda"; "retrace" and "q_lambda" fit too), and `epsilon` falls to 0.05 of its
        start in the first tenth of the run.

    Returns:
      An `Algorithm`: `init(key, config: PQNConfig) -> TrainingState`, `step(state) -> (TrainingState, TrainingInfo)`.

    Raises:
      ValueError, TypeError: for an argument that does not fit; one line that names it.
    """
    check_is_environment(environment)
    if not isinstance(environment.action_space, Discrete):
        kind = type(environment.action_space).__name__
        raise ValueError(f"action_space of pqn must be Discrete, got a {kind} in {environment.name}: use ppo")
    if distribution_of(policy, environment) is not EpsilonGreedy:
        raise ValueError("policy of pqn must be one of action values: gaejax.q_network(environment, body)")
    world = parts.training_environment(environment)
    optimizer = parts.as_optimizer("pqn", optimizer)
    estimator = parts.resolved_estimator("pqn", estimator, policy, environment)
    schedules = resolved_schedules({"learning_rate": "linear", "epsilon": EXPLORATION, **(schedules or {})})

    def act(state: TrainingState, carry: Any, observations: Any, resets: jax.Array) -> tuple[Any, Any, Any]:
        carry, greedy, values = parts.acting(policy, state)(carry, observations, resets)
        epsilon = parts.scheduled(state.config, schedules, state.updates).epsilon
        return carry, EpsilonGreedy(greedy.action_values, epsilon * jnp.ones_like(greedy.epsilon)), values

    def step(state: TrainingState) -> tuple[TrainingState, TrainingInfo]:
        config = parts.scheduled(state.config, schedules, state.updates)
        next_key, rollout_key, shuffle_key = jax.random.split(state.key, 3)
        experience = parts.collect(rollout_key, world, policy, partial(act, state), state, config, transforms)
        batch = parts.make_batch(estimator, partial(act, state), state, experience, config)

        def update(training: tuple, minibatch: tuple) -> tuple:
            return parts.gradient_step(parts.clipped(optimizer, config), partial(q_loss, policy), training, *minibatch)

        training, terms = minibatch_epochs(
            shuffle_key,
            batch,
            experience.trajectory.initial_carry,
            update,
            (state.params, state.optimizer),
            config.num_epochs,
            config.num_minibatches,
        )
        terms |= {"learning_rate": config.learning_rate, "epsilon": config.epsilon}
        info = parts.training_info(policy, state, experience, batch, config, terms)
        return parts.next_state(state, experience, next_key, *training), info

    return parts.make_algorithm("pqn", PQNConfig, environment, policy, step, optimizer, schedules, transforms, act=act)


def q_loss(policy: Policy, params: Any, batch: Batch, carry: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes half the squared error of the taken actions' values, a mean over a minibatch's unmasked steps."""
    distributions: Any = policy.apply(params, carry, batch.observations, batch.resets)[1]
    errors = distributions.values_of(batch.actions) - jnp.where(batch.mask, batch.value_targets, 0)
    loss = masked_mean(0.5 * jnp.square(errors), batch.mask)
    return loss, dict(value_loss=loss)
