"""Wrappers: functions that make a new environment from another."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
