"""Pallas kernels for TPU: every input is read once and every result written once. On other platforms they are
interpreted, for tests. Signature and meaning are those of `forms.py`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gaejax.recurrence.forms import lost_to_rounding, split_scalars

BLOCK_STEPS, BLOCK_ROWS = 128, 512  # time-major: steps on sublanes, rows on lanes
LANE_STEPS, LANE_ROWS = 512, 128  # time on lanes
UNROLL = 8


def pallas(terms: Callable, results: Callable, inputs: tuple, initial: jax.Array, axis: int) -> Any:
    """Time-major: walks through time a block at a time, the state of 512 rows in fast memory. For many rows."""
    return _call(_rows_kernel, terms, results, inputs, initial, axis, 0, BLOCK_STEPS, BLOCK_ROWS)


def pallas_lanes(terms: Callable, results: Callable, inputs: tuple, initial: jax.Array, axis: int) -> Any:
    """Time on lanes: each block of 512 steps by doubling, `log2(512)` passes in registers. For few rows and long T."""
    return _call(_lanes_kernel, terms, results, inputs, initial, axis, 1, LANE_STEPS, LANE_ROWS)


def _rows_kernel(terms: Callable, results: Callable, read: Callable, write: Callable, state: Any, scratch: Any) -> None:
    """A block `[steps, rows]`: coefficients at once, then row after row."""
    inputs, inside = read()
    lost, drive_ref, decay_ref, reset_ref = scratch
    drive_ref[...], decay_ref[...], reset_ref[...] = _coefficients(
        terms, inputs, inside, drive_ref.shape, drive_ref.dtype
    )
    steps = drive_ref.shape[0]

    def step(index: jax.Array, carry: tuple) -> tuple:
        row = pl.ds(steps - 1 - index, 1)
        drive, decay = drive_ref[row, :], decay_ref[row, :]
        successor, lost = (jnp.where(reset_ref[row, :] > 0, 0, x) for x in carry)
        product = decay * successor
        x = drive + product
        lost = decay * lost + lost_to_rounding(x, drive, product)
        drive_ref[row, :] = x + lost
        return x, lost

    unroll = UNROLL if steps % UNROLL == 0 else 1
    state[...], lost[...] = lax.fori_loop(0, steps, step, (state[...], lost[...]), unroll=unroll)
    write(results(drive_ref[...], *inputs))


def _lanes_kernel(
    terms: Callable, results: Callable, read: Callable, write: Callable, state: Any, scratch: Any
) -> None:
    """A block `[rows, steps]`: spans of 1, 2, 4, ... steps are joined until they reach the block's end."""
    inputs, inside = read()
    shape = scratch[-1].shape
    drive, decay, hidden = _coefficients(terms, inputs, inside, shape, state.dtype)  # hidden: the span holds a reset
    lane = lax.broadcasted_iota(jnp.int32, shape, 1)
    span = 1
    while span < shape[1]:
        exists = lane + span < shape[1]
        later_drive, later_decay, later_hidden = (pltpu.roll(x, shape[1] - span, 1) for x in (drive, decay, hidden))
        drive = drive + decay * jnp.where(exists & (hidden == 0), later_drive, 0)
        decay = jnp.where(exists, decay * later_decay, decay)
        hidden = jnp.where(exists, jnp.maximum(hidden, later_hidden), hidden)
        span *= 2
    drive = drive + decay * jnp.where(hidden > 0, 0, state[...])
    state[...] = drive[:, :1]
    write(results(drive, *inputs))


def _coefficients(terms: Callable, inputs: tuple, inside: jax.Array | None, shape: tuple, dtype: Any) -> tuple:
    """What `terms` says, as numbers of a block's shape; the state passes over what lies outside the array."""
    drive, decay, reset = terms(*inputs)
    reset = jnp.zeros(shape, dtype) if reset is None else jnp.where(reset, 1, 0).astype(dtype)
    drive, decay = (jnp.broadcast_to(x, shape).astype(dtype) for x in (drive, decay))
    if inside is None:
        return drive, decay, reset
    return jnp.where(inside, drive, 0), jnp.where(inside, decay, 1), jnp.where(inside, reset, 0)


