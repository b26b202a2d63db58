"""Checks arguments while tracing: one line names the argument, its value and the remedy."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def as_float(name: str, value: Any) -> jax.Array:
    """Returns `value` as a floating-point array.

    Raises:
      TypeError: If it holds anything but floating-point numbers (integer rewards lose fractions).
    """
    whole_number = isinstance(value, int) and not isinstance(value, bool)  # discount=1 loses nothing
    array = _as_array(name, float(value) if whole_number else value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating-point, got {array.dtype}: cast it with {name}.astype('float32')")
    return array


def as_bool(name: str, value: Any) -> jax.Array:
    """Returns `value` as an array of booleans.

    Raises:
      TypeError: If it holds anything but booleans (a float may be a probability, a discount or a mask).
    """
    array = _as_array(name, value)
    if array.dtype != jnp.bool_:
        raise TypeError(f"{name} must be boolean, got {array.dtype}: cast it with {name}.astype(bool)")
    return array


def coefficient(name: str, value: Any, like: jax.Array, reference: str) -> jax.Array:
    """Returns `value` as floats of the dtype of the argument `like`, which is called `reference`.

    Raises:
      TypeError: If it holds anything but floating-point numbers.
      ValueError: Unless it is a scalar or has the rank of `like` with axes of size 1 or full size. A bare vector for
        `[T, N]` is refused, for it could mean either axis.
    """
    array = as_float(name, value).astype(like.dtype)
    fits = array.ndim == like.ndim and all(a in (1, s) for a, s in zip(array.shape, like.shape, strict=True))
    if array.ndim and not fits:
        raise ValueError(
            f"{name} must be a scalar or have the rank of {reference}, {like.shape}, with axes of size 1 or full, "
            f"got {array.shape}"
        )
    return array


def time_axis(name: str, array: jax.Array, axis: int) -> int:
    """Returns `axis` counted from the front.

    Raises:
      ValueError: If `array` has no such axis, or no step on it.
    """
    if not -array.ndim <= axis < array.ndim:
        which = "a leading time axis" if axis == 0 else f"a time axis at time_axis={axis}"
        raise ValueError(f"{name} must have {which} of at least one step, got shape {array.shape}")
    if array.shape[axis] == 0:
        raise ValueError(f"{name} must have a time axis of at least one step, got shape {array.shape}")
    return axis % array.ndim


def same_shape(name: str, array: jax.Array, shape: Sequence[int], reference: str) -> None:
    """Raises a ValueError unless `array` has exactly the shape of the argument called `reference`."""
    if array.shape != tuple(shape):
        raise ValueError(f"{name} must have the shape of {reference}, {tuple(shape)}, got {array.shape}")


def _as_array(name: str, value: Any) -> jax.Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array, got {type(value).__name__}") from error
