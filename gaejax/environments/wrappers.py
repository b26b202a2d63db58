"""Wrappers: functions that make a new environment from another."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gaejax._arguments import check_seed, check_whole, short
from gaejax.environments.check import check_is_environment
from gaejax.environments.environment import Environment
from gaejax.environments.spaces import UNBOUNDED, Box, Space


class AutoResetState(NamedTuple):
    """The state of an environment, and whether its observation is the last one of an episode."""

    environment: Any
    final: jax.Array


def auto_reset(environment: Environment) -> Environment:
    """Starts the next episode on the step *after* the last one (next-step reset).

    The final observation of an episode therefore has a step of its own: the action taken on it is ignored, and that
    step returns the first observation of the next episode with reward 0, no flags, `info["trainable"]` false and
    `info["reset"]` true. So the value of every successor is the value at the next step.
    """

    check_is_environment(environment)

    def reset(key: jax.Array, params: Any) -> tuple[AutoResetState, Any]:
        state, observation = environment.reset(key, params)
        return AutoResetState(state, jnp.zeros((), bool)), observation

    def step(key: jax.Array, state: AutoResetState, action: Any, params: Any) -> tuple:
        starts = state.final
        # One key serves both: only one of the two results is kept.
        first = environment.reset(key, params)
        *following, reward, terminated, truncated, info = environment.step(key, state.environment, action, params)
        terminated = jnp.asarray(terminated, bool) & ~starts
        truncated = jnp.asarray(truncated, bool) & ~terminated & ~starts
        info = {**info, "trainable": ~starts & info.get("trainable", True), "reset": starts}
        next_state, observation = jax.tree.map(partial(_select, environment.name, starts), first, tuple(following))
        reward = jnp.where(starts, 0, jnp.asarray(reward, jnp.float32))
        return AutoResetState(next_state, terminated | truncated), observation, reward, terminated, truncated, info

    return dataclasses.replace(environment, reset=reset, step=step)


def _select(name: str, starts: jax.Array, first: Any, following: Any) -> jax.Array:
    """Returns `first` where an episode starts, otherwise `following`, in the dtype of `first`."""
    first, following = jnp.asarray(first), jnp.asarray(following)
    if first.dtype != following.dtype and not jnp.can_cast(following.dtype, first.dtype, "same_kind"):
        message = f"{name}: its step returns {following.dtype} where its reset returns {first.dtype}"
        raise TypeError(f"{message}: make them the same")
    return jnp.where(starts, first, following.astype(first.dtype)).astype(first.dtype)


def rescale_actions(environment: Environment) -> Environment:
    """Rescales bounded real actions from [-1, 1] to the environment's own units, and clips them to its bounds.

    Dimensions without two finite bounds are only clipped to the bounds they have; discrete actions are left alone. The
    action space of the result is [-1, 1], so rescaling twice equals rescaling once.
    """
    check_is_environment(environment)
    space = environment.action_space
    if not isinstance(space, Box):
        return environment

    def step(key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple:
        return environment.step(key, state, rescaled_action(space, action), params)

    low, high, bounded = _bounds(space)
    unit = Box(np.where(bounded, -1, low), np.where(bounded, 1, high), space.shape)
    return dataclasses.replace(environment, step=step, action_space=unit)


def rescaled_action(space: Space, action: Any) -> Any:
    """Returns a policy's action `[..., *shape]` in the units of `space`, clipped to it; see `rescale_actions`."""
    if not isinstance(space, Box):
        return action
    low, high, bounded = _bounds(space)
    lower, upper = np.where(bounded, low, -1), np.where(bounded, high, 1)
    centre, half_width = (lower + upper) / 2, (upper - lower) / 2
    rescaled = jnp.clip(jnp.where(bounded, centre + half_width * action, action), low, high)
    return jnp.asarray(rescaled, jnp.float32)


