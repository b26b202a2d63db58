"""Rollouts: a scan over environment steps that returns one trajectory and the statistics of the episodes it ended."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax import rows
from gaejax.environments import Environment


class Trajectory(NamedTuple):
    """`T` steps of `N` environments, time-major: every field is `[T, N, ...]` except the last three.

    Attributes:
      observations: what the policy saw at step t, not normalized.
      resets: whether observation t starts an episode.
      actions, log_probs: the sampled actions, and their log-probabilities.
      rewards, terminated, truncated: what the environment returned.
      mask: whether the step is the policy's own. False where an episode's final observation is shown (which has a
        transition of its own) and where the action was forced.
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


class RolloutState(NamedTuple):
    """Where `N` environments stand between two rollouts; every leaf is `[N, ...]`.

    Attributes:
      environment: the environments' states.
      observation: what the policy sees next.
      reset: whether that observation starts an episode.
      carry: the policy's memory.
      episode_return, episode_length: of the current episodes so far, undiscounted.
    """

    environment: Any
    observation: Any
    reset: jax.Array
    carry: Any
    episode_return: jax.Array
    episode_length: jax.Array


class EpisodeStatistics(NamedTuple):
    """The number of episodes that ended in a rollout, and sums over them.

    Attributes:
      count: how many ended, int32.
      return_sum, length_sum: sums of their undiscounted returns and of their lengths in steps.
      metric_sums: sums of the environment's `info["metrics"]` at their last steps, by name.
    """

    count: jax.Array
    return_sum: jax.Array
    length_sum: jax.Array
    metric_sums: dict[str, jax.Array]

    def mean(self, total: jax.Array) -> jax.Array:
        """Returns `total` per episode; NaN if none ended. (A program traced under `jax.debug_nans` has 0 there, so that
        a search for NaNs does not stop at a healthy rollout.)"""
        nothing = 0.0 if jax.config.jax_debug_nans else jnp.nan  # pyright: ignore[reportAttributeAccessIssue]
        return jnp.where(self.count > 0, total / jnp.maximum(self.count, 1), nothing)


Act = Callable[[Any, Any, jax.Array], tuple[Any, Any, Any]]
"""A policy with its parameters bound: `(carry, observations, resets) -> (carry, distributions, values)`."""


def init_rollout(key: jax.Array, environment: Environment, params: Any, carry: Any, num_envs: int) -> RolloutState:
    """Resets `num_envs` copies of an environment, which share `params`.

    Args:
      key: randomness of the resets.
      environment, params: what to reset.
      carry: the policy's memory before the first observation, leaves `[N, ...]`.
      num_envs: N.
    """
    keys = jax.random.split(key, num_envs)
    state, observation = jax.vmap(environment.reset, in_axes=(0, None))(keys, params)
    zeros = jnp.zeros(num_envs, jnp.float32)
    return RolloutState(state, observation, jnp.ones(num_envs, bool), carry, zeros, zeros.astype(jnp.int32))


