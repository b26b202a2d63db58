"""Arrays of NumPy and PyTorch at the edge of the pure functions."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TRACED_SCALARS = ("discount", "gae_lambda", "trace_lambda", "value_lambda")


def accepts_host_arrays(estimator: Callable) -> Callable:
    """Lets an estimator take NumPy arrays or PyTorch tensors, and give back the caller's kind.

    If one of the arguments is JAX's, nothing is done. Otherwise time is padded in front, where no result depends on it,
    to one of a few sizes, and the program compiled for that size is used.
    """
    compiled = functools.cache(lambda static: jax.jit(functools.partial(estimator, **dict(static))))

    @functools.wraps(estimator)
    def wrapped(**arguments: Any) -> Any:
        kind = _kind(arguments)
        if kind is None:
            return estimator(**arguments)
        to_jax, from_jax, concatenate = kind
        rewards, axis = arguments.get("rewards"), arguments.get("time_axis", 0)
        with jax.enable_x64(any(str(getattr(x, "dtype", "")).endswith("float64") for x in arguments.values())):
            traced = {name: x for name, x in arguments.items() if _is_array(x)}
            static = {name: x for name, x in arguments.items() if name not in traced}
            for name in TRACED_SCALARS:  # a new value is no reason to compile
                if isinstance(static.get(name), float | int | np.floating) and not isinstance(static[name], bool):
                    dtype = np.float64 if jax.config.jax_enable_x64 else np.float32
                    traced[name] = np.asarray(static.pop(name), dtype)
            try:
                steps = rewards.shape[axis]
                padding = _padded(steps) - steps

                def padded(x: Any) -> Any:
                    if padding == 0 or x.ndim != rewards.ndim or x.shape[axis] == 1:
                        return to_jax(x)
                    # In the caller's library: JAX would compile the padding anew for every length.
                    shape = [padding if i == axis % x.ndim else size for i, size in enumerate(x.shape)]
                    zeros = np.zeros(shape, x.dtype) if isinstance(x, np.ndarray) else x.new_zeros(shape)
                    return to_jax(concatenate([zeros, x], axis))

                results = compiled(tuple(static.items()))(**{name: padded(x) for name, x in traced.items()})
            except (AttributeError, IndexError, TypeError, ValueError):
                padding = 0  # says what is wrong with what was given, not with what was padded
                results = estimator(**static, **{name: to_jax(x) for name, x in traced.items()})
            if any(isinstance(x, jax.core.Tracer) for x in results):  # constants within somebody's program
                return tuple(jax.lax.slice_in_dim(x, padding, None, axis=axis % x.ndim) for x in results)
            return tuple(from_jax(x, (slice(None),) * (axis % x.ndim) + (slice(padding, None),)) for x in results)

    return wrapped


def _kind(arguments: dict[str, Any]) -> tuple[Callable, Callable, Callable] | None:
    """How to turn the caller's arrays into JAX's, how to turn a part of JAX's back, and how to concatenate the
    caller's; None if there is nothing to turn."""
    arrays = [x for x in arguments.values() if _is_array(x)]
    if not arrays or any(isinstance(x, jax.Array) for x in arguments.values()):
        return None
    if not any(_is_torch(x) for x in arrays):
        return np.asarray, lambda x, part: np.array(np.asarray(x)[part]), np.concatenate
    import torch

    def to_jax(x: Any) -> jax.Array:
        return jnp.from_dlpack(x.detach().contiguous()) if _is_torch(x) else jnp.asarray(x)

    # Back comes a copy of one's own, which may be written to.
    return to_jax, lambda x, part: torch.from_dlpack(x)[part].clone(), torch.cat


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray) or _is_torch(x)


def _is_torch(x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == "torch" and hasattr(x, "__dlpack__")


def _padded(steps: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is not less than `steps`: at most a third is padding."""
    power = 1 << max(steps - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and steps <= power * 3 // 4 else power
