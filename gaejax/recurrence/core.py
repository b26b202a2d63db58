"""The kernel: a first-order linear recurrence that runs backwards over time. It knows no RL."""

import json
import math
from collections.abc import Callable
from functools import cache, partial
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gaejax import checks
from gaejax.recurrence import forms, tpu

# Those that are differentiated as they are, and those whose derivative is the plain scan's.
PLAIN = {"scan": forms.scan, "associative": forms.associative}
FAST = {
    "slices": forms.slices,
    "staged": forms.staged,
    "blocks": forms.blocks,
    "pallas": tpu.pallas,
    "pallas_lanes": tpu.pallas_lanes,
}
METHODS = ("auto", *PLAIN, *FAST)


def reverse_linear_recurrence(
    drive: Any,
    decay: Any,
    initial: Any = None,
    *,
    reset: Any = None,
    time_axis: int = 0,
    method: str = "auto",
    axis_name: str | None = None,
) -> jax.Array:
    """Solves `x[t] = drive[t] + decay[t] * x[t + 1]` from the last step to the first.

    Where `reset[t]` is true the successor is replaced by 0 *before* it is multiplied, so a NaN or an infinity behind
    the boundary reaches neither the results nor the gradients. (A decay of 0 is no boundary: `x` still depends on it.)

    Args:
      drive: `[T, ...]` floats, or with time on `time_axis`.
      decay: a scalar, or an array of the rank of `drive` with axes of size 1 or full.
      initial: `x[T]`, the state behind the last step, the shape of `drive` without its time axis. Default: zeros.
      reset: optional booleans of the shape of `drive`; true where the recurrence does not look at its successor.
      time_axis: the axis of `drive` that is time.
      method: `"auto"` chooses by shape for the platform that the program is lowered for. To fix it: `"scan"` (serial),
        `"slices"` (serial, in place), `"staged"` (the same for large arrays), `"blocks"` (serial, a few rows at a
        time), `"associative"` (parallel in time), `"pallas"` (TPU), `"pallas_lanes"` (TPU, for few rows). All agree to
        rounding. The Pallas kernels lower for one platform at a time; elsewhere than on a TPU they are interpreted,
        which is slow.
      axis_name: inside `jax.shard_map`, the mesh axis over which time is split: each device solves its part, and one
        all-gather of three numbers a row joins them. `initial` is then read on the last device.

    Returns:
      `x`, of the shape and dtype of `drive`. Differentiable, to any order and in both modes, in `drive`, `decay` and
      `initial`.

    Raises:
      TypeError, ValueError: if an argument has the wrong dtype or shape; the message names it.
    """
    drive = checks.as_float("drive", drive)
    axis = checks.time_axis("drive", drive, time_axis)
    decay = checks.as_float("decay", decay).astype(drive.dtype)
    checks.broadcastable("decay", decay, drive.shape, "drive")
    if initial is not None:
        initial = checks.as_float("initial", initial).astype(drive.dtype)
        checks.same_shape("initial", initial, _without(drive.shape, axis), "drive without its time axis")
    if reset is None:
        return solve(_given, _state, (drive, decay), initial, axis, method, axis_name)
    reset = checks.as_bool("reset", reset)
    checks.same_shape("reset", reset, drive.shape, "drive")
    return solve(_given_with_reset, _state, (drive, decay, reset), initial, axis, method, axis_name)


