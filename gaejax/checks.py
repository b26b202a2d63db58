"""Argument checks at trace time: one line that names the argument, the value and the remedy."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def as_float(name: str, value: Any) -> jax.Array:
    """`value` as a floating-point array.

    Raises:
      TypeError: if it holds anything but floating-point numbers (integer rewards swallow fractions).
    """
    whole_number = isinstance(value, int) and not isinstance(value, bool)  # discount=1 is no rounding accident
    array = _as_array(name, float(value) if whole_number else value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating-point, got {array.dtype}: cast it with {name}.astype('float32')")
    return array


def as_bool(name: str, value: Any) -> jax.Array:
    """`value` as an array of booleans.

    Raises:
      TypeError: if it holds anything but booleans (a float flag may be a probability, a discount or a mask).
    """
    array = _as_array(name, value)
    if array.dtype != jnp.bool_:
        raise TypeError(f"{name} must be boolean, got {array.dtype}: cast it with {name}.astype(bool)")
    return array


def time_axis(name: str, array: jax.Array, axis: int) -> int:
    """`axis` counted from the front.

    Raises:
      ValueError: if `array` has no such axis, or no step on it.
    """
    if not -array.ndim <= axis < array.ndim:
        which = "a leading time axis" if axis == 0 else f"a time axis at time_axis={axis}"
        raise ValueError(f"{name} must have {which} of at least one step, got shape {array.shape}")
    if array.shape[axis] == 0:
        raise ValueError(f"{name} must have a time axis of at least one step, got shape {array.shape}")
    return axis % array.ndim


def same_shape(name: str, array: jax.Array, shape: Sequence[int], reference: str) -> None:
    """Raises ValueError unless `array` has exactly the shape of the argument called `reference`."""
    if array.shape != tuple(shape):
        raise ValueError(f"{name} must have the shape of {reference}, {tuple(shape)}, got {array.shape}")


def broadcastable(name: str, array: jax.Array, shape: Sequence[int], reference: str) -> None:
    """Raises ValueError unless `array` is a scalar or has the rank of `shape` with axes of size 1 or full.

    A bare vector against `[T, N]` would have to be guessed (steps or rows?), so it is refused.
    """
    if array.ndim == 0:
        return
    fits = array.ndim == len(shape) and all(a in (1, s) for a, s in zip(array.shape, shape, strict=True))
    if not fits:
        raise ValueError(
            f"{name} must be a scalar or have the rank of {reference}, {tuple(shape)}, with axes of size 1 or full, "
            f"got {array.shape}"
        )


def _as_array(name: str, value: Any) -> jax.Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array, got {type(value).__name__}") from error
