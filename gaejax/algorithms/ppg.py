"""Phasic Policy Gradient (Cobbe et al. 2021, arXiv:2009.04416): PPO with separate networks, and an auxiliary phase that
teaches the policy's network to predict values while it keeps its distributions."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax._arguments import refuses_unknown_arguments
from gaejax.algorithms import parts
from gaejax.algorithms.algorithm import Algorithm
from gaejax.algorithms.config import ProximalConfig, hyperparameters, number, size
from gaejax.algorithms.ppo import ppo_epochs
from gaejax.algorithms.schedules import resolved_schedules
from gaejax.algorithms.state import Experience, TrainingInfo, TrainingState
from gaejax.environments import Environment
from gaejax.losses import OBJECTIVES, actor_critic_loss, value_loss
from gaejax.minibatches import Batch, minibatch_epochs
from gaejax.policies import Policy, apply_both, separate_networks
from gaejax.statistics import masked_mean
from gaejax.transforms import Transform


@hyperparameters
class PPGConfig(ProximalConfig):
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
    """What the auxiliary phase needs.

    Attributes:
      batch: what the updates since the last one read, `[T, N_pi, N, ...]`.
      carry: the memory before their first steps, `[1, N_pi, N, ...]`.
      optimizer: the state of its optimizer.
    """

    batch: Batch
    carry: Any
    optimizer: Any = ()

    @classmethod
    def of(cls, experience: Experience, batch: Batch) -> "Buffer":
        """Returns one rollout's part."""
        return cls(batch, jax.tree.map(lambda x: x[None], experience.trajectory.initial_carry))


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
    """
    world = parts.training_environment(environment)
    dual = separate_networks(policy)
    optimizer = parts.as_optimizer("ppg", optimizer)
    estimator = parts.resolved_estimator("ppg", estimator, dual, environment)
    schedules = resolved_schedules({"learning_rate": "linear", **(schedules or {})})

    def collected(key: jax.Array, state: TrainingState, config: PPGConfig) -> tuple[Experience, Batch]:
        act = parts.acting(dual, state)
        experience = parts.collect(key, world, dual, act, state, config, transforms)
        return experience, parts.make_batch(estimator, act, state, experience, config)

    def step(state: TrainingState) -> tuple[TrainingState, TrainingInfo]:
        config = parts.scheduled(state.config, schedules, state.updates)
        next_key, rollout_key, shuffle_key, auxiliary_key = jax.random.split(state.key, 4)
        experience, batch = collected(rollout_key, state, config)
        carry, optimize = experience.trajectory.initial_carry, parts.clipped(optimizer, config)

        loss = partial(actor_critic_loss, partial(OBJECTIVES["clip"].loss, {}), dual, config)
        training = state.params, state.optimizer
        (params, optimizer_state), terms = ppo_epochs(shuffle_key, batch, carry, training, loss, optimize, config)

        place, auxiliary_optimizer = state.updates % config.num_policy_updates, state.algorithm.optimizer
        buffer = state.algorithm._replace(optimizer=())
        buffer = jax.tree.map(lambda kept, new: kept.at[:, place].set(new), buffer, Buffer.of(experience, batch))
        everything = jax.tree.map(lambda x: x.reshape(x.shape[0], -1, *x.shape[3:]), buffer)
        loss = partial(auxiliary_loss, policy, config, params)

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
        params, auxiliary_optimizer = jax.lax.fori_loop(0, passes, epoch, (params, auxiliary_optimizer))
        buffer = buffer._replace(optimizer=auxiliary_optimizer)
        terms |= {"learning_rate": config.learning_rate}
        info = parts.training_info(dual, state, experience, batch, config, terms)
        return parts.next_state(state, experience, next_key, params, optimizer_state, buffer), info

    def empty_buffer(state: TrainingState) -> Buffer:
        one = jax.eval_shape(lambda state: Buffer.of(*collected(state.key, state, state.config)), state)
        size = state.config.num_policy_updates
        empty = jax.tree.map(lambda x: jnp.zeros((x.shape[0], size, *x.shape[1:]), x.dtype), one)
        return empty._replace(optimizer=parts.clipped(optimizer, state.config).init(state.params))

    return parts.make_algorithm(
        "ppg", PPGConfig, environment, dual, step, optimizer, schedules, transforms, own_state=empty_buffer
    )


def auxiliary_loss(
    policy: Policy, config: PPGConfig, old_params: Any, params: Any, batch: Batch, carry: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes both networks' errors of the value targets, plus `clone_coefficient * KL(old || new)` (section 2)."""
    targets = jnp.where(batch.mask, batch.value_targets, 0)
    inputs = carry, batch.observations, batch.resets
    _, (distributions, auxiliary_values), (_, values) = apply_both(policy, params, *inputs)
    _, (old_distributions, _), _ = apply_both(policy, old_params, *inputs)
    kl = masked_mean(old_distributions.kl_divergence(distributions), batch.mask)
    errors = [masked_mean(value_loss(x, targets), batch.mask) for x in (auxiliary_values, values)]
    return sum(errors) + config.clone_coefficient * kl, {}