def _call(
    kernel: Callable,
    terms: Callable,
    results: Callable,
    inputs: tuple,
    initial: jax.Array,
    axis: int,
    time: int,
    block_steps: int,
    block_rows: int,
) -> Any:
    """Lays the arrays out with time on axis `time` of two, and runs `kernel` over blocks, the last block first."""
    arrays, scalars, join = split_scalars(inputs)
    shape = jnp.moveaxis(arrays[0], axis, 0).shape
    flat = [jnp.moveaxis(array, axis, 0).reshape(shape[0], -1) for array in arrays]
    steps, rows = flat[0].shape
    flags = [array.dtype == jnp.bool_ for array in flat]
    # Flags travel as bytes; the conversion is fused into the kernel's reading of its input.
    flat = [array.astype(jnp.int8) if flag else array for array, flag in zip(flat, flags, strict=True)]
    scalars = [x.reshape(1, 1) for x in scalars]
    dtype = jnp.promote_types(initial.dtype, jnp.float32)
    first = initial.reshape(1, rows).astype(dtype)

    element = [jax.ShapeDtypeStruct((1, 1), x.dtype) for x in (initial, *inputs)]
    leaves, tree = jax.tree.flatten(jax.eval_shape(results, *element))
    orient = (lambda x: x) if time == 0 else (lambda x: x.T)
    flat, first = [orient(array) for array in flat], orient(first)
    block_steps = block_steps if time == 1 else min(steps, block_steps)
    block_rows = min(rows, block_rows)
    num_blocks = pl.cdiv(steps, block_steps)
    block = (block_steps, block_rows) if time == 0 else (block_rows, block_steps)
    ragged = steps % block_steps != 0

    def body(*refs: Any) -> None:
        refs = list(refs)
        take = lambda count: [refs.pop(0) for _ in range(count)]  # noqa: E731
        scalar_refs, array_refs, (first_ref,) = take(len(scalars)), take(len(flat)), take(1)
        output_refs, (state, *scratch) = take(len(leaves)), refs

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            state[...] = first_ref[...]
            scratch[0][...] = jnp.zeros(edge, dtype)

        def read() -> tuple:
            values = [
                ref[...].astype(jnp.int32) != 0 if flag else ref[...]
                for ref, flag in zip(array_refs, flags, strict=True)
            ]
            joined = join(values, [ref[0, 0] for ref in scalar_refs])
            inside = None
            if ragged:  # behind the end lies whatever memory held: the state passes over it
                start = (num_blocks - 1 - pl.program_id(1)) * block_steps
                inside = start + lax.broadcasted_iota(jnp.int32, block, time) < steps
            return joined, inside

        def write(outputs: Any) -> None:
            for ref, output in zip(output_refs, jax.tree.leaves(outputs), strict=True):
                ref[...] = jnp.broadcast_to(output, block).astype(ref.dtype)

        kernel(terms, results, read, write, state, scratch)

    at = (lambda j, i: (num_blocks - 1 - i, j)) if time == 0 else (lambda j, i: (j, num_blocks - 1 - i))
    edge = (1, block_rows) if time == 0 else (block_rows, 1)
    edge_at = (lambda j, i: (0, j)) if time == 0 else (lambda j, i: (j, 0))
    size = sum(array.nbytes for array in flat) + sum(leaf.dtype.itemsize * steps * rows for leaf in leaves)

    def run(*operands: jax.Array, interpret: bool) -> Any:
        return pl.pallas_call(
            body,
            grid=(pl.cdiv(rows, block_rows), num_blocks),
            in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM)] * len(scalars)
            + [pl.BlockSpec(block, at)] * len(flat)
            + [pl.BlockSpec(edge, edge_at)],
            out_specs=[pl.BlockSpec(block, at)] * len(leaves),
            out_shape=[jax.ShapeDtypeStruct((steps, rows) if time == 0 else (rows, steps), x.dtype) for x in leaves],
            scratch_shapes=[pltpu.VMEM(edge, dtype)] * 2 + [pltpu.VMEM(block, dtype)] * 3,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"),
                allow_input_fusion=[False] * len(scalars) + [True] * len(flat) + [False],
            ),
            cost_estimate=pl.CostEstimate(flops=8 * steps * rows, transcendentals=0, bytes_accessed=size),
            interpret=interpret,
        )(*operands)

    operands = (*scalars, *flat, first)
    outputs = lax.platform_dependent(*operands, tpu=partial(run, interpret=False), default=partial(run, interpret=True))
    restore = lambda output: jnp.moveaxis(orient(output).reshape(shape), 0, axis)  # noqa: E731
    return jax.tree.unflatten(tree, [restore(output) for output in outputs])
