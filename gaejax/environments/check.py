"""The check that an environment keeps to the protocol. Nothing is computed: both functions are only traced."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gaejax.environments.environment import Environment
from gaejax.environments.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space

STEP_RESULTS = "(state, observation, reward, terminated, truncated, info)"


def check_environment(environment: Environment, params: Any = None) -> None:
    """Checks that an environment returns what the protocol says: see `Environment`.

    Integer and boolean rewards, integer flags, weakly typed numbers, and states whose types `auto_reset` can cast are
    accepted. A reset that calls Python (`pure_callback`, `io_callback`) gets a warning: `auto_reset` would call it at
    every step.

    Args:
      environment: The environment to check.
      params: The params to check it with; default: `environment.params`.

    Raises:
      TypeError: if `environment` is not a `gaejax.Environment`.
      ValueError: for anything else, with one line: the environment's name, what it returned, what it should return.
    """
    _traced(environment, params)


def metric_names(environment: Environment, params: Any = None) -> tuple[str, ...]:
    """Returns the sorted names in the `info["metrics"]` of an environment's step, `()` if it has none.

    Args:
      environment: The environment.
      params: Its params; default: `environment.params`.

    Raises:
      TypeError, ValueError: as `check_environment`.
    """
    return _traced(environment, params)


def check_is_environment(environment: Any) -> None:
    """Raises TypeError, with one line, unless the argument is a `gaejax.Environment`."""
    if isinstance(environment, Environment):
        return
    kind = type(environment)
    if isinstance(environment, str):
        remedy = f"make it with gaejax.make({environment!r})"
    elif callable(getattr(environment, "step_env", None)):
        remedy = "convert it with gaejax.environments.from_gymnax(environment, params)"
    elif kind.__module__.partition(".")[0] in ("gymnasium", "gym") or hasattr(environment, "unwrapped"):
        remedy = "its step is ordinary Python, which JAX cannot compile; see gaejax.environment_names() for others"
    elif callable(environment):
        remedy = "call it, if it returns one"
    else:
        remedy = "make one with gaejax.make(name) or gaejax.Environment(...)"
    what = "None" if environment is None else f"a {kind.__module__}.{kind.__qualname__}".replace("builtins.", "")
    raise TypeError(f"environment must be a gaejax.Environment, got {what}: {remedy}")


def _traced(environment: Environment, params: Any) -> tuple[str, ...]:
    """Traces a reset and a step, raises for what does not fit, and returns the names of the metrics."""
    check_is_environment(environment)
    name = environment.name
    params = environment.params if params is None else params
    for what, space in (("observation", environment.observation_space), ("action", environment.action_space)):
        if not isinstance(space, Space):
            kind = type(space).__name__
            raise ValueError(f"{what}_space of {name} must be one of gaejax.environments', got {kind}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not _is_array(leaf):
            where = f"params{jax.tree_util.keystr(path)}"
            raise ValueError(f"{name}: {where} must be an array or a number, got {_described(leaf)}")
    metrics: list[str] = []

    def trace(key: jax.Array, action: Any, params: Any) -> None:
        state, observation = _checked_reset(environment, key, params)
        following = _called(name, "step", environment.step, key, state, action, params)
        metrics.extend(_checked_step(environment, state, observation, following))

    traced = jax.make_jaxpr(trace)(jax.random.key(0), _element(environment.action_space), params)
    # Few environments call Python at all, and the reset of those is traced by itself.
    if _calls_python(traced.jaxpr) and _calls_python(
        jax.make_jaxpr(environment.reset)(jax.random.key(0), params).jaxpr
    ):
        warnings.warn(
            f"{name}: reset calls Python, and auto_reset calls reset at every step of every environment: "
            "make initial states beforehand, and let reset read one",
            stacklevel=3,
        )
    return tuple(sorted(metrics))


def _calls_python(jaxpr: Any) -> bool:
    """Returns whether a traced function, or one inside it, calls back to Python for its results."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("pure_callback", "io_callback"):
            return True
        parts = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda part: hasattr(part, "eqns"))
        inner = [getattr(part, "jaxpr", part) for part in parts]
        if any(_calls_python(part) for part in inner if hasattr(part, "eqns")):
            return True
    return False


