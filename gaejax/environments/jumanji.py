"""The adapter for Jumanji (1.1): its environments as `gaejax.Environment` values."""

import importlib
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gaejax._arguments import check_whole, short
from gaejax.environments.environment import Environment
from gaejax.environments.spaces import MASK, Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space
from gaejax.environments.wrappers import limit_steps

SEVERAL = "it has a reward for each of several agents"
UNUSABLE = {
    "Connector-v3": SEVERAL,
    "LevelBasedForaging-v0": SEVERAL,
    "SearchAndRescue-v0": SEVERAL,
    "Sokoban-v0": "it downloads its data when it is constructed",
}
COUNT = "step_count"  # the entry of an observation that grows up to the time limit


def names() -> list[str]:
    """Returns the names of the usable environments."""
    return sorted(set(_package().registered_environments()) - set(UNUSABLE))


def make(
    name: str,
    *,
    max_steps_in_episode: int | None = None,
    time_limit: Literal["truncate", "terminate"] = "truncate",
    **kwargs: Any,
) -> Environment:
    """Returns a Jumanji environment by name.

    Observations are a `Dict` without levels (`"items.x_len"`): booleans, integers below a bound, or real numbers, as
    which all other integers are given. `"step_count"` is given as a share of the limit. Where the package's
    `"action_mask"` speaks of all choices at once, actions are the integers of their product.

    Args:
      name: One of `names()`.
      max_steps_in_episode: The most steps of an episode. Default: the environment's own limit, if it has one.
      time_limit: What the last of them is, see `limit_steps`. Jumanji itself reports its limits as terminations.
      **kwargs: Arguments of the environment's constructor, such as `num_rows`.

    Raises:
      ValueError: for an argument that the constructor does not take, and for several rewards or an unsupported space.
    """
    if max_steps_in_episode is not None:
        check_whole("max_steps_in_episode", max_steps_in_episode, least=1)
    label = f"jumanji:{name}"
    try:
        source = _package().make(name, **kwargs)
        own = getattr(source, "time_limit", None)
        limit = max_steps_in_episode or own
        if own is not None and limit is not None:  # it would report its own as a death
            source = _package().make(name, **kwargs, time_limit=limit + 1)
    except Exception as error:  # whatever a constructor says to an argument that it cannot use
        message = " ".join(str(error).split())[:200]
        raise ValueError(f"{label} cannot be made with {short(kwargs)}: {message}") from error
    if source.reward_spec.shape != ():
        raise ValueError(f"environment {label!r} is not usable: {SEVERAL}")
    environment = from_jumanji(source, label, limit)
    return environment if limit is None else limit_steps(environment, limit, time_limit)


def from_jumanji(source: Any, name: str, limit: int | None = None) -> Environment:
    """Converts an environment object with Jumanji's methods to an `Environment`.

    The last step of an episode is a termination where its discount is 0, otherwise a truncation. Scalars of its
    `extras` are `info["metrics"]`.

    Args:
      source: An object with `reset`, `step`, `observation_spec` and `action_spec`.
      name: The name of the result.
      limit: The step at which `"step_count"` is 1 in observations.

    Raises:
      ValueError: for an unsupported action space.
    """
    spaces = {place: _space(place, spec) for place, spec in _leaves(source.observation_spec)}
    mask = spaces.get(MASK)
    action_space, to_source = _actions(source.action_spec, mask if isinstance(mask, MultiBinary) else None, name)
    if isinstance(mask, MultiBinary):
        spaces[MASK] = MultiBinary((math.prod(mask.shape),))

    def observed(observation: Any) -> Any:
        made = {place: _observed(_at(observation, place), space) for place, space in spaces.items()}
        return made | ({COUNT: made[COUNT] / limit} if COUNT in made and limit else {})

    def reset(key: jax.Array, params: Any) -> tuple[Any, Any]:
        state, timestep = source.reset(key)
        return state, observed(timestep.observation)

    def step(key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple:
        state, timestep = source.step(state, to_source(action))
        terminated = timestep.last() & (timestep.discount == 0)
        metrics = {place: value for place, value in timestep.extras.items() if jnp.shape(value) == ()}
        reward, observation = jnp.asarray(timestep.reward, jnp.float32), observed(timestep.observation)
        return state, observation, reward, terminated, timestep.last() & ~terminated, {"metrics": metrics}

    return Environment(name, reset, step, Dict(spaces), action_space)


def _package() -> Any:
    return importlib.import_module("jumanji")  # which takes seconds


def _leaves(spec: Any, place: str = "") -> list[tuple[str, Any]]:
    """Returns the arrays of a spec by their places, such as `"items.x_len"`."""
    if not spec._specs:
        return [(place or "observation", spec)]
    return [leaf for name, part in spec._specs.items() for leaf in _leaves(part, f"{place}.{name}".strip("."))]


def _at(observation: Any, place: str) -> Any:
    for name in place.split("."):
        observation = getattr(observation, name, observation)
    return observation


def _space(place: str, spec: Any) -> Box | Discrete | MultiBinary:
    if place == COUNT:
        return Box(0.0, 1.0, ())
    if spec.dtype == jnp.bool_:
        return MultiBinary(tuple(spec.shape))
    if hasattr(spec, "num_values") and spec.shape == ():
        return Discrete(int(spec.num_values))
    low, high = getattr(spec, "minimum", -np.inf), getattr(spec, "maximum", np.inf)
    return Box(low, high, tuple(spec.shape))


def _observed(value: Any, space: Box | Discrete | MultiBinary) -> jax.Array:
    dtypes: dict[type, Any] = {Box: jnp.float32, Discrete: jnp.int32, MultiBinary: jnp.bool_}
    return jnp.asarray(value, dtypes[type(space)]).reshape(space.shape)


def _actions(spec: Any, mask: MultiBinary | None, name: str) -> tuple[Space, Any]:
    """Returns the action space, and the function from its elements to actions of the package."""

    def cast(action: Any) -> jax.Array:
        return jnp.asarray(action, spec.dtype)

    if spec.shape == () and hasattr(spec, "num_values"):
        return Discrete(int(spec.num_values)), cast
    if len(spec.shape) == 1 and jnp.issubdtype(spec.dtype, jnp.integer):
        bounds = np.broadcast_to(getattr(spec, "num_values", np.asarray(spec.maximum) + 1), spec.shape)
        sizes = tuple(map(int, bounds))
        if mask is not None and mask.shape == sizes:
            return Discrete(math.prod(sizes)), lambda action: cast(jnp.stack(jnp.unravel_index(action, sizes)))
        if mask is not None:  # one row for each choice, and where its width is not what the spec says, it is right
            sizes = (mask.shape[-1],) * len(sizes)
        return MultiDiscrete(sizes), cast
    raise ValueError(f"the action space of {name} is not usable: only integers are, got {short(spec)}")
