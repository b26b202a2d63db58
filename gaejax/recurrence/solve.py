"""Solves a first-order linear recurrence that runs backwards over time. Knows no reinforcement learning."""

import json
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.typing import ArrayLike

from gaejax import _arguments
from gaejax.recurrence import methods

# The plain methods are differentiated as they are; the derivative of the fast ones is the plain scan's.
PLAIN = ("scan", "associative")
FAST = ("slices", "staged", "blocks", "pallas", "pallas_lanes")
METHODS = ("auto", *PLAIN, *FAST)


def reverse_linear_recurrence(
    drive: ArrayLike,
    decay: ArrayLike,
    initial: ArrayLike | None = None,
    *,
    reset: ArrayLike | None = None,
    time_axis: int = 0,
    method: str = "auto",
    axis_name: str | None = None,
) -> jax.Array:
    """Solves `x[t] = drive[t] + decay[t] * x[t + 1]` from the last step to the first.

    Where `reset[t]` is true the successor `x[t + 1]` is replaced by 0 *before* it is multiplied, so that a NaN or an
    infinity after the boundary reaches neither the results nor the gradients. (A decay of 0 is not a boundary: 0 * NaN
    is NaN.)

    Args:
      drive: `[T, ...]` floats, or with time on `time_axis`.
      decay: A scalar, or an array of the rank of `drive` whose axes have size 1 or full size.
      initial: `x[T]`, the state after the last step, with the shape of `drive` without its time axis. Default: zeros.
      reset: Optional booleans with the shape of `drive`, true where the successor is replaced by 0.
      time_axis: The axis of `drive` that is time.
      method: How to compute it. `"auto"` chooses by shape, for the platform that the program is lowered for. The others
        are `"scan"` (serial), `"slices"` (serial, in place), `"staged"` (`"slices"` for large arrays), `"blocks"`
        (serial, a few sequences at a time), `"associative"` (parallel in time), `"pallas"` (TPU) and `"pallas_lanes"`
        (TPU, for few sequences). All agree up to rounding. The Pallas kernels run on a TPU; elsewhere they are
        interpreted, which is slow, and a program that names them can be lowered for only one platform at a time.
      axis_name: Inside `jax.shard_map`, the mesh axis over which time is split. Each device solves its own part, and
        one all-gather of four numbers per sequence joins the parts. `initial` is then read on the last device.

    Returns:
      `x`, with the shape and dtype of `drive`. It is differentiable in `drive`, `decay` and `initial`, to any order and
      in both modes.

    Raises:
      TypeError: If an argument has the wrong dtype.
      ValueError: If an argument has the wrong shape, or `method` is unknown.
    """
    drive = _arguments.as_array("drive", drive, float)
    axis = _arguments.time_axis("drive", drive, time_axis)
    decay = _arguments.coefficient("decay", decay, drive, "drive")
    if initial is not None:
        initial = _arguments.as_array("initial", initial, float).astype(drive.dtype)
        one_step = drive.shape[:axis] + drive.shape[axis + 1 :]
        _arguments.same_shape("initial", initial, one_step, "drive without its time axis")
    if reset is None:
        return solve(_given, _state, (drive, decay), initial, axis, method, axis_name)
    reset = _arguments.as_array("reset", reset, bool)
    _arguments.same_shape("reset", reset, drive.shape, "drive")
    return solve(_given_with_reset, _state, (drive, decay, reset), initial, axis, method, axis_name)


