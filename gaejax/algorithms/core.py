"""What an algorithm is: a value with two pure functions, and what its configs share."""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gaejax.environments import Environment


class Algorithm(NamedTuple):
    """A training algorithm, bound to an environment and a policy, in the manner of optax and blackjax.

    Attributes:
      init: `(key, config, source=None) -> state`. The state is everything that must persist, the config included. A
        `source`, a trained state of any algorithm with the same policy, is a warm start: its parameters and its
        statistics of observations are taken over, its optimizer is not.
      step: `state -> (state, info)`, one rollout and its updates. The info is small and aggregated.
      act: `(state, carry, observations, resets) -> (carry, distributions, values)`: the policy as it stands, its
        normalizer included, over time-major `[T, N, ...]`.
      initial_carry: `N -> carry`, the policy's memory before the first observation.
      environment: what it trains on, as the caller gave it (it does not reset itself).
    """

    init: Callable
    step: Callable
    act: Callable
    initial_carry: Callable
    environment: Environment


def strong(tree: Any) -> Any:
    """Every leaf as an array of its own, strongly typed: a weak type would come back strong from a checkpoint, and
    trace again to other bits; a buffer that appears twice could not be donated."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.result_type(leaf), copy=True), tree)


def strong_floats(config: Any) -> Any:
    """A config whose float hyperparameters are float32 arrays."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), config)


def adam(learning_rate: jax.Array) -> optax.GradientTransformation:
    """Adam as PPO implementations use it, epsilon 1e-5."""
    return optax.adam(learning_rate, eps=1e-5)


def inherited(name: str, ours: Any, theirs: Any) -> Any:
    """`theirs`, in the place of `ours`.

    Raises:
      ValueError: naming the first leaf that does not fit.
    """
    own, other = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (ours, theirs))
    for path in [*own, *(path for path in other if path not in own)]:
        here, there = (getattr(leaves.get(path), "shape", None) for leaves in (own, other))
        if here != there:
            leaf = name + jax.tree_util.keystr(path)
            raise ValueError(f"source must have been trained with this policy: {leaf} is {there} there, {here} here")
    return theirs


def check_config(config: Any, unit_interval: tuple[str, ...] = (), positive: tuple[str, ...] = ()) -> None:
    """Refuses sizes below 1 (below 0 where 0 is the default) and hyperparameters that are negative or not finite.
    Tracers are let pass.

    Args:
      config: a dataclass of numbers, whose defaults say which field is a size, a number, or may be None.
      unit_interval: fields that must not exceed 1 either.
      positive: fields that must not be 0 either.

    Raises:
      ValueError: naming the field and its value.
    """
    for field in dataclasses.fields(config):
        name, value, default = field.name, getattr(config, field.name), field.default
        if isinstance(value, jax.core.Tracer) or isinstance(default, str) or (value is None and default is None):
            continue
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, got {value!r}")
        elif isinstance(default, int):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
            if value < min(default, 1):
                raise ValueError(f"{name} must be at least {min(default, 1)}, got {value}")
        else:
            array = None if isinstance(value, bool | str) or value is None else np.asarray(value)
            if array is None or array.size == 0 or array.dtype.kind not in "iuf":
                raise ValueError(f"{name} must be a number, got {value!r}")
            lower_bounded = array > 0 if name in positive else array >= 0
            upper = 1 if name in unit_interval else np.inf
            if not np.all(np.isfinite(array) & lower_bounded & (array <= upper)):
                wanted = "finite and positive" if name in positive else "finite and not negative"
                raise ValueError(f"{name} must be {'between 0 and 1' if upper == 1 else wanted}, got {value}")
