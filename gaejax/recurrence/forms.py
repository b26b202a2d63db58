"""The ways to solve the recurrence in plain XLA. All have one signature and one meaning:

    x[t] = drive[t] + decay[t] * where(reset[t], 0, x[t + 1])

    (terms, results, inputs, initial, axis) -> results

`inputs` are scalars or arrays of one shape; `terms(*inputs_t) -> (drive, decay, reset)` and `results(x_t, *inputs_t)`
are elementwise, so what comes before the recurrence and behind it is fused into the same loop: bytes count.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

LONG = 2**16  # steps from which a float32 sum would lose more than its last digits
BLOCK_ROWS = 8  # so few that XLA:CPU compiles the loop over them into one native one


def scan(
    terms: Callable,
    results: Callable,
    inputs: tuple,
    initial: jax.Array,
    axis: int,
    *,
    unroll: int = 1,
    differentiable: bool = True,
) -> jax.Array:
    """The plain serial scan: what the others must equal, and whose derivative is theirs too."""
    arrays, _, join = split_scalars(inputs)

    def step(carry: tuple, parts: tuple) -> tuple:
        return advance(terms, results, join(parts), carry, differentiable=differentiable)

    arrays = [jnp.moveaxis(array, axis, 0) for array in arrays]
    outputs = lax.scan(step, start(initial, len(arrays[0])), arrays, reverse=True, unroll=unroll)[1]
    return jax.tree.map(lambda output: jnp.moveaxis(output, 0, axis), outputs)


def slices(terms: Callable, results: Callable, inputs: tuple, initial: jax.Array, axis: int) -> jax.Array:
    """Serial, one slice at a time read and written in place: no transposition, whatever the time axis, and under
    `vmap` neither."""
    arrays, _, join = split_scalars(inputs)
    steps = arrays[0].shape[axis]

    def read(t: jax.Array) -> tuple:
        return join(lax.dynamic_index_in_dim(array, t, axis, keepdims=False) for array in arrays)

    def step(index: jax.Array, loop: tuple) -> tuple:
        carry, outputs = loop
        t = steps - 1 - index
        carry, output = advance(terms, results, read(t), carry)
        write = lambda all_, one: lax.dynamic_update_index_in_dim(all_, one, t, axis)  # noqa: E731
        return carry, jax.tree.map(write, outputs, output)

    one = jax.eval_shape(lambda: advance(terms, results, read(0), start(initial, steps))[1])
    empty = jax.tree.map(lambda leaf: jnp.zeros(arrays[0].shape, leaf.dtype), one)
    return lax.fori_loop(0, steps, step, (start(initial, steps), empty))[1]


def staged(terms: Callable, results: Callable, inputs: tuple, initial: jax.Array, axis: int) -> jax.Array:
    """Serial and in place over `drive`, with what comes before and behind in passes of their own, which take all cores:
    for large arrays."""
    shape = next(x.shape for x in inputs if x.ndim)
    drive, *rest = (None if x is None else jnp.asarray(x) for x in terms(*inputs))
    coefficients = [x if x is None or not x.ndim else jnp.broadcast_to(x, shape) for x in rest]

    def step(index: jax.Array, loop: tuple) -> tuple:
        carry, states = loop
        t = shape[axis] - 1 - index
        at_t = [
            x if x is None or not x.ndim else lax.dynamic_index_in_dim(x, t, axis, keepdims=False)
            for x in (states, *coefficients)
        ]
        carry, state = advance(lambda: tuple(at_t), lambda x: x, (), carry)
        return carry, lax.dynamic_update_index_in_dim(states, state, t, axis)

    drive = jnp.broadcast_to(drive, shape).astype(initial.dtype)
    return results(lax.fori_loop(0, shape[axis], step, (start(initial, shape[axis]), drive))[1], *inputs)


def blocks(terms: Callable, results: Callable, inputs: tuple, initial: jax.Array, axis: int) -> jax.Array:
    """Serial, a few rows at a time: for arrays whose time axis is the last and which have many rows."""
    arrays, _, join = split_scalars(inputs)
    steps, rows = arrays[0].shape[axis], initial.size
    size = next(size for size in range(BLOCK_ROWS, 0, -1) if rows % size == 0)
    shape = jnp.moveaxis(arrays[0], axis, -1).shape

    def block(parts: tuple) -> Any:
        initial, *arrays = parts
        unroll = 1 if initial.ndim else 4
        return scan(terms, results, join(arrays), initial, initial.ndim, unroll=unroll, differentiable=False)

    if rows == 1:
        outputs = block([initial.reshape(()), *(array.reshape(steps) for array in arrays)])
        return jax.tree.map(lambda output: output.reshape(arrays[0].shape), outputs)
    together = (size,) if size > 1 else ()  # a single row is a loop over scalars
    parts = [initial.reshape(-1, *together)]
    parts += [jnp.moveaxis(array, axis, -1).reshape(-1, *together, steps) for array in arrays]
    outputs = lax.map(block, tuple(parts))
    return jax.tree.map(lambda output: jnp.moveaxis(output.reshape(shape), -1, axis), outputs)


def associative(terms: Callable, results: Callable, inputs: tuple, initial: jax.Array, axis: int) -> jax.Array:
    """Parallel in time, in about `2 log T` passes: for machines on which a step costs more than its bytes."""
    shape = next(x.shape for x in inputs if x.ndim)
    drive, decay, reset = terms(*inputs)
    drive, decay = jnp.broadcast_to(drive, shape), jnp.broadcast_to(decay, shape).astype(initial.dtype)
    reset = jnp.zeros(shape, bool) if reset is None else jnp.broadcast_to(reset, shape)

    def combine(later: tuple, earlier: tuple) -> tuple:
        """Two neighbouring spans as one: x = drive + decay * (what lies behind), which a reset inside hides."""
        drive, decay, reset = earlier
        later_drive, later_decay, later_reset = later
        drive = drive + isolated_product(decay, jnp.where(reset, 0, later_drive))
        return drive, decay * jnp.where(reset, 0, later_decay), reset | later_reset

    drive, decay, reset = lax.associative_scan(combine, (drive, decay, reset), reverse=True, axis=axis)
    behind = jnp.where(reset, 0, jnp.expand_dims(initial, axis))
    return results(drive + isolated_product(decay, behind), *inputs)


def start(initial: jax.Array, steps: int) -> tuple:
    """What a serial loop carries: the state, and in long loops what rounding has taken from it."""
    return initial, jnp.zeros_like(initial) if steps >= LONG else None


def advance(terms: Callable, results: Callable, inputs: tuple, carry: tuple, *, differentiable: bool = False) -> tuple:
    """One step: what is carried on, and what is returned of the state.

    What a reset hides must be selected away before the product if the step is to be differentiated (the gradient of the
    other branch would be 0 * NaN); behind it, it is a shorter way from state to state.
    """
    successor, lost = carry
    drive, decay, reset = terms(*inputs)
    hide = lambda x, by=0: x if reset is None else jnp.where(reset, by, x)  # noqa: E731
    product = isolated_product(decay, hide(successor) if differentiable else successor)
    total = drive + product
    state = (total if differentiable else hide(total, by=drive)).astype(successor.dtype)
    if lost is None:
        return (state, None), results(state, *inputs)
    lost = (hide(decay) * lost + hide(lost_to_rounding(total, drive, product))).astype(state.dtype)
    return (state, lost), results(state + lost, *inputs)


def lost_to_rounding(total: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """`one + other - total` exactly, where `total` is their rounded sum (Knuth's two-sum); 0 where that is infinite."""
    part = total - other
    lost = (other - (total - part)) + (one - part)
    return lax.stop_gradient(jnp.where(jnp.isfinite(lost), lost, 0))


def split_scalars(inputs: tuple) -> tuple[list[jax.Array], list[jax.Array], Callable]:
    """The arrays, the scalars, and `join(arrays, scalars)`, which puts what became of them in order."""
    scalars = [x for x in inputs if not x.ndim]

    def join(arrays: Any, scalars: Any = scalars) -> tuple:
        arrays, scalars = iter(arrays), iter(scalars)
        return tuple(next(arrays) if x.ndim else next(scalars) for x in inputs)

    return [x for x in inputs if x.ndim], scalars, join


@jax.custom_jvp
def isolated_product(factor: jax.Array, operand: jax.Array) -> jax.Array:
    """`factor * operand`, where a non-finite operand adds nothing to the derivative with respect to `factor`.

    A factor shared by all steps (the discount) would otherwise collect `0 * NaN` from steps that no result depends on.
    """
    return factor * operand


@isolated_product.defjvp
def _isolated_product_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    factor, operand = primals
    factor_dot, operand_dot = tangents
    finite_operand = jnp.where(jnp.isfinite(operand), operand, 0)
    return isolated_product(factor, operand), factor_dot * finite_operand + factor * operand_dot
