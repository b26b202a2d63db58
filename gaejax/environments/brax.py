"""The adapter for Brax (0.14): its environments as `gaejax.Environment` values."""

import importlib
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gaejax._arguments import short
from gaejax.environments.environment import Environment
from gaejax.environments.spaces import Box, Dict
from gaejax.environments.wrappers import limit_steps, pool_resets

PRIVILEGED = "privileged_state"  # the entry of an observation that only critics may see


def names() -> list[str]:
    """Returns the names of the environments."""
    return sorted(_package()._envs)


def make(
    name: str,
    *,
    max_steps_in_episode: int = 1000,
    time_limit: Literal["truncate", "terminate"] = "truncate",
    pool_size: int = 256,
    pool_seed: int = 0,
    **kwargs: Any,
) -> Environment:
    """Returns a Brax environment by name, without Brax's own wrappers.

    Args:
      name: One of `names()`.
      max_steps_in_episode: The most steps of an episode.
      time_limit: What the last of them is, see `limit_steps`.
      pool_size, pool_seed: The pool of initial states, see `pool_resets`; `pool_size=0` resets anew every time.
      **kwargs: Arguments of the environment's constructor, such as `backend="spring"`.

    Raises:
      ValueError: for an argument that the constructor does not take.
    """
    try:
        source = _package().get_environment(name, **kwargs)
    except Exception as error:  # whatever a constructor says to an argument that it cannot use
        message = " ".join(str(error).split())[:200]
        raise ValueError(f"brax:{name} cannot be made with {short(kwargs)}: {message}") from error
    environment = pool_resets(from_brax(source, f"brax:{name}"), pool_size, pool_seed, renewed)
    return limit_steps(environment, max_steps_in_episode, time_limit)


def _package() -> Any:
    return importlib.import_module("brax.envs")  # which takes seconds


class BraxState(NamedTuple):
    """The state of an environment of Brax, and its metrics, summed since the reset."""

    environment: Any
    metrics: dict[str, jax.Array]


def from_brax(source: Any, name: str) -> Environment:
    """Converts an environment object with Brax's methods to an `Environment`, which has no time limit.

    It terminates where `done` is set. The metrics of its steps are summed over an episode, as Brax's own wrapper does,
    and are `info["metrics"]`. Actions are in [-1, 1]. An observation of several parts is a `Dict` without
    `"privileged_state"`.

    Args:
      source: An object with `reset(key)`, `step(state, action)` and `action_size`, without wrappers.
      name: The name of the result.
    """

    def reset(key: jax.Array, params: Any) -> tuple[BraxState, Any]:
        state = source.reset(key)
        metrics = jax.tree.map(jnp.zeros_like, dict(state.metrics))
        return BraxState(state, metrics), _observed(state.obs)

    def step(key: jax.Array, state: BraxState, action: jax.Array, params: Any) -> tuple:
        before = jax.tree.map(jnp.asarray, state.environment)  # new dicts: some environments write into theirs
        after = source.step(before, jnp.clip(action, -1, 1))
        after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state.environment)
        metrics = jax.tree.map(jnp.add, state.metrics, dict(after.metrics))
        reward, terminated = jnp.asarray(after.reward, jnp.float32), after.done > 0
        info = {"metrics": metrics}
        return BraxState(after, metrics), _observed(after.obs), reward, terminated, jnp.zeros((), bool), info

    shapes = jax.eval_shape(lambda key: _observed(source.reset(key).obs), jax.random.key(0))
    boxes = jax.tree.map(lambda part: Box(-jnp.inf, jnp.inf, part.shape), shapes)
    observation_space = Dict(boxes) if isinstance(boxes, dict) else boxes
    return Environment(name, reset, step, observation_space, Box(-1.0, 1.0, (source.action_size,)))


def renewed(state: BraxState, key: jax.Array) -> BraxState:
    """Returns a state with `key` in the place of the key that it holds, if it holds one."""
    if "rng" not in state.environment.info:
        return state
    return state._replace(environment=state.environment.replace(info={**state.environment.info, "rng": key}))


def _observed(observation: Any) -> Any:
    """Returns what a policy may see of an observation, as float32."""
    if isinstance(observation, jax.Array):
        return jnp.asarray(observation, jnp.float32)
    return {name: jnp.asarray(part, jnp.float32) for name, part in observation.items() if name != PRIVILEGED}