def solve(
    terms: Callable,
    results: Callable,
    inputs: tuple,
    initial: jax.Array | None,
    axis: int,
    method: str = "auto",
    axis_name: str | None = None,
) -> Any:
    """The recurrence with what comes before it and behind it in the same pass over memory.

    Args:
      terms: elementwise, `(*inputs) -> (drive, decay, reset or None)`; a module's own function, not a closure.
      results: elementwise, `(x, *inputs) -> results`.
      inputs: arrays, the first of the full shape, the others scalars or of its rank with axes of size 1 or full.
      initial, axis, method, axis_name: as for `reverse_linear_recurrence`.

    Returns:
      What `results` returns, with arrays of the full shape.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    shape = inputs[0].shape
    if initial is None:
        initial = jnp.zeros(_without(shape, axis), jnp.result_type(*(x for x in inputs if x.dtype != jnp.bool_)))
    # Scalars stay scalars; what has axes of size 1 takes the full shape.
    inputs = tuple(
        x.reshape(()) if x.size == 1 and x.shape != shape else x if not x.ndim else jnp.broadcast_to(x, shape)
        for x in inputs
    )
    if axis_name is not None:
        initial = _state_behind(axis_name, *terms(*inputs), initial, axis, method)
    return _solve(terms, results, inputs, initial, axis, method)


def choose(platform: str, shape: tuple[int, ...], axis: int, table: dict | None = None) -> str:
    """The method of the table `choices.json` for a platform (`"cpu"`, `"tpu"`, `"cuda"`): the last rule that fits."""
    steps, rows = shape[axis], math.prod(_without(shape, axis))
    rules = (table or _choices())[platform]["last" if axis == len(shape) - 1 else "first"]
    return [
        rule["method"]
        for rule in rules
        if rule.get("min_rows", 0) <= rows <= rule.get("max_rows", rows) and rule.get("min_steps", 0) <= steps
    ][-1]


@cache
def _choices() -> dict:
    return json.loads(resources.files("gaejax.recurrence").joinpath("choices.json").read_text())


@partial(jax.jit, static_argnums=(0, 1, 4, 5))
def _solve(terms: Callable, results: Callable, inputs: tuple, initial: jax.Array, axis: int, method: str) -> Any:
    if method in PLAIN:
        return PLAIN[method](terms, results, inputs, initial, axis)
    return _with_the_derivative_of_scan(terms, results, axis, method, inputs, initial)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _with_the_derivative_of_scan(
    terms: Callable, results: Callable, axis: int, method: str, inputs: tuple, initial: jax.Array
) -> Any:
    every = PLAIN | FAST
    if method != "auto":
        return every[method](terms, results, inputs, initial, axis)

    def form(platform: str) -> Callable:
        chosen = every[choose(platform, inputs[0].shape, axis)]
        return lambda inputs, initial: chosen(terms, results, inputs, initial, axis)

    platforms = {platform: form(platform) for platform in _choices()}
    return lax.platform_dependent(inputs, initial, **platforms, default=form("cpu"))


@_with_the_derivative_of_scan.defjvp
def _derivative_of_scan(
    terms: Callable, results: Callable, axis: int, method: str, primals: tuple, tangents: tuple
) -> tuple:
    # The value comes from the same form as without a derivative: where two forms batch to different axes, JAX (0.10.2)
    # takes the axis of one for that of the other.
    value = _with_the_derivative_of_scan(terms, results, axis, method, *primals)
    scan = lambda inputs, initial: forms.scan(terms, results, inputs, initial, axis)  # noqa: E731
    return value, jax.jvp(scan, primals, tangents)[1]


def _state_behind(
    axis_name: str,
    drive: jax.Array,
    decay: jax.Array,
    reset: jax.Array | None,
    initial: jax.Array,
    axis: int,
    method: str,
) -> jax.Array:
    """The state behind this device's part of time, `x` at the first step of the next device's part.

    Each part is one step of the same recurrence, `x_first = drive + decay * x_behind`, hidden if it holds a reset.
    """
    reset = jnp.zeros(drive.shape, bool) if reset is None else reset
    first = lambda x: lax.index_in_dim(x, 0, axis, keepdims=False)  # noqa: E731
    part_drive = first(reverse_linear_recurrence(drive, decay, reset=reset, time_axis=axis, method=method))
    part_decay = first(
        reverse_linear_recurrence(
            jnp.zeros_like(drive), decay, jnp.ones_like(initial), reset=reset, time_axis=axis, method=method
        )
    )
    part_reset = jnp.any(reset, axis)
    parts = lax.all_gather(jnp.stack([part_drive, part_decay, part_reset.astype(drive.dtype), initial]), axis_name)
    drives, decays, resets, initials = jnp.moveaxis(parts, 1, 0)
    firsts = reverse_linear_recurrence(drives, decays, initials[-1], reset=resets > 0, method="scan")
    return jnp.concatenate([firsts[1:], initials[-1:]])[lax.axis_index(axis_name)]


def _given(drive: jax.Array, decay: jax.Array) -> tuple:
    return drive, decay, None


def _given_with_reset(drive: jax.Array, decay: jax.Array, reset: jax.Array) -> tuple:
    return drive, decay, reset


def _state(x: jax.Array, *inputs: jax.Array) -> jax.Array:
    return x


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]