def solve(
    terms: methods.Terms,
    results: methods.Results,
    inputs: tuple[jax.Array, ...],
    initial: jax.Array | None,
    axis: int,
    method: str = "auto",
    axis_name: str | None = None,
) -> Any:
    """Solves the recurrence, with what precedes and follows it in the same pass over memory.

    Args:
      terms: Elementwise `(*inputs) -> (drive, decay, reset or None)`; a module-level function, so that programs are
        cached by it.
      results: Elementwise `(x, *inputs) -> results`, likewise.
      inputs: Arrays: the first of the full shape, the others scalars or of the same rank with axes of size 1 or full
        size.
      initial, axis, method, axis_name: As in `reverse_linear_recurrence`.

    Returns:
      What `results` returns, with arrays of the full shape.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    shape = inputs[0].shape
    if initial is None:
        initial = jnp.zeros(without_axis(shape, axis), jnp.result_type(*(x for x in inputs if x.dtype != jnp.bool_)))
    # Scalars stay scalars; what has axes of size 1 takes the full shape.
    inputs = tuple(
        x.reshape(()) if x.size == 1 and x.shape != shape else x if not x.ndim else jnp.broadcast_to(x, shape)
        for x in inputs
    )
    if axis_name is not None:
        initial = _state_after(axis_name, *terms(*inputs), initial, axis, method)
    return _solve(terms, results, inputs, initial, axis, method)


def choose(platform: str, shape: tuple[int, ...], axis: int, table: dict | None = None) -> str:
    """Returns the method that `choices.json` names for a platform (`"cpu"`, `"tpu"`, `"cuda"`) and a shape.

    The last rule that fits decides.
    """
    steps, rows = shape[axis], math.prod(without_axis(shape, axis))
    rules = (table or _choices())[platform]["last" if axis == len(shape) - 1 else "first"]
    return [
        rule["method"]
        for rule in rules
        if rule.get("min_rows", 0) <= rows <= rule.get("max_rows", rows) and rule.get("min_steps", 0) <= steps
    ][-1]


@cache
def _choices() -> dict:
    return json.loads(resources.files("gaejax.recurrence").joinpath("choices.json").read_text())


def without_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


@partial(jax.jit, static_argnums=(0, 1, 4, 5))
def _solve(
    terms: methods.Terms, results: methods.Results, inputs: tuple, initial: jax.Array, axis: int, method: str
) -> Any:
    if method in PLAIN:
        return _function(method)(terms, results, inputs, initial, axis)
    return _with_the_derivative_of_scan(terms, results, axis, method, inputs, initial)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _with_the_derivative_of_scan(
    terms: methods.Terms, results: methods.Results, axis: int, method: str, inputs: tuple, initial: jax.Array
) -> Any:
    if method != "auto":
        return _function(method)(terms, results, inputs, initial, axis)
    element = [jax.ShapeDtypeStruct((), x.dtype) for x in (initial, *inputs)]
    outputs, structure = jax.tree.flatten(jax.eval_shape(results, *element))
    call = dict(terms=terms, results=results, shape=inputs[0].shape, axis=axis)
    dtypes = tuple(output.dtype for output in outputs)
    return jax.tree.unflatten(structure, recurrence_p.bind(*inputs, initial, **call, dtypes=dtypes, batches=()))


@_with_the_derivative_of_scan.defjvp
def _derivative_of_scan(
    terms: methods.Terms, results: methods.Results, axis: int, method: str, primals: tuple, tangents: tuple
) -> tuple:
    # The value comes from the same method as without a derivative, so that it has the same bits.
    value = _with_the_derivative_of_scan(terms, results, axis, method, *primals)
    scan = lambda inputs, initial: methods.scan(terms, results, inputs, initial, axis)
    return value, jax.jvp(scan, primals, tangents)[1]


def _function(method: str) -> methods.Method:
    if method not in ("pallas", "pallas_lanes"):
        return getattr(methods, method)
    from gaejax.recurrence import tpu  # imports Pallas, which only those who use it should wait for

    return getattr(tpu, method)


# A program is traced once and may be lowered for any platform, so the platform's method is chosen, and traced, while
# lowering. `lax.platform_dependent` would trace the methods of all platforms first.
recurrence_p = Primitive("reverse_linear_recurrence")
recurrence_p.multiple_results = True


def _on(
    platform: str,
    *,
    terms: methods.Terms,
    results: methods.Results,
    shape: tuple[int, ...],
    axis: int,
    dtypes: tuple,
    batches: tuple[tuple[int, tuple], ...],
) -> Callable[..., list[jax.Array]]:
    """Returns the function of `(*inputs, initial)` that the primitive stands for on a platform.

    `batches` holds the size and the `in_axes` of each `vmap` around it, the innermost first.
    """
    platform = platform if platform in _choices() else "cpu"
    function = _function(choose(platform, shape, axis))

    def solver(*arguments: jax.Array) -> list[jax.Array]:
        *inputs, initial = arguments
        return jax.tree.leaves(function(terms, results, tuple(inputs), initial, axis))

    for _, in_axes in batches:
        solver = jax.vmap(solver, in_axes)
    return solver


@recurrence_p.def_impl
def _evaluate(*arguments: jax.Array, **call: Any) -> list[jax.Array]:
    return _on(jax.default_backend(), **call)(*arguments)


@recurrence_p.def_abstract_eval
def _shapes(*arguments: Any, shape: tuple, dtypes: tuple, batches: tuple, **call: Any) -> list:
    sizes = tuple(size for size, _ in reversed(batches))
    return [ShapedArray(sizes + shape, dtype) for dtype in dtypes]


def _batch(arguments: Sequence[jax.Array], axes: Sequence, *, batches: tuple, **call: Any) -> tuple[list, list]:
    mapped = [axis is not None for axis in axes]
    arguments = [jnp.moveaxis(x, axis, 0) if m else x for x, axis, m in zip(arguments, axes, mapped, strict=True)]
    size = next(x.shape[0] for x, m in zip(arguments, mapped, strict=True) if m)
    batches += ((size, tuple(0 if m else None for m in mapped)),)
    results = recurrence_p.bind(*arguments, **call, batches=batches)
    return results, [0] * len(results)


batching.primitive_batchers[recurrence_p] = _batch


def _lower(platform: str, context: mlir.LoweringRuleContext, *arguments: Any, **call: Any) -> Any:
    return mlir.lower_fun(_on(platform, **call), multiple_results=True)(context, *arguments)


mlir.register_lowering(recurrence_p, partial(_lower, "cpu"))
for _platform in ("tpu", "cuda"):
    mlir.register_lowering(recurrence_p, partial(_lower, _platform), platform=_platform)


def _state_after(
    axis_name: str,
    drive: jax.Array,
    decay: jax.Array,
    reset: jax.Array | None,
    initial: jax.Array,
    axis: int,
    method: str,
) -> jax.Array:
    """Returns the state after this device's part of time, which is `x` at the first step of the next device's part.

    Each part is one step of the same recurrence, `x_first = drive + decay * x_after`, with a reset if it holds one.
    """
    reset = jnp.zeros(drive.shape, bool) if reset is None else reset
    first = lambda x: lax.index_in_dim(x, 0, axis, keepdims=False)
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
