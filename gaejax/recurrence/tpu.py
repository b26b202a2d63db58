"""Pallas kernels for TPU, which read every input once and write every result once.

On other platforms they are interpreted, for tests. Signature and meaning are those of `methods.py`. The independent
sequences that are solved side by side are called rows here.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gaejax.recurrence.methods import Results, Terms, lost_to_rounding, split_scalars

BLOCK_STEPS, BLOCK_ROWS = 128, 512  # time-major: steps on sublanes, rows on lanes
LANE_STEPS, LANE_ROWS = 512, 128  # time on lanes
UNROLL = 8


def pallas(terms: Terms, results: Results, inputs: tuple, initial: jax.Array, axis: int) -> Any:
    """Walks through time a block at a time, with the state of 512 rows in fast memory: for many rows."""
    steps, rows = _sizes(initial, inputs, axis)
    layout = Layout(0, steps, rows, min(steps, BLOCK_STEPS), min(rows, BLOCK_ROWS))
    return _call(_rows_kernel, layout, terms, results, inputs, initial, axis)


def pallas_lanes(terms: Terms, results: Results, inputs: tuple, initial: jax.Array, axis: int) -> Any:
    """Solves each block of 512 steps by doubling, `log2(512)` passes in registers: for few rows and long T."""
    steps, rows = _sizes(initial, inputs, axis)
    layout = Layout(1, steps, rows, LANE_STEPS, min(rows, LANE_ROWS))
    return _call(_lanes_kernel, layout, terms, results, inputs, initial, axis)


class Layout(NamedTuple):
    """Steps and rows as a two-dimensional array, cut into blocks of which a kernel takes the last one first."""

    time: int  # the axis of the steps
    steps: int
    rows: int
    block_steps: int
    block_rows: int

    def ordered(self, of_steps: Any, of_rows: Any) -> tuple:
        """Returns what belongs to the steps and what belongs to the rows, in the order of the axes."""
        return (of_steps, of_rows) if self.time == 0 else (of_rows, of_steps)

    def oriented(self, array: jax.Array) -> jax.Array:
        """Turns `[steps, rows]` into this layout, and back."""
        return array if self.time == 0 else array.T

    @property
    def num_blocks(self) -> int:
        return pl.cdiv(self.steps, self.block_steps)

    @property
    def block(self) -> tuple[int, int]:
        return self.ordered(self.block_steps, self.block_rows)

    @property
    def edge(self) -> tuple[int, int]:
        """One step of a block."""
        return self.ordered(1, self.block_rows)

    def block_spec(self) -> pl.BlockSpec:
        return pl.BlockSpec(self.block, lambda j, i: self.ordered(self.num_blocks - 1 - i, j))

    def edge_spec(self) -> pl.BlockSpec:
        return pl.BlockSpec(self.edge, lambda j, i: self.ordered(0, j))

    def inside(self) -> jax.Array | None:
        """Returns, in a kernel, which steps of its block the array has; None if it has all those of every block.

        After the array's end lies whatever memory held, so the state has to pass over it.
        """
        if self.steps % self.block_steps == 0:
            return None
        start = (self.num_blocks - 1 - pl.program_id(1)) * self.block_steps
        return start + lax.broadcasted_iota(jnp.int32, self.block, self.time) < self.steps


class Block(NamedTuple):
    """What a kernel gets of one block. `state` persists from block to block, as does `scratch[0]`."""

    inputs: tuple
    inside: jax.Array | None  # see `Layout.inside`
    write: Callable[[Any], None]
    state: Any
    scratch: Sequence[Any]


def _rows_kernel(terms: Terms, results: Results, block: Block) -> None:
    """Solves a block `[steps, rows]`: the coefficients at once, then step after step."""
    lost, drive_ref, decay_ref, reset_ref = block.scratch
    drive_ref[...], decay_ref[...], reset_ref[...] = _coefficients(terms, block, drive_ref.shape, drive_ref.dtype)
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

    def several_steps(index: jax.Array, carry: tuple) -> tuple:
        for i in range(unroll):  # by hand: before JAX 0.10.1 Pallas unrolls only whole loops
            carry = step(index * unroll + i, carry)
        return carry

    block.state[...], lost[...] = lax.fori_loop(0, steps // unroll, several_steps, (block.state[...], lost[...]))
    block.write(results(drive_ref[...], *block.inputs))


def _lanes_kernel(terms: Terms, results: Results, block: Block) -> None:
    """Solves a block `[rows, steps]`: spans of 1, 2, 4, ... steps are joined until they reach the block's end."""
    shape = block.scratch[-1].shape
    drive, decay, hidden = _coefficients(terms, block, shape, block.state.dtype)  # hidden: the span holds a reset
    lane = lax.broadcasted_iota(jnp.int32, shape, 1)
    span = 1
    while span < shape[1]:
        exists = lane + span < shape[1]
        later_drive, later_decay, later_hidden = (pltpu.roll(x, shape[1] - span, 1) for x in (drive, decay, hidden))
        drive = drive + decay * jnp.where(exists & (hidden == 0), later_drive, 0)
        decay = jnp.where(exists, decay * later_decay, decay)
        hidden = jnp.where(exists, jnp.maximum(hidden, later_hidden), hidden)
        span *= 2
    drive = drive + decay * jnp.where(hidden > 0, 0, block.state[...])
    block.state[...] = drive[:, :1]
    block.write(results(drive, *block.inputs))


