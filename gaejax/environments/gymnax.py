"""The adapter for gymnax (1.x): its environments as `gaejax.Environment` values."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from gaejax._arguments import short
from gaejax.environments.environment import Environment
from gaejax.environments.spaces import Box, Dict, Discrete, Space
from gaejax.environments.wrappers import rescale_actions, time_limit_terminates

UNUSABLE = {
    "SimpleBandit-bsuite": "its arms are permuted anew at every one-step episode, so there is nothing to learn",
    "MNISTBandit-bsuite": "it downloads its data when it is constructed",
}


def names() -> list[str]:
    """Returns the names of the usable environments."""
    import gymnax  # seconds to import, and needed only by those who use it

    return [name for name in gymnax.registered_envs if name not in UNUSABLE]


def make(name: str, *, time_limit: Literal["truncate", "terminate"] = "truncate", **kwargs: Any) -> Environment:
    """Returns a gymnax environment by name.

    Args:
      name: One of `names()`.
      time_limit: `"truncate"` (the next state has a value, which is bootstrapped) or `"terminate"` (the limit is part
        of the task: the value after it is 0).
      **kwargs: Arguments of the environment's constructor (`mapping_seed=3`) and fields of its params
        (`max_steps_in_episode=50`), told apart by name.

    Returns:
      An `Environment` with float rewards, float32 or int32 observations and boolean flags. Bounded real actions are
      rescaled from [-1, 1] to the environment's own units, and clipped.

    Raises:
      ValueError: for an unknown argument or option, or an unsupported space.
    """
    import gymnax

    if time_limit not in ("truncate", "terminate"):
        raise ValueError(f"time_limit must be 'truncate' or 'terminate', got {time_limit!r}")
    default, default_params = gymnax.make(name)
    params_fields = set(vars(default_params))
    constructor = inspect.signature(type(default).__init__).parameters.values()
    arguments = {p.name: p.default for p in constructor if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"}
    unknown = set(kwargs) - params_fields - set(arguments)
    if unknown:
        raise ValueError(
            f"{name} has no argument {', '.join(map(repr, sorted(unknown)))}: its constructor takes "
            f"{sorted(arguments) or 'none'}, its params are {sorted(params_fields)}"
        )
    for key, value in kwargs.items():
        usual = arguments[key] if key in arguments else getattr(default_params, key)
        _check_argument(
            f"{name}: {key}", value, usual, least=1 if key in (*arguments, "max_steps_in_episode") else None
        )
    own = {key: value for key, value in kwargs.items() if key not in arguments}
    try:
        source, params = gymnax.make(name, **{key: value for key, value in kwargs.items() if key in arguments})
        environment = from_gymnax(source, params.replace(**own), name)
    except Exception as error:  # whatever a constructor says to an argument that it cannot use
        given = ", ".join(f"{key}={short(value)}" for key, value in kwargs.items() if key in arguments)
        raise ValueError(f"{name} cannot be made with {given or own}: {' '.join(str(error).split())[:200]}") from error
    return time_limit_terminates(environment) if time_limit == "terminate" else environment


def _check_argument(what: str, value: Any, usual: Any, least: int | None) -> None:
    """Raises ValueError unless a value can stand in place of the usual one: a number or an array of its kind and shape.

    Args:
      what: How messages call it.
      value: The value; traced ones may be any number.
      usual: The default; of another kind than a number or an array, everything passes.
      least: The least that a whole number may be, or the default if that is less.
    """
    if isinstance(usual, str) or not isinstance(usual, bool | int | float | np.ndarray | np.generic | jax.Array):
        return
    wanted = np.asarray(usual)
    described = {"b": "True or False", "i": "a whole number", "u": "a whole number"}.get(wanted.dtype.kind, "a number")
    if wanted.ndim:
        described = f"an array of shape {wanted.shape}"
    problem = f"{what} must be {described}, such as {short(usual)}, got {short(value)}"
    if isinstance(value, jax.core.Tracer):
        if value.dtype == jnp.bool_ and wanted.dtype.kind != "b":
            raise ValueError(f"{what} must be {described}, got a traced array of {value.dtype}")
        return
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths
        raise ValueError(problem) from None
    kinds = {"b": "b", "i": "iuf", "u": "iuf"}.get(wanted.dtype.kind, "iuf")
    if array.dtype.kind not in kinds or array.shape != wanted.shape:
        raise ValueError(problem)
    if array.dtype.kind == "b":
        return
    limits = np.finfo(np.float32) if wanted.dtype.kind == "f" else np.iinfo(np.int32)
    infinite = np.isinf(array) & ~np.all(np.isfinite(wanted))
    if not np.all(infinite | (array >= float(limits.min)) & (array <= float(limits.max))):
        raise ValueError(f"{what} must be finite, and within {limits.dtype}, got {short(value)}")
    if wanted.dtype.kind in "iu":
        if not np.all(array == np.floor(array)):
            raise ValueError(problem)
        if least is not None and np.any(array < (lower := min(least, int(wanted.min())))):
            raise ValueError(f"{what} must be at least {lower}, got {short(value)}")


def from_gymnax(source: Any, params: Any, name: str | None = None) -> Environment:
    """Converts an environment object with gymnax's methods, and its `params`, to an `Environment`.

    Integers of a discrete space that does not start at 0 are shifted, so that here all count from 0. The entry
    `"metrics"` of the source's info is passed on, the others are dropped.

    Classes written for gymnax 0.0.x report their time limit as a death: they have `is_terminal`, but neither
    `is_truncated` nor `is_terminated`. They are stepped with a limit one longer, so that what they report is their
    other ends, and are truncated where the time in their state reaches the limit.

    Args:
      source: An object with `reset_env`, `step_env`, `is_truncated`, `observation_space` and `action_space`.
      params: Its params.
      name: The name of the result; default: `source.name`.

    Raises:
      TypeError: if `source` lacks one of these methods.
      ValueError: for a space that is neither discrete, a box, nor a dict of these, and for a class of the old form
        whose params have no limit or whose state has no time.
    """
    old = _is_of_the_old_form(source)
    methods = ("reset_env", "step_env", "is_truncated", "observation_space", "action_space")
    methods = tuple(method for method in methods if method != "is_truncated" or not old)
    missing = [method for method in methods if not callable(getattr(source, method, None))]
    if missing:
        kind = f"{type(source).__module__}.{type(source).__name__}"
        raise TypeError(f"source must be an environment of gymnax, got a {kind} without {', '.join(missing)}")
    label = name or str(source.name)
    source_space, source_action_space = source.observation_space(params), source.action_space(params)
    observation_space = _space(source_space, f"observation space of {label}")
    action_space = _space(source_action_space, f"action space of {label}")
    first_action = _start(source_action_space)
    limit, clock = _limit_and_clock(source, params, label) if old else ("", "")

    def reset(key: jax.Array, params: Any) -> tuple[Any, Any]:
        observation, state = source.reset_env(key, params)
        return state, _cast(observation, source_space, observation_space)

    def step(key: jax.Array, state: Any, action: Any, params: Any) -> tuple:
        action = action + first_action if first_action else action
        longer = params.replace(**{limit: getattr(params, limit) + 1}) if old else params
        observation, state, reward, terminated, info = source.step_env(key, state, action, longer)
        terminated = jnp.asarray(terminated, bool)
        out_of_time = getattr(state, clock) >= getattr(params, limit) if old else source.is_truncated(state, params)
        truncated = jnp.asarray(out_of_time, bool) & ~terminated
        return (
            state,
            _cast(observation, source_space, observation_space),
            jnp.asarray(reward, jnp.float32).reshape(()),
            terminated,
            truncated,
            {"metrics": info["metrics"]} if isinstance(info, Mapping) and "metrics" in info else {},
        )

    return rescale_actions(Environment(label, reset, step, observation_space, action_space, params))


def _is_of_the_old_form(source: Any) -> bool:
    """Returns whether an environment's `step_env` reports its time limit as the end of the world."""

    def own(method: str) -> bool:  # defined by more than the base class of gymnax 1.x
        base = "gymnax.environments.environment"
        return any(method in vars(kind) for kind in type(source).__mro__ if kind.__module__ != base)

    return own("is_terminal") and not own("is_terminated") and not own("is_truncated")