def _checked_reset(environment: Environment, key: jax.Array, params: Any) -> tuple[Any, Any]:
    name = environment.name
    made = _called(name, "reset", environment.reset, key, params)
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise ValueError(f"{name}: reset must return (state, observation), got {_described(made)}")
    state, observation = made
    _check_arrays(name, "state of reset", state)
    problem = next(_mismatches("observation", observation, environment.observation_space), None)
    if problem:
        swapped = next(_mismatches("observation", state, environment.observation_space), None) is None
        order = ": return the state first, then the observation" if swapped else ""
        raise ValueError(f"{name}: reset must return (state, observation), but its {problem}{order}")
    return jax.tree.map(jnp.asarray, made)  # as any transformation of JAX would hand them to `step`


def _checked_step(environment: Environment, state: Any, observation: Any, made: Any) -> list[str]:
    """Checks what a step returned against the reset before it, and returns the names of its metrics."""
    name, space = environment.name, environment.observation_space
    if not isinstance(made, tuple | list) or len(made) != 6:
        raise ValueError(f"{name}: step must return {STEP_RESULTS}, got {_described(made)}")
    next_state, next_observation, reward, terminated, truncated, info = made
    problem = next(_changes("state", state, next_state), None)
    if problem:
        fits = next(_mismatches("observation", next_state, space), None) is None
        swapped = fits and next(_changes("state", state, next_observation), None) is None
        order = ": return the state first, then the observation" if swapped else ""
        raise ValueError(f"{name}: step must return {STEP_RESULTS}, but its {problem}{order}")
    problem = next(_mismatches("observation", next_observation, space), None)
    problem = problem or next(_changes("observation", observation, next_observation), None)
    if problem:
        raise ValueError(f"{name}: step must return {STEP_RESULTS}, but its {problem}")
    for what, number in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
        if not _is_array(number) or jnp.shape(number) != () or not _is_real(number):
            kind = "a number" if what == "reward" else "a boolean"
            raise ValueError(f"{name}: {what} of step must be {kind} of shape (), got {_described(number)}")
    return _checked_info(name, info)


def _checked_info(name: str, info: Any) -> list[str]:
    """Checks the last result of a step, and returns the names of its metrics."""
    if not isinstance(info, Mapping):
        raise ValueError(f"{name}: info of step must be a dict (it may be empty), got {_described(info)}")
    trainable = info.get("trainable", True)
    if not _is_array(trainable) or jnp.shape(trainable) != () or jnp.result_type(trainable) != jnp.bool_:
        raise ValueError(f"{name}: info['trainable'] must be a boolean of shape (), got {_described(trainable)}")
    metrics = info.get("metrics", {})
    if not isinstance(metrics, Mapping):
        raise ValueError(f"{name}: info['metrics'] must be a dict of scalars, got {_described(metrics)}")
    for metric, value in metrics.items():
        if not isinstance(metric, str):
            raise ValueError(f"{name}: the names in info['metrics'] must be strings, got {metric!r}")
        if not _is_array(value) or jnp.shape(value) != () or not _is_real(value):
            where = f"info['metrics'][{metric!r}]"
            raise ValueError(f"{name}: {where} must be a number of shape (), got {_described(value)}")
    for key, value in info.items():
        _check_arrays(name, f"info[{key!r}]", value)
    return list(metrics)


def _called(name: str, function: str, call: Any, *arguments: Any) -> Any:
    """Calls a function of the environment; what it raises becomes one line, with the exception attached."""
    if not callable(call):
        raise ValueError(f"{name}: {function} must be a function, got {_described(call)}")
    try:
        return call(*arguments)
    except Exception as error:
        message = (str(error).strip().splitlines() or [""])[0]
        given = "(key, params)" if function == "reset" else "(key, state, action, params)"
        raise ValueError(f"{name}: {function}{given} raised {type(error).__name__}: {message}") from error


