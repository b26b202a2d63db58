"""From a rollout to what an update reads: normalized observations, values, advantages."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.algorithms.training_state import Experience, TrainingState
from gaejax.minibatches import behind_burn_in
from gaejax.policies.critics import expected_values
from gaejax.rollout import Act, episode_steps, finite_where_masked, replay


class Batch(NamedTuple):
    """What an update reads of each step, `[T, N, ...]`; behind a masked step may stand anything, but no NaN."""

    observations: Any
    resets: jax.Array
    actions: Any
    log_probs: jax.Array
    values: jax.Array
    advantages: jax.Array
    value_targets: jax.Array
    mask: jax.Array


def estimated_batch(estimator: Callable, act: Act, state: TrainingState, experience: Experience) -> Batch:
    """A rollout's steps with their advantages.

    Args:
      estimator: called like `gaejax.gae`; of what else a rollout knows it is given what its signature names.
      act: the policy whose values are used (and, for ratios, its probabilities).
      state, experience: what the training step began with, and what it collected.
    """
    config, trajectory = experience.config, experience.trajectory
    distributions, values = replay(act, trajectory)
    values = expected_values(values)

    def at_actions(method: Callable) -> jax.Array:  # over T + 1 steps, like the distributions
        actions = jax.tree.map(lambda x: jnp.concatenate([x, x[-1:]]), trajectory.actions)
        return method(actions)[:-1]

    on_demand = {
        "gae_lambda": lambda: config.gae_lambda,
        "trace_lambda": lambda: config.gae_lambda,
        "log_ratios": lambda: at_actions(distributions.log_prob) - trajectory.log_probs,
        "action_values": lambda: at_actions(distributions.values_of),
        "episode_steps": lambda: episode_steps(trajectory.resets, state.rollout.episode_length),
    }
    named = inspect.signature(estimator).parameters
    advantages, value_targets = estimator(
        rewards=experience.persisting["reward_normalizer"](trajectory.rewards),
        values=values[:-1],
        next_values=values[1:],
        terminated=trajectory.terminated,
        truncated=trajectory.truncated,
        discount=config.discount,
        mask=trajectory.mask,
        **{name: value() for name, value in on_demand.items() if name in named},
    )
    return Batch(
        observations=finite_where_masked(state.observation_normalizer(trajectory.observations), trajectory.mask),
        resets=trajectory.resets,
        actions=trajectory.actions,
        log_probs=trajectory.log_probs,
        values=values[:-1],
        advantages=advantages,
        value_targets=value_targets,
        mask=trajectory.mask & behind_burn_in(trajectory.resets, config.burn_in_steps),
    )