def rollout(
    key: jax.Array, environment: Environment, params: Any, act: Act, state: RolloutState, num_steps: int
) -> tuple[RolloutState, Trajectory, EpisodeStatistics]:
    """Steps every environment `num_steps` times with actions sampled from a policy.

    Args:
      key: randomness of the actions and the environments.
      environment: one that resets itself, `auto_reset(...)`.
      params: its params, shared by all N copies.
      act: the policy with its parameters bound, over `[1, N, ...]`. The values are not used, so a separate critic costs
        nothing here.
      state: where the environments stand.
      num_steps: T.

    Returns:
      The environments' new state, the `Trajectory`, and `EpisodeStatistics` of the episodes that ended.
    """
    num_envs = state.reset.shape[0]
    step_all = jax.vmap(environment.step, in_axes=(0, 0, 0, None))

    def step(state: RolloutState, keys: jax.Array) -> tuple:
        batch = jax.tree.map(lambda x: x[None], (state.observation, state.reset))
        carry, distributions, _ = act(state.carry, *batch)
        actions = distributions.sample(keys[-1])
        log_probs = distributions.log_prob(actions)
        actions, log_probs = jax.tree.map(lambda x: x[0], (actions, log_probs))

        environment_state, observation, reward, terminated, truncated, info = step_all(
            keys[:-1], state.environment, actions, params
        )
        ended = terminated | truncated
        episode_return = jnp.where(state.reset, 0, state.episode_return) + reward
        episode_length = jnp.where(state.reset, 0, state.episode_length) + 1
        following = RolloutState(environment_state, observation, info["reset"], carry, episode_return, episode_length)
        transition = dict(
            observations=state.observation,
            resets=state.reset,
            actions=actions,
            log_probs=log_probs,
            rewards=reward,
            terminated=terminated,
            truncated=truncated,
            mask=info["trainable"],
        )
        episodes = EpisodeStatistics(
            count=jnp.sum(ended),
            return_sum=jnp.sum(jnp.where(ended, episode_return, 0)),
            length_sum=jnp.sum(jnp.where(ended, episode_length, 0)),
            metric_sums={
                name: jnp.sum(jnp.where(ended, jnp.asarray(values, jnp.float32), 0))
                for name, values in info.get("metrics", {}).items()
            },
        )
        return following, (transition, episodes)

    # All keys at once, one for each environment and one for the actions: splitting inside costs time at every step.
    keys = jax.random.split(key, (num_steps, num_envs + 1))
    following, (transitions, episodes) = jax.lax.scan(step, state, keys)
    trajectory = Trajectory(
        **transitions,
        initial_carry=state.carry,
        last_observation=following.observation,
        last_reset=following.reset,
    )
    return following, trajectory, rows.summed(jax.tree.map(lambda sums: jnp.sum(sums, axis=0), episodes))


def with_last(trajectory: Trajectory) -> tuple[Any, jax.Array]:
    """Returns observations and resets `[T + 1, N, ...]`, of every step and of what follows the last."""
    return jax.tree.map(
        lambda steps, last: jnp.concatenate([steps, last[None]]),
        (trajectory.observations, trajectory.resets),
        (trajectory.last_observation, trajectory.last_reset),
    )


def episode_steps(resets: jax.Array, before: jax.Array) -> jax.Array:
    """Returns the number in its episode, from 0, of each of `[T, N]` steps.

    Args:
      resets: `[T, N]`, whether a step starts an episode.
      before: `[N]`, how many steps of the current episodes were taken before these.
    """
    index = jnp.arange(resets.shape[0], dtype=jnp.int32)[:, None]
    start = jax.lax.cummax(jnp.where(resets, index, -1))
    return jnp.where(start < 0, before + index, index - start)


def after_burn_in(resets: jax.Array, num_steps: int) -> jax.Array:
    """Returns which steps `[T, N]` count after a burn-in: all but the first `num_steps` of an episode that continues
    from the previous rollout, whose stored memory was computed with older parameters (Kapturowski et al. 2019,
    "Recurrent experience replay in distributed reinforcement learning").

    Args:
      resets: `[T, N]`, whether a step starts an episode.
      num_steps: length of the burn-in.
    """
    late = jnp.arange(resets.shape[0])[:, None] >= num_steps
    return late | (jnp.cumsum(resets, axis=0) > 0)


def finite_where_masked(observations: Any, mask: jax.Array) -> Any:
    """Returns observations `[T, N, ...]` in which masked steps are finite. A final observation may be NaN, and would
    make the gradient NaN although its loss is masked. (Finite values stay: a policy with memory reads forced steps.)"""

    return jax.tree.map(
        lambda part: jnp.where(jnp.expand_dims(mask, range(mask.ndim, part.ndim)) | jnp.isfinite(part), part, 0).astype(
            part.dtype
        ),
        observations,
    )