def _coefficients(terms: Terms, block: Block, shape: tuple, dtype: Any) -> tuple:
    """Returns what `terms` says as numbers of a block's shape; outside the array the state passes over them."""
    drive, decay, reset = terms(*block.inputs)
    reset = jnp.zeros(shape, dtype) if reset is None else jnp.where(reset, 1, 0).astype(dtype)
    drive, decay = (jnp.broadcast_to(x, shape).astype(dtype) for x in (drive, decay))
    if block.inside is None:
        return drive, decay, reset
    return jnp.where(block.inside, drive, 0), jnp.where(block.inside, decay, 1), jnp.where(block.inside, reset, 0)


def _sizes(initial: jax.Array, inputs: tuple, axis: int) -> tuple[int, int]:
    return next(x.shape[axis] for x in inputs if x.ndim), initial.size


def _call(
    kernel: Callable[[Terms, Results, Block], None],
    layout: Layout,
    terms: Terms,
    results: Results,
    inputs: tuple,
    initial: jax.Array,
    axis: int,
) -> Any:
    """Lays the arrays out, runs `kernel` over their blocks, and gives the results the shape of the arrays."""
    arrays, scalars, join = split_scalars(inputs)
    shape = jnp.moveaxis(arrays[0], axis, 0).shape
    flat = [jnp.moveaxis(array, axis, 0).reshape(layout.steps, layout.rows) for array in arrays]
    flags = [array.dtype == jnp.bool_ for array in flat]
    # Flags travel as bytes; the conversion is fused into the kernel's reading of its input.
    flat = [array.astype(jnp.int8) if flag else array for array, flag in zip(flat, flags, strict=True)]
    scalars = [x.reshape(1, 1) for x in scalars]
    dtype = jnp.promote_types(initial.dtype, jnp.float32)
    first = initial.reshape(1, layout.rows).astype(dtype)
    element = [jax.ShapeDtypeStruct((1, 1), x.dtype) for x in (initial, *inputs)]
    leaves, structure = jax.tree.flatten(jax.eval_shape(results, *element))
    flat, first = [layout.oriented(array) for array in flat], layout.oriented(first)

    def body(*refs: Any) -> None:
        """Runs the kernel on one block, given references to the operands, the outputs and the scratch memory."""
        parts = iter(refs)
        take = lambda count: [next(parts) for _ in range(count)]
        scalar_refs, array_refs, (first_ref,) = take(len(scalars)), take(len(flat)), take(1)
        output_refs, (state, *scratch) = take(len(leaves)), parts

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            state[...] = first_ref[...]
            scratch[0][...] = jnp.zeros(layout.edge, dtype)

        def write(outputs: Any) -> None:
            for ref, output in zip(output_refs, jax.tree.leaves(outputs), strict=True):
                ref[...] = jnp.broadcast_to(output, layout.block).astype(ref.dtype)

        values = [
            ref[...].astype(jnp.int32) != 0 if flag else ref[...] for ref, flag in zip(array_refs, flags, strict=True)
        ]
        joined = join(values, [ref[0, 0] for ref in scalar_refs])
        kernel(terms, results, Block(joined, layout.inside(), write, state, scratch))

    elements = layout.steps * layout.rows
    size = sum(array.nbytes for array in flat) + sum(leaf.dtype.itemsize * elements for leaf in leaves)
    output_shape = layout.ordered(layout.steps, layout.rows)

    def run(*operands: jax.Array, interpret: bool) -> Any:
        return pl.pallas_call(
            body,
            grid=(pl.cdiv(layout.rows, layout.block_rows), layout.num_blocks),
            in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM)] * len(scalars)
            + [layout.block_spec()] * len(flat)
            + [layout.edge_spec()],
            out_specs=[layout.block_spec()] * len(leaves),
            out_shape=[jax.ShapeDtypeStruct(output_shape, leaf.dtype) for leaf in leaves],
            scratch_shapes=[pltpu.VMEM(layout.edge, dtype)] * 2 + [pltpu.VMEM(layout.block, dtype)] * 3,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"),
                allow_input_fusion=[False] * len(scalars) + [True] * len(flat) + [False],
            ),
            cost_estimate=pl.CostEstimate(flops=8 * elements, transcendentals=0, bytes_accessed=size),
            interpret=interpret,
        )(*operands)

    operands = (*scalars, *flat, first)
    outputs = lax.platform_dependent(*operands, tpu=partial(run, interpret=False), default=partial(run, interpret=True))
    restore = lambda output: jnp.moveaxis(layout.oriented(output).reshape(shape), 0, axis)
    return jax.tree.unflatten(structure, [restore(output) for output in outputs])
