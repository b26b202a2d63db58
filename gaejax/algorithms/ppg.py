"""Phasic Policy Gradient (Cobbe et al. 2021, arXiv:2009.04416): PPO with separate networks, and an auxiliary phase that
teaches the policy's network to predict values while its distributions stay what they are."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax._hints import refuses_unknown_arguments
from gaejax.algorithms import parts
from gaejax.algorithms.algorithm import Algorithm
from gaejax.algorithms.config import hyperparameters, number, size
from gaejax.algorithms.objectives import OBJECTIVES
from gaejax.algorithms.ppo import PPOConfig, ppo_epochs
from gaejax.algorithms.schedules import resolved_schedules
from gaejax.algorithms.state import Experience, TrainingInfo, TrainingState
from gaejax.environments import Environment
from gaejax.losses import actor_critic_loss, value_loss
from gaejax.minibatches import Batch, minibatch_epochs
from gaejax.policies import Policy, apply_both, separate_networks
from gaejax.statistics import masked_mean
from gaejax.transforms import Transform


@hyperparameters
class PPGConfig(PPOConfig):
    """PPG's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), the others are static."""

    num_epochs: int = size(1)
    """Passes over a rollout in the policy phase, of policy and value function."""
    num_policy_updates: int = size(16)
    """Rollouts, each with its policy update, between two auxiliary phases, N_pi. All are kept until then."""
    num_auxiliary_epochs: int = size(6)
    """Passes over these rollouts in an auxiliary phase."""
    clone_coefficient: float = number(1.0)
    """Weight of KL(old || new) in the auxiliary phase, beta_clone."""


class Buffer(NamedTuple):
    """The rollouts since the last auxiliary phase.

    Attributes:
      batch: what their updates read, `[T, N_pi, N, ...]`.
      carry: the memory before their first steps, `[1, N_pi, N, ...]`.
    """

    batch: Batch
    carry: Any

    @classmethod
    def of(cls, batch: Batch, carry: Any) -> "Buffer":
        """Returns one rollout, `[T, N, ...]` and `[1, N, ...]`."""
        return cls(batch, jax.tree.map(lambda x: x[None], carry))


@refuses_unknown_arguments
def ppg(
    environment: Environment,
    policy: Policy,
    *,
    optimizer: parts.Optimizer = parts.adam,
    estimator: parts.AnyEstimator = "gae",
    schedules: parts.Schedules | None = None,
    transforms: Sequence[Transform] = (),
) -> Algorithm:
    """Makes PPG with two networks (section 2 of the paper).

    Args:
      environment, optimizer, estimator, schedules, transforms: as in `gaejax.ppo`.
      policy: an actor-critic whose heads share a body; its value head is the auxiliary one. The critic is a second
        network of the same kind.

    Returns:
      An `Algorithm`: `init(key, config: PPGConfig) -> TrainingState`, `step(state) -> (TrainingState, TrainingInfo)`. A
      step is one rollout; every `num_policy_updates` steps it ends with an auxiliary phase.

    Raises:
      ValueError, TypeError: for an argument that does not fit; one line that names it.
    """
    dual = separate_networks(policy)
    optimizer = parts.as_optimizer("ppg", optimizer)
    estimator = parts.resolved_estimator("ppg", estimator, dual, environment)
    schedules = resolved_schedules({"learning_rate": "linear", **(schedules or {})})

    def collected(key: jax.Array, state: TrainingState, config: PPGConfig) -> tuple[Experience, Batch]:
        act = parts.acting(dual, state)
        experience = parts.collect(key, environment, dual, act, state, config, transforms)
        return experience, parts.make_batch(estimator, act, state, experience, config)

    def step(state: TrainingState) -> tuple[TrainingState, TrainingInfo]:
        config = parts.scheduled(state.config, schedules, state.updates)
        next_key, rollout_key, shuffle_key, auxiliary_key = jax.random.split(state.key, 4)
        experience, batch = collected(rollout_key, state, config)
        carry, optimize = experience.trajectory.initial_carry, parts.clipped(optimizer, config)

        loss = partial(actor_critic_loss, partial(OBJECTIVES["clip"].loss, {}), dual, config)
        training, terms = ppo_epochs(shuffle_key, batch, carry, (state.params, state.optimizer), loss, optimize, config)

        place = state.updates % config.num_policy_updates
        buffer = jax.tree.map(lambda kept, new: kept.at[:, place].set(new), state.algorithm, Buffer.of(batch, carry))
        everything = jax.tree.map(lambda x: x.reshape(x.shape[0], -1, *x.shape[3:]), buffer)
        loss = partial(auxiliary_loss, policy, config, training[0])

        def epoch(index: jax.Array, training: tuple) -> tuple:
            return minibatch_epochs(
                jax.random.fold_in(auxiliary_key, index),
                everything.batch,
                jax.tree.map(lambda x: x[0], everything.carry),
                lambda training, minibatch: parts.gradient_step(optimize, loss, training, *minibatch),
                training,
                1,
                config.num_minibatches * config.num_policy_updates,
            )[0]

        # A loop without passes unless the phase is due: then it costs nothing, also under `vmap`.
        passes = jnp.where(place + 1 == config.num_policy_updates, config.num_auxiliary_epochs, 0)
        training = jax.lax.fori_loop(0, passes, epoch, training)
        terms |= {"learning_rate": config.learning_rate}
        info = parts.training_info(dual, state, experience, batch, config, terms)
        return parts.next_state(state, experience, next_key, *training, buffer), info

    def empty_buffer(state: TrainingState) -> Buffer:
        def one_rollout(state: TrainingState) -> Buffer:
            experience, batch = collected(state.key, state, state.config)
            return Buffer.of(batch, experience.trajectory.initial_carry)

        size = state.config.num_policy_updates
        shapes = jax.eval_shape(one_rollout, state)
        return jax.tree.map(lambda x: jnp.zeros((x.shape[0], size, *x.shape[1:]), x.dtype), shapes)

    return parts.make_algorithm(
        "ppg", PPGConfig, environment, dual, step, optimizer, schedules, transforms, own_state=empty_buffer
    )


def auxiliary_loss(
    policy: Policy, config: PPGConfig, old_params: Any, params: Any, batch: Batch, carry: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the losses of the auxiliary phase: both networks' errors of the value targets, and
    `clone_coefficient * KL(old || new)` (section 2, equations 3 and 4)."""
    targets = jnp.where(batch.mask, batch.value_targets, 0)
    inputs = carry, batch.observations, batch.resets
    _, (distributions, auxiliary_values), (_, values) = apply_both(policy, params, *inputs)
    _, (old_distributions, _), _ = apply_both(policy, old_params, *inputs)
    kl = masked_mean(old_distributions.kl_divergence(distributions), batch.mask)
    errors = [masked_mean(value_loss(x, targets), batch.mask) for x in (auxiliary_values, values)]
    return sum(errors) + config.clone_coefficient * kl, {}
