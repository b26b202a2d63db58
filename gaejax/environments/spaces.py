"""Observation and action spaces. Impossible ones are refused when they are made."""

import dataclasses
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers `0 .. n - 1`.

    Raises:
      ValueError: if `n` is not a whole number of at least 1.
    """

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _whole_number("n of Discrete", self.n, least=1))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one element: `()`."""
        return ()


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """Real arrays of one shape.

    Attributes:
      low, high: Bounds, broadcast to `shape`; they may be infinite.
      shape: The shape of one element.

    Raises:
      ValueError: if a bound is NaN or does not broadcast to `shape`, if `low` exceeds `high`, or if a size is negative.
    """

    low: Any
    high: Any
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _sizes("shape of Box", self.shape, least=0))
        if isinstance(self.low, Tracer) or isinstance(self.high, Tracer):
            return  # made inside a compiled function, where the bounds cannot be read
        low, high = (_bound(name, getattr(self, name), self.shape) for name in ("low", "high"))
        if np.any(low > high) or np.any(low == np.inf) or np.any(high == -np.inf):
            raise ValueError(f"low of Box must not exceed high, got low={_short(self.low)}, high={_short(self.high)}")


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Several choices at once: integers `[K]`, the k-th in `0 .. sizes[k] - 1`.

    Raises:
      ValueError: if a size is not a whole number of at least 1.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", _sizes("sizes of MultiDiscrete", self.sizes, least=1))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one element: `(K,)`."""
        return (len(self.sizes),)


@dataclasses.dataclass(frozen=True)
class MultiBinary:
    """Booleans of one shape, for example an action mask.

    Raises:
      ValueError: if a size is not a whole number of at least 0.
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _sizes("shape of MultiBinary", self.shape, least=0))


@dataclasses.dataclass(frozen=True, eq=False)
class Dict:
    """Several observations by name.

    A `MultiBinary` called `"action_mask"` says which actions may be taken.

    Raises:
      ValueError: if `spaces` is not a mapping from strings to spaces.
    """

    spaces: Mapping[str, "Space"]

    def __post_init__(self) -> None:
        if not isinstance(self.spaces, Mapping):
            raise ValueError(f"spaces of Dict must be a mapping from names to spaces, got {_short(self.spaces)}")
        for name, space in self.spaces.items():
            if not isinstance(name, str):
                raise ValueError(f"names of Dict must be strings, got {name!r}")
            if not isinstance(space, Space):
                raise ValueError(f"{name!r} of Dict must be a space of gaejax.environments, got {_short(space)}")


Space = Discrete | Box | MultiDiscrete | MultiBinary | Dict

UNBOUNDED = np.finfo(np.float32).max  # how some packages write an infinite bound


def _whole_number(what: str, value: Any, least: int) -> int:
    """Returns `value` as an int. Raises ValueError unless it is a whole number of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f"{what} must be a whole number of at least {least}, got {_short(value)}")
    return number


def _sizes(what: str, values: Any, least: int) -> tuple[int, ...]:
    """Returns `values` as a tuple of whole numbers of at least `least`."""
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise ValueError(f"{what} must be a tuple of whole numbers, got {_short(values)}")
    return tuple(_whole_number(f"each entry of the {what}", value, least) for value in values)


def _bound(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a bound of a `Box`, broadcast to its shape. Raises ValueError if it is NaN, or has another shape."""
    try:
        bound = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} of Box must be a number or an array of numbers, got {_short(value)}") from None
    if np.any(np.isnan(bound)):
        raise ValueError(f"{name} of Box must not be NaN, got {_short(value)}")
    try:
        return np.broadcast_to(bound, shape)
    except ValueError:
        raise ValueError(f"{name} of Box must broadcast to its shape {shape}, got shape {bound.shape}") from None


def _short(value: Any) -> str:
    """Returns the start of a value's `repr` on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


MASK = "action_mask"
"""The name of the entry of a `Dict` of observations that says which actions may be taken."""


def zeros(space: Space) -> Any:
    """Returns an observation of zeros. (An action mask of zeros allows everything.)"""
    if isinstance(space, Dict):
        return {name: zeros(part) for name, part in space.spaces.items()}
    dtypes: dict[type, Any] = {Box: jnp.float32, MultiBinary: jnp.bool_}
    return jnp.zeros(space.shape, dtypes.get(type(space), jnp.int32))