def _bounds(space: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the bounds of each dimension, and whether both are finite."""
    low, high = (np.broadcast_to(np.asarray(bound, np.float32), space.shape) for bound in (space.low, space.high))
    return low, high, (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)


def time_limit_terminates(environment: Environment) -> Environment:
    """Treats every truncation as a termination.

    This is right where the time limit is part of the task and the observation shows the time that is left.
    """
    check_is_environment(environment)

    def step(key: jax.Array, state: Any, action: Any, params: Any) -> tuple:
        state, observation, reward, terminated, truncated, info = environment.step(key, state, action, params)
        ends, never = jnp.asarray(terminated, bool) | jnp.asarray(truncated, bool), jnp.zeros_like(truncated)
        return state, observation, reward, ends, never, info

    return dataclasses.replace(environment, step=step)


class LimitParams(NamedTuple):
    """The params of `limit_steps`: those of the environment, and how many steps an episode has at most."""

    environment: Any
    max_steps_in_episode: Any


class LimitState(NamedTuple):
    """The state of `limit_steps`: that of the environment, and the steps since its reset."""

    environment: Any
    steps: jax.Array


def limit_steps(
    environment: Environment, max_steps_in_episode: int, time_limit: Literal["truncate", "terminate"] = "truncate"
) -> Environment:
    """Ends every episode after a number of steps, which is `params.max_steps_in_episode` of the result.

    Args:
      environment: The environment.
      max_steps_in_episode: The most steps of an episode, at least 1.
      time_limit: `"truncate"` (the next state has a value, which is bootstrapped) or `"terminate"` (the limit is part
        of the task: the value after it is 0).

    Raises:
      TypeError: if `environment` is no `gaejax.Environment`.
      ValueError: for a limit that is no whole number of at least 1, or another `time_limit`.
    """
    check_is_environment(environment)
    check_whole("max_steps_in_episode", max_steps_in_episode, least=1)
    if time_limit not in ("truncate", "terminate"):
        raise ValueError(f"time_limit must be 'truncate' or 'terminate', got {short(time_limit)}")

    def reset(key: jax.Array, params: LimitParams) -> tuple[LimitState, Any]:
        state, observation = environment.reset(key, params.environment)
        return LimitState(state, jnp.zeros((), jnp.int32)), observation

    def step(key: jax.Array, state: LimitState, action: Any, params: LimitParams) -> tuple:
        following, observation, reward, terminated, truncated, info = environment.step(
            key, state.environment, action, params.environment
        )
        steps = state.steps + 1
        terminated = jnp.asarray(terminated, bool)
        truncated = (jnp.asarray(truncated, bool) | (steps >= params.max_steps_in_episode)) & ~terminated
        return LimitState(following, steps), observation, reward, terminated, truncated, info

    params = LimitParams(environment.params, max_steps_in_episode)
    limited = dataclasses.replace(environment, reset=reset, step=step, params=params)
    return time_limit_terminates(limited) if time_limit == "terminate" else limited


class PoolParams(NamedTuple):
    """The params of `pool_resets`: those of the environment, and the states and observations `[size, ...]` to start
    from."""

    environment: Any
    starts: Any


def pool_resets(
    environment: Environment, size: int = 256, seed: int = 0, renew: Callable[[Any, jax.Array], Any] | None = None
) -> Environment:
    """Draws every reset from a pool of initial states, which are made once, here.

    `auto_reset` calls `reset` at every step of every environment, since a compiled program computes both branches. For
    physics a reset costs as much as a step or more; a draw costs one read. What changes: episodes start in one of
    `size` states rather than in a new one. The pool is in `params.starts` of the result, so it is stored with training
    states, once per seed.

    Args:
      environment: The environment.
      size: How many initial states there are, at least 1. 0 returns the environment unchanged.
      seed: The seed of the pool, which does not depend on the seed of a run.
      renew: `(state, key) -> state`: puts new randomness into a state that holds a key of its own. Without it, all
        episodes from one initial state would have the same noise.

    Raises:
      TypeError: if `environment` is no `gaejax.Environment`.
      ValueError: if `size` is no whole number of at least 0, or `seed` is none from 0 to 2**32 - 1.
    """
    check_is_environment(environment)
    check_whole("pool_size", size, least=0)
    check_seed("pool_seed", seed)
    if size == 0:
        return environment

    def reset(key: jax.Array, params: PoolParams) -> tuple[Any, Any]:
        draw_key, renew_key = jax.random.split(key)
        index = jax.random.randint(draw_key, (), 0, size)
        state, observation = jax.tree.map(lambda leaf: leaf[index], params.starts)
        return state if renew is None else renew(state, renew_key), observation

    def step(key: jax.Array, state: Any, action: Any, params: PoolParams) -> tuple:
        return environment.step(key, state, action, params.environment)

    keys = jax.random.split(jax.random.key(seed), size)
    starts = jax.jit(jax.vmap(environment.reset, (0, None)))(keys, environment.params)
    return dataclasses.replace(environment, reset=reset, step=step, params=PoolParams(environment.params, starts))
