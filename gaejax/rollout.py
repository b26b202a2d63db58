"""Rollouts: a scan over environment steps that returns one trajectory and the statistics of the episodes it ended."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.environments import Environment
from gaejax.policies.critics import expected_values


class Trajectory(NamedTuple):
    """`T` steps of `N` rows, time-major: every field is `[T, N, ...]` but the last three.

    Attributes:
      observations: what the policy saw at step t.
      resets: observation t starts an episode.
      actions, log_probs: what it did, and the log-probability of that.
      rewards, terminated, truncated: what came of it.
      mask: the step is the policy's own: not an episode's final observation (a row of its own), not a forced action.
      initial_carry: the policy's memory before the first step, leaves `[N, ...]`.
      last_observation, last_reset: `[N, ...]`, what follows the last step.
    """

    observations: Any
    resets: jax.Array
    actions: Any
    log_probs: jax.Array
    rewards: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    mask: jax.Array
    initial_carry: Any
    last_observation: Any
    last_reset: jax.Array


class Transform(NamedTuple):
    """What changes a trajectory between the rollout and its advantages: scores, penalties, what counts.

    Attributes:
      init: `params -> state`, from the policy's parameters at the start (a reference keeps a copy).
      apply: `(state, trajectory, training_state) -> (state, trajectory, info)`; the info is a dict of scalars.
    """

    init: Callable
    apply: Callable


class RolloutState(NamedTuple):
    """Where `N` rows stand between two rollouts; every leaf is `[N, ...]`."""

    environment: Any
    observation: Any
    reset: jax.Array
    carry: Any
    episode_return: jax.Array
    episode_length: jax.Array


class EpisodeStatistics(NamedTuple):
    """Of the episodes that ended in a rollout: how many, and the sums of their undiscounted returns and lengths."""

    count: jax.Array
    return_sum: jax.Array
    length_sum: jax.Array


Act = Callable[[Any, Any, jax.Array], tuple]  # (carry, observations, resets) -> (carry, distributions, values)


def init_rollout(key: jax.Array, environment: Environment, params: Any, carry: Any, num_rows: int) -> RolloutState:
    """Resets `num_rows` copies of `environment`, whose `params` they share."""
    keys = jax.random.split(key, num_rows)
    state, observation = jax.vmap(environment.reset, in_axes=(0, None))(keys, params)
    zeros = jnp.zeros(num_rows, jnp.float32)
    return RolloutState(state, observation, jnp.ones(num_rows, bool), carry, zeros, zeros.astype(jnp.int32))


def rollout(
    key: jax.Array, environment: Environment, params: Any, act: Act, state: RolloutState, num_steps: int
) -> tuple[RolloutState, Trajectory, EpisodeStatistics]:
    """Steps every row `num_steps` times with actions sampled from a policy.

    Args:
      key: randomness of the actions and the environment.
      environment: one that resets itself, `auto_reset(...)`.
      params: its params, shared by all rows.
      act: the policy with its parameters bound: `(carry, observations, resets) -> (carry, distributions, values)` over
        `[1, N, ...]`. The values are not used, so a separate critic costs nothing here.
      state: where the rows stand.
      num_steps: T.

    Returns:
      The rows' new state, the `Trajectory`, and `EpisodeStatistics` of the episodes that ended.
    """
    num_rows = state.reset.shape[0]
    step_rows = jax.vmap(environment.step, in_axes=(0, 0, 0, None))

    def step(state: RolloutState, keys: jax.Array) -> tuple:
        batch = jax.tree.map(lambda x: x[None], (state.observation, state.reset))
        carry, distributions, _ = act(state.carry, *batch)
        actions = distributions.sample(keys[-1])
        log_probs = distributions.log_prob(actions)
        actions, log_probs = jax.tree.map(lambda x: x[0], (actions, log_probs))

        environment_state, observation, reward, terminated, truncated, info = step_rows(
            keys[:-1], state.environment, actions, params
        )
        ended = terminated | truncated
        episode_return = jnp.where(state.reset, 0, state.episode_return) + reward
        episode_length = jnp.where(state.reset, 0, state.episode_length) + 1
        following = RolloutState(environment_state, observation, info["reset"], carry, episode_return, episode_length)
        row = (
            state.observation,
            state.reset,
            actions,
            log_probs,
            reward,
            terminated,
            truncated,
            info["trainable"],
        )
        episodes = EpisodeStatistics(
            count=jnp.sum(ended),
            return_sum=jnp.sum(jnp.where(ended, episode_return, 0)),
            length_sum=jnp.sum(jnp.where(ended, episode_length, 0)),
        )
        return following, (row, episodes)

    # All keys at once, one for each row and one for the actions: splitting inside would cost time at every step.
    keys = jax.random.split(key, (num_steps, num_rows + 1))
    following, (rows, episodes) = jax.lax.scan(step, state, keys)
    trajectory = Trajectory(*rows, state.carry, following.observation, following.reset)
    return following, trajectory, jax.tree.map(jnp.sum, episodes)


def replay(act: Act, trajectory: Trajectory) -> tuple[Any, Any]:
    """The distributions and values of every step and of what follows the last, from one `apply` over `T + 1` steps."""
    return act(trajectory.initial_carry, *with_last(trajectory))[1:]


def with_last(trajectory: Trajectory) -> tuple[Any, jax.Array]:
    """Observations and resets `[T + 1, N, ...]`, of every step and of what follows the last."""
    return jax.tree.map(
        lambda steps, last: jnp.concatenate([steps, last[None]]),
        (trajectory.observations, trajectory.resets),
        (trajectory.last_observation, trajectory.last_reset),
    )


def trajectory_values(act: Act, trajectory: Trajectory) -> tuple[jax.Array, jax.Array]:
    """The critic's values of every step and of its successor, each `[T, N]`."""
    values = expected_values(replay(act, trajectory)[1])
    return values[:-1], values[1:]


def episode_steps(resets: jax.Array, before: jax.Array) -> jax.Array:
    """The number in its episode, from 0, of each of `[T, N]` steps of rows that had taken `before` `[N]` steps."""
    index = jnp.arange(resets.shape[0], dtype=jnp.int32)[:, None]
    start = jax.lax.cummax(jnp.where(resets, index, -1))
    return jnp.where(start < 0, before + index, index - start)


def finite_where_masked(observations: Any, mask: jax.Array) -> Any:
    """Observations `[T, N, ...]` whose masked rows are finite: a final observation may be NaN, and would make the
    gradient NaN though its loss is masked. (What is finite stays: a policy with memory reads forced steps too.)"""

    def clean(part: jax.Array) -> jax.Array:
        keep = jnp.expand_dims(mask, range(mask.ndim, part.ndim)) | jnp.isfinite(part)
        return jnp.where(keep, part, 0).astype(part.dtype)

    return jax.tree.map(clean, observations)