def _check_arrays(name: str, what: str, tree: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not _is_array(leaf):
            where = f"{what}{jax.tree_util.keystr(path)}"
            raise ValueError(f"{name}: {where} must be an array or a number, got {_described(leaf)}")


def _mismatches(what: str, value: Any, space: Space) -> Iterator[str]:
    """Says where `value` is not an element of `space`, as far as its structure, shapes and types tell."""
    if isinstance(space, Dict):
        if not isinstance(value, Mapping):
            yield f"{what} must be a dict with {_listed(space.spaces)}, got {_described(value)}"
            return
        if set(value) != set(space.spaces):
            yield f"{what} must be a dict with {_listed(space.spaces)}, got one with {_listed(value)}"
            return
        for name, part in space.spaces.items():
            yield from _mismatches(f"{what}[{name!r}]", value[name], part)
        return
    kinds = {Box: "real numbers", MultiBinary: "booleans"}
    wanted = f"{kinds.get(type(space), 'integers')} of shape {space.shape}"
    fits = _is_array(value) and jnp.shape(value) == space.shape and _is_real(value)
    if not fits or (not isinstance(space, Box) and jnp.issubdtype(jnp.result_type(value), jnp.floating)):
        yield f"{what} must be {wanted}, as its {type(space).__name__} says, got {_described(value)}"


def _changes(what: str, first: Any, following: Any) -> Iterator[str]:
    """Says where what a step returns cannot take the place of what a reset returned."""
    before, after = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (first, following))
    for path, leaf in after.items():
        if not _is_array(leaf):
            yield f"{what}{jax.tree_util.keystr(path)} must be an array or a number, got {_described(leaf)}"
    if jax.tree.structure(first) != jax.tree.structure(following):
        paths = [path for path in [*before, *after] if (path in before) != (path in after)]
        if paths:
            place = f"{what}{jax.tree_util.keystr(paths[0])}"
            who, other = ("reset", "step") if paths[0] in before else ("step", "reset")
            leaf = _described((before | after)[paths[0]])
            yield f"{place} must be in what reset and step return: {who} has {leaf} there, {other} has nothing"
        else:
            yield f"{what} must have the structure of reset's, {_described(first)}, got {_described(following)}"
        return
    for path, leaf in before.items():
        if jnp.shape(leaf) != jnp.shape(after[path]) or not _castable(after[path], leaf):
            place, was = f"{what}{jax.tree_util.keystr(path)}", _described(leaf)
            yield f"{place} must keep the shape and type of reset's, {was}, got {_described(after[path])}"


def _castable(new: Any, old: Any) -> bool:
    """Returns whether `auto_reset` can cast an array to the type of another without losing what it means."""
    new, old = jnp.result_type(new), jnp.result_type(old)
    if jnp.issubdtype(new, jax.dtypes.extended) or jnp.issubdtype(old, jax.dtypes.extended):
        return new == old
    return bool(jnp.can_cast(new, old, "same_kind"))


def _element(space: Space) -> Any:
    """Returns the shape and type of an action in `space`, as policies sample it."""
    if isinstance(space, Dict):
        return {name: _element(part) for name, part in space.spaces.items()}
    dtypes = {Discrete: jnp.int32, MultiDiscrete: jnp.int32, Box: jnp.float32, MultiBinary: jnp.bool_}
    return jax.ShapeDtypeStruct(space.shape, dtypes[type(space)])


def _is_array(leaf: Any) -> bool:
    """Returns whether JAX can compute with a leaf of a pytree."""
    if isinstance(leaf, jax.Array):
        return True
    try:
        return not isinstance(leaf, Mapping | list | tuple) and jnp.shape(jnp.asarray(leaf)) is not None
    except (TypeError, ValueError, OverflowError):
        return False


def _is_real(array: Any) -> bool:
    """Returns whether an array holds booleans, integers or floats."""
    dtype = jnp.result_type(array)
    return dtype == jnp.bool_ or jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "no entries"


def _described(value: Any) -> str:
    """Describes a value by its type, and its shape or length."""
    if value is None:
        return "None"
    if isinstance(value, Mapping):
        return f"a dict with {_listed(value)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if _is_array(value):
        return f"{jnp.result_type(value)} of shape {jnp.shape(value)}"
    return f"a {type(value).__name__}"
