"""Parallelised Q-network: Q(lambda) without replay or target network (Gallici et al. 2025, arXiv:2407.04811)."""

from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax
from flax import struct

from gaejax.advantages import td_lambda
from gaejax.algorithms.batches import Batch
from gaejax.algorithms.core import Algorithm
from gaejax.algorithms.on_policy import OnPolicy, Parts
from gaejax.algorithms.training_state import OnPolicyConfig, TrainingInfo, TrainingState
from gaejax.distributions import EpsilonGreedy
from gaejax.environments import Discrete, Environment
from gaejax.minibatches import minibatch_epochs
from gaejax.policies import Policy, distribution_of
from gaejax.statistics import masked_mean


@struct.dataclass
class PQNConfig(OnPolicyConfig):
    """PQN's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), all else is static."""

    num_steps: int = struct.field(default=32, pytree_node=False)
    """Steps of a rollout, T."""
    num_epochs: int = struct.field(default=2, pytree_node=False)
    """Passes over a rollout."""
    num_minibatches: int = struct.field(default=8, pytree_node=False)
    """Parts of a pass."""
    gae_lambda: float = 0.65
    """Lambda of the estimator: 0 trusts the action values, 1 the rewards that were seen."""
    learning_rate: float = 5e-4
    """Of the optimizer, at the start."""
    optimizer_epsilon: float = 1e-8
    """What is added to the spread of gradients. Where a task is solved and errors vanish, steps would keep their length
    and wander off: with .1, and a larger learning rate, they vanish too."""
    max_grad_norm: float = 10.0
    """The global norm to which gradients are clipped."""
    epsilon: float = 1.0
    """The share of actions that are drawn at random, at the start."""


EXPLORATION = optax.linear_schedule(1.0, 0.05, 0.1)  # down to a twentieth in the first tenth of the run


def rectified_adam(learning_rate: jax.Array, optimizer_epsilon: jax.Array) -> optax.GradientTransformation:
    """RAdam with the config's epsilon."""
    return optax.radam(learning_rate, eps=optimizer_epsilon)


def pqn(environment: Environment, policy: Policy, **parts: Unpack[Parts]) -> Algorithm:
    """PQN on an environment with discrete actions.

    Args:
      environment: as of `gaejax.ppo`.
      policy: of action values, `gaejax.q_network(environment, body)`; layer norm in its body keeps them from diverging.
      **parts: `optimizer` (default `rectified_adam`), `estimator` (default Peng's Q(lambda), `td_lambda`; `retrace` and
        `q_lambda` fit too), `schedules` (`epsilon` falls to a twentieth in the first tenth), `transforms`: see
        `OnPolicy`.

    Returns:
      An `Algorithm`: `init(key, config: PQNConfig) -> TrainingState`, `step(state) -> (TrainingState, TrainingInfo)`.
    """
    if not isinstance(environment.action_space, Discrete):
        kind = type(environment.action_space).__name__
        raise ValueError(f"action_space of pqn must be Discrete, got a {kind} in {environment.name}: take ppo")
    if distribution_of(policy, environment) is not EpsilonGreedy:
        raise ValueError("policy of pqn must be one of action values: gaejax.q_network(environment, body)")

    def explore(distributions: EpsilonGreedy, config: PQNConfig) -> EpsilonGreedy:
        return EpsilonGreedy(distributions.action_values, config.epsilon * jnp.ones_like(distributions.epsilon))

    schedules = {"epsilon": EXPLORATION} | dict(parts.pop("schedules", {}))
    defaults = {"estimator": td_lambda, "optimizer": rectified_adam, **parts}
    on_policy = OnPolicy(environment, policy, schedules=schedules, explore=explore, **defaults)

    def step(state: TrainingState) -> tuple[TrainingState, TrainingInfo]:
        experience = on_policy.collect(state)
        config, batch = experience.config, on_policy.batch(state, experience, state.params)

        def update(training: tuple, minibatch: tuple) -> tuple:
            return on_policy.gradient_step(config, partial(q_loss, policy), training, *minibatch)

        training, diagnostics = minibatch_epochs(
            experience.key,
            batch,
            experience.trajectory.initial_carry,
            update,
            (state.params, state.optimizer),
            config.num_epochs,
            config.num_minibatches,
        )
        diagnostics |= {"learning_rate": config.learning_rate, "epsilon": config.epsilon}
        return on_policy.finish(state, experience, batch, training, diagnostics)

    return on_policy.algorithm(step)


def q_loss(policy: Policy, params: Any, batch: Batch, carry: Any) -> tuple[jax.Array, dict]:
    """Half the squared error of the taken actions' values, a mean over a minibatch's unmasked steps."""
    _, distributions, _ = policy.apply(params, carry, batch.observations, batch.resets)
    errors = distributions.values_of(batch.actions) - jnp.where(batch.mask, batch.value_targets, 0)
    loss = masked_mean(0.5 * jnp.square(errors), batch.mask)
    return loss, dict(value_loss=loss)
