"""The adapter for Craftax (1.6): its environments as `gaejax.Environment` values."""

import importlib
from typing import Any, Literal

import jax.numpy as jnp

from gaejax._arguments import check_whole, did_you_mean, short
from gaejax.environments.environment import Environment
from gaejax.environments.gymnax import from_gymnax
from gaejax.environments.wrappers import pool_resets, time_limit_terminates

NAMES = ("Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1", "Craftax-Classic-Pixels-v1", "Craftax-Pixels-v1")


def names() -> list[str]:
    """Returns the names of the environments."""
    importlib.import_module("craftax")
    return list(NAMES)


def make(
    name: str,
    *,
    max_steps_in_episode: int | None = None,
    time_limit: Literal["truncate", "terminate"] = "truncate",
    pool_size: int = 0,
    pool_seed: int = 0,
    **kwargs: Any,
) -> Environment:
    """Returns a Craftax environment by name.

    `info["metrics"]` has 100 for each achievement of an episode and 0 for the others, so that means over episodes are
    success rates in percent.

    Args:
      name: One of `names()`.
      max_steps_in_episode: The most steps of an episode. Default: the package's, 10 000 (Classic) or 100 000.
      time_limit: `"truncate"` or `"terminate"`: what the last of them is, see `limit_steps`.
      pool_size, pool_seed: The pool of initial worlds, see `pool_resets`. By default there is none: every episode is
        in a new world.
      **kwargs: Other fields of the environment's params, such as `zombie_health`.

    Raises:
      ValueError: for an argument that is none of them.
    """
    if time_limit not in ("truncate", "terminate"):
        raise ValueError(f"time_limit must be 'truncate' or 'terminate', got {short(time_limit)}")
    source = importlib.import_module("craftax.craftax_env").make_craftax_env_from_name(name, auto_reset=False)
    params = source.default_params
    fields = vars(params)
    for unknown in set(kwargs) - (set(fields) - {"max_timesteps"}):
        raise ValueError(f"craftax:{name} has no argument {unknown!r}{did_you_mean(unknown, fields)}")
    if max_steps_in_episode is not None:
        check_whole("max_steps_in_episode", max_steps_in_episode, least=1)
        kwargs["max_timesteps"] = max_steps_in_episode
    environment = _with_achievements(from_gymnax(source, params.replace(**kwargs), f"craftax:{name}"), name)
    environment = pool_resets(environment, pool_size, pool_seed)
    return time_limit_terminates(environment) if time_limit == "terminate" else environment


def _with_achievements(environment: Environment, name: str) -> Environment:
    game = "craftax_classic" if "Classic" in name else "craftax"
    achievements = {each.name.lower(): each.value for each in _constants(game).Achievement}

    def step(key: Any, state: Any, action: Any, params: Any) -> tuple:
        state, *others, _ = environment.step(key, state, action, params)
        metrics = {each: jnp.asarray(state.achievements[place] * 100.0) for each, place in achievements.items()}
        return state, *others, {"metrics": metrics}

    return environment.replace(step=step)


def _constants(game: str) -> Any:
    return importlib.import_module(f"craftax.{game}.constants")