def _limit_and_clock(source: Any, params: Any, label: str) -> tuple[str, str]:
    """Returns the names of the limit in an old environment's params, and of the steps so far in its state.

    Raises:
      ValueError: if there is none.
    """
    _, state = jax.eval_shape(source.reset_env, jax.random.key(0), params)
    limits = [name for name in ("max_steps_in_episode", "max_timesteps", "max_steps") if hasattr(params, name)]
    clocks = [name for name in ("time", "timestep", "step", "step_count", "t") if hasattr(state, name)]
    if not limits or not clocks or not callable(getattr(params, "replace", None)):
        missing = "params have no max_steps_in_episode" if not limits else "state has no time"
        raise ValueError(
            f"{label} has gymnax's old form, in which a time limit is a death, and its {missing}: "
            "give it is_truncated(state, params), and leave the limit out of the done of step_env"
        )
    return limits[0], clocks[0]


def _space(space: Any, what: str) -> Space:
    """Returns our counterpart of a space, which is known by the name of its class or of one that it inherits from.

    Raises:
      ValueError: if there is none, or the space lacks an attribute or has one that cannot be kept.
    """
    if isinstance(space, Space):
        return space
    kinds = {kind.__name__ for kind in type(space).__mro__}
    if "Dict" in kinds and isinstance(getattr(space, "spaces", None), Mapping):
        return Dict({name: _space(part, f"{name} in the {what}") for name, part in space.spaces.items()})
    try:
        if "Discrete" in kinds:
            if tuple(space.shape) != ():
                raise ValueError(f"a Discrete must have shape (), got {space.shape}")
            _start(space)
            return Discrete(space.n)
        if "Box" in kinds:
            return Box(np.asarray(space.low), np.asarray(space.high), tuple(space.shape))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"the {what} is not usable: {error}") from None
    raise ValueError(f"the {what} is a {type(space).__name__}: only Discrete, Box and a Dict of them are supported")


def _start(space: Any) -> int:
    """Returns the first integer of a discrete space (0 unless its `start` says otherwise)."""
    return int(getattr(space, "start", 0))


def _cast(observation: Any, source_space: Any, space: Space) -> Any:
    """Returns an observation as int32 counted from 0 for a discrete space, as float32 for a box."""
    if isinstance(space, Dict):
        parts = source_space.spaces
        return {name: _cast(observation[name], parts[name], part) for name, part in space.spaces.items()}
    if isinstance(space, Discrete):
        start = _start(source_space)
        return jnp.asarray(observation - start if start else observation, jnp.int32)
    return jnp.asarray(observation, jnp.float32 if isinstance(space, Box) else None)
