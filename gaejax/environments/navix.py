"""The adapter for Navix (0.7): its environments as `gaejax.Environment` values."""

import importlib
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gaejax._arguments import check_whole, short
from gaejax.environments.environment import Environment
from gaejax.environments.spaces import Box, Discrete
from gaejax.environments.wrappers import limit_steps


def names() -> list[str]:
    """Returns the names of the environments."""
    return list(_package().registry())


def make(
    name: str,
    *,
    max_steps_in_episode: int = 100,
    time_limit: Literal["truncate", "terminate"] = "truncate",
    **kwargs: Any,
) -> Environment:
    """Returns a Navix environment by name, without its automatic reset.

    Observations, which are small whole numbers, are real numbers here: a box from 0 to 255.

    Args:
      name: One of `names()`.
      max_steps_in_episode: The most steps of an episode.
      time_limit: What the last of them is, see `limit_steps`.
      **kwargs: Arguments of the environment's constructor, such as `observation_fn`.

    Raises:
      ValueError: for an argument that the constructor does not take.
    """
    check_whole("max_steps_in_episode", max_steps_in_episode, least=1)
    try:
        source = _package().make(name, max_steps=max_steps_in_episode, **kwargs)
    except Exception as error:  # whatever a constructor says to an argument that it cannot use
        message = " ".join(str(error).split())[:200]
        raise ValueError(f"navix:{name} cannot be made with {short(kwargs)}: {message}") from error
    pictures = "observation_fn" in kwargs  # which are drawn from tiles that the state holds; others need none

    def kept(timestep: Any) -> Any:
        return timestep if pictures else timestep.replace(state=timestep.state.replace(cache=None))

    def reset(key: jax.Array, params: Any) -> tuple[Any, Any]:
        timestep = kept(source.reset(key))
        return timestep, jnp.asarray(timestep.observation, jnp.float32)

    def step(key: jax.Array, timestep: Any, action: jax.Array, params: Any) -> tuple:
        after = source._step(timestep, action)  # `step` would reset
        after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, timestep)
        reward, terminated = jnp.asarray(after.reward, jnp.float32), after.is_termination()
        observation = jnp.asarray(after.observation, jnp.float32)
        return after, observation, reward, terminated, jnp.zeros((), bool), {}

    observation_space = Box(0.0, 255.0, tuple(source.observation_space.shape))
    environment = Environment(f"navix:{name}", reset, step, observation_space, Discrete(len(source.action_set)))
    return limit_steps(environment, max_steps_in_episode, time_limit)


def _package() -> Any:
    return importlib.import_module("navix")  # which takes seconds
