"""The adapter for MuJoCo Playground (0.2): its environments as `gaejax.Environment` values."""

import importlib
from typing import Any, Literal

from gaejax._arguments import short
from gaejax.environments.brax import from_brax, renewed
from gaejax.environments.environment import Environment
from gaejax.environments.wrappers import limit_steps, pool_resets


def names() -> list[str]:
    """Returns the names of the environments."""
    return list(_package().ALL_ENVS)


def make(
    name: str,
    *,
    max_steps_in_episode: int | None = None,
    time_limit: Literal["truncate", "terminate"] = "truncate",
    pool_size: int = 256,
    pool_seed: int = 0,
    impl: str = "jax",
    **kwargs: Any,
) -> Environment:
    """Returns an environment of MuJoCo Playground by name, without the package's own wrappers.

    The robots of its locomotion and manipulation suites are downloaded by the package when one is made for the first
    time. Its `action_repeat` is left to the user.

    Args:
      name: One of `names()`.
      max_steps_in_episode: The most steps of an episode. Default: `episode_length` of the environment's config.
      time_limit: What the last of them is, see `limit_steps`.
      pool_size, pool_seed: The pool of initial states, see `pool_resets`; `pool_size=0` resets anew every time.
      impl: How MJX computes. The package's own default, `"warp"`, needs an NVIDIA GPU.
      **kwargs: Other entries of the environment's config, such as `ctrl_dt`.

    Raises:
      ValueError: for an entry that the config does not have.
    """
    package, label = _package(), f"playground:{name}"
    try:
        config = package.get_default_config(name)
        source = package.load(name, config, config_overrides={"impl": impl, **kwargs})
    except Exception as error:  # whatever the package says to an entry that it cannot use
        message = " ".join(str(error).split())[:200]
        raise ValueError(f"{label} cannot be made with {short({'impl': impl, **kwargs})}: {message}") from error
    limit = config.episode_length if max_steps_in_episode is None else max_steps_in_episode
    return limit_steps(pool_resets(from_brax(source, label), pool_size, pool_seed, renewed), limit, time_limit)


def _package() -> Any:
    return importlib.import_module("mujoco_playground").registry  # which takes seconds
