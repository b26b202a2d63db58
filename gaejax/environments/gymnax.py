"""gymnax (1.x) environments as `gaejax.Environment` values."""

import difflib
import inspect
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.environments.core import Box, Dict, Discrete, Environment, Space, rescale_actions, time_limit_terminates

UNUSABLE = {
    "SimpleBandit-bsuite": "its arms are permuted anew at every one-step episode, so there is nothing to learn",
    "MNISTBandit-bsuite": "it downloads its data when it is constructed",
}


def environment_names() -> list[str]:
    """The names that `make` takes."""
    import gymnax  # seconds to import, and needed only by those who use it

    return [name for name in gymnax.registered_envs if name not in UNUSABLE]


def make(name: str, *, time_limit: Literal["truncate", "terminate"] = "truncate", **kwargs: Any) -> Environment:
    """A gymnax environment by name.

    Args:
      name: for example `"CartPole-v1"`; see `environment_names()`.
      time_limit: `"truncate"` (the successor is real and is bootstrapped) or `"terminate"` (the limit is part of the
        task: what follows is worth 0).
      **kwargs: arguments of the environment's constructor (`mapping_seed=3`) and fields of its params
        (`max_steps_in_episode=50`), told apart by name.

    Returns:
      An `Environment` with float rewards, float32 or int32 observations and boolean flags. Bounded real actions are in
      units of [-1, 1], rescaled to the environment's own and clipped.

    Raises:
      ValueError: for an unknown name, argument, option or space; the message says what there is.
    """
    import gymnax

    names = environment_names()
    if name in UNUSABLE:
        raise ValueError(f"environment {name!r} is not usable: {UNUSABLE[name]}")
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
        raise ValueError(f"unknown environment {name!r}: {hint}")
    if time_limit not in ("truncate", "terminate"):
        raise ValueError(f"time_limit must be 'truncate' or 'terminate', got {time_limit!r}")

    default, default_params = gymnax.make(name)
    params_fields = set(vars(default_params))
    constructor = inspect.signature(type(default).__init__).parameters.values()
    arguments = {p.name for p in constructor if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"}
    unknown = set(kwargs) - params_fields - arguments
    if unknown:
        raise ValueError(
            f"{name} has no argument {', '.join(map(repr, sorted(unknown)))}: its constructor takes "
            f"{sorted(arguments) or 'none'}, its params are {sorted(params_fields)}"
        )
    for field in params_fields & set(kwargs):
        try:
            jnp.asarray(kwargs[field])
        except (TypeError, ValueError):
            raise ValueError(f"{name}: {field} must be a number, got {kwargs[field]!r}") from None
    source, params = gymnax.make(name, **{key: value for key, value in kwargs.items() if key in arguments})
    params = params.replace(**{key: value for key, value in kwargs.items() if key not in arguments})
    environment = from_gymnax(source, params, name)
    return time_limit_terminates(environment) if time_limit == "terminate" else environment


def from_gymnax(source: Any, params: Any, name: str | None = None) -> Environment:
    """An environment object of gymnax, yours or theirs, with its `params`, as an `Environment`.

    Raises:
      ValueError: for a space that is neither discrete, a box, nor a dict of these.
    """
    name = name or source.name
    observation_space = _space(source.observation_space(params), f"observation space of {name}")
    action_space = _space(source.action_space(params), f"action space of {name}")

    def reset(key: jax.Array, params: Any) -> tuple[Any, jax.Array]:
        observation, state = source.reset_env(key, params)
        return state, _cast(observation, observation_space)

    def step(key: jax.Array, state: Any, action: Any, params: Any) -> tuple:
        observation, state, reward, terminated, _ = source.step_env(key, state, action, params)
        terminated = jnp.asarray(terminated, bool)
        truncated = jnp.asarray(source.is_truncated(state, params), bool) & ~terminated
        return (
            state,
            _cast(observation, observation_space),
            jnp.asarray(reward, jnp.float32).reshape(()),
            terminated,
            truncated,
            {},
        )

    return rescale_actions(Environment(name, reset, step, observation_space, action_space, params))


def _space(space: Any, what: str) -> Space:
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n))
    if kind == "Box":
        return Box(np.asarray(space.low), np.asarray(space.high), tuple(space.shape))
    if kind == "Dict":
        return Dict({name: _space(part, f"{name} in the {what}") for name, part in space.spaces.items()})
    raise ValueError(f"the {what} is a {kind}: only Discrete, Box and a Dict of them are supported")


def _cast(observation: Any, space: Space) -> Any:
    """An observation in the house's types: int32 for a discrete space, float32 for a box."""
    if isinstance(space, Dict):
        return {name: _cast(observation[name], part) for name, part in space.spaces.items()}
    return jnp.asarray(observation, jnp.int32 if isinstance(space, Discrete) else jnp.float32)
