"""The environment protocol: a value with two pure functions, and the transforms that make new ones of it."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers `0 .. n - 1`."""

    n: int
    shape: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """Real arrays of one shape; `low` and `high` are broadcast to it and may be infinite."""

    low: Any
    high: Any
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Several choices at once: integers `[K]`, the k-th in `0 .. sizes[k] - 1`."""

    sizes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.sizes),)


@dataclasses.dataclass(frozen=True)
class MultiBinary:
    """Booleans of one shape, for example an action mask."""

    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Dict:
    """Several observations by name. One called `"action_mask"`, a `MultiBinary`, says which actions may be taken."""

    spaces: Mapping[str, "Space"]


Space = Discrete | Box | MultiDiscrete | MultiBinary | Dict

UNBOUNDED = np.finfo(np.float32).max  # how some packages write an infinite bound


@dataclasses.dataclass(frozen=True, eq=False)
class Environment:
    """An environment is a value. Both functions are pure, for one environment (we `vmap` them), without auto-reset.

    Attributes:
      name: what it is called in messages and files.
      reset: `(key, params) -> (state, observation)`.
      step: `(key, state, action, params) -> (state, observation, reward, terminated, truncated, info)`.
        `reward` is a float. `terminated`: the successor is worth 0. `truncated`: the episode was cut and the successor
        is real; where both are set, termination wins. `info["trainable"]`, where given, says whether the action was
        the policy's own (false: a forced action, kept out of every loss and statistic).
      observation_space: `Discrete`, `Box`, `MultiDiscrete`, `MultiBinary`, or a `Dict` of these.
      action_space: `Discrete`, `MultiDiscrete` or a `Box` of one axis.
      params: a pytree handed to both functions; its array and number leaves can be vmapped.
    """

    name: str
    reset: Callable
    step: Callable
    observation_space: Space
    action_space: Space
    params: Any = ()

    def replace(self, **changes: Any) -> "Environment":
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)


class AutoResetState(NamedTuple):
    """An environment's state, and whether its observation is the last one of an episode."""

    environment: Any
    final: jax.Array


def auto_reset(environment: Environment) -> Environment:
    """Starts the next episode on the step *after* the last one (next-step reset).

    The observation after an episode's last step is its final one, a row of its own: the action taken on it is ignored,
    that step returns the next episode's first observation with reward 0 and no flags, `info["trainable"]` false and
    `info["reset"]` true. So the value of every successor is the value of the next row.
    """

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

    return environment.replace(reset=reset, step=step)


def _select(name: str, starts: jax.Array, first: Any, following: Any) -> jax.Array:
    """`first` where an episode starts, else `following`, in the dtype of a reset."""
    first, following = jnp.asarray(first), jnp.asarray(following)
    if first.dtype != following.dtype and not jnp.can_cast(following.dtype, first.dtype, "same_kind"):
        message = f"{name}: its step returns {following.dtype} where its reset returns {first.dtype}"
        raise TypeError(f"{message}: make them the same")
    return jnp.where(starts, first, following.astype(first.dtype)).astype(first.dtype)


def rescale_actions(environment: Environment) -> Environment:
    """Lets a policy act in units of its own: [-1, 1] covers a bounded action dimension, what lies outside is clipped.

    Dimensions without two finite bounds are only clipped to what they have, and discrete actions pass unchanged. The
    result's action space is [-1, 1], so doing it twice is doing it once.
    """
    space = environment.action_space
    if not isinstance(space, Box):
        return environment

    def step(key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple:
        return environment.step(key, state, rescaled_action(space, action), params)

    low, high, bounded = _bounds(space)
    unit = Box(np.where(bounded, -1, low), np.where(bounded, 1, high), space.shape)
    return environment.replace(step=step, action_space=unit)


def rescaled_action(space: Space, action: Any) -> Any:
    """A policy's action `[..., *shape]` in units of the space: see `rescale_actions`."""
    if not isinstance(space, Box):
        return action
    low, high, bounded = _bounds(space)
    lower, upper = np.where(bounded, low, -1), np.where(bounded, high, 1)
    centre, half_width = (lower + upper) / 2, (upper - lower) / 2
    rescaled = jnp.clip(jnp.where(bounded, centre + half_width * action, action), low, high)
    return jnp.asarray(rescaled, jnp.float32)


def _bounds(space: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bounds of each dimension, and whether both are finite."""
    low, high = (np.broadcast_to(np.asarray(bound, np.float32), space.shape) for bound in (space.low, space.high))
    return low, high, (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)


def time_limit_terminates(environment: Environment) -> Environment:
    """Takes every truncation for a termination: right where the limit is part of the task and the clock is observed."""

    def step(key: jax.Array, state: Any, action: Any, params: Any) -> tuple:
        state, observation, reward, terminated, truncated, info = environment.step(key, state, action, params)
        return state, observation, reward, terminated | truncated, jnp.zeros_like(truncated), info

    return environment.replace(step=step)
