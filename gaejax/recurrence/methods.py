"""The methods that solve the recurrence in plain XLA. All have one signature and one meaning:

    x[t] = drive[t] + decay[t] * where(reset[t], 0, x[t + 1])

    (terms, results, inputs, initial, axis) -> results

`inputs` are scalars or arrays of one shape; `terms(*inputs_t) -> (drive, decay, reset)` and `results(x_t, *inputs_t)`
are elementwise, so that what precedes and follows the recurrence is fused into its loop: memory traffic decides.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

LONG = 2**16  # steps from which a float32 sum would lose more than its last digits
BLOCK_ROWS = 8  # so few that XLA:CPU compiles the loop over them into one native loop

Terms = Callable[..., tuple[Any, Any, Any]]
Results = Callable[..., Any]


class Method(Protocol):
    def __call__(self, terms: Terms, results: Results, inputs: tuple, initial: jax.Array, axis: int) -> Any:
        """Returns the results, with arrays of the full shape and time on `axis`."""
        ...


def scan(
    terms: Terms,
    results: Results,
    inputs: tuple,
    initial: jax.Array,
    axis: int,
    *,
    unroll: int = 1,
    differentiable: bool = True,
) -> Any:
    """Scans serially: the other methods must equal it, and its derivative is theirs too."""
    arrays, _, join = split_scalars(inputs)

    def step(carry: tuple, parts: tuple) -> tuple:
        return advance(terms, results, join(parts), carry, differentiable=differentiable)

    slices = tuple(jnp.moveaxis(array, axis, 0) for array in arrays)
    outputs = lax.scan(step, start(initial, len(slices[0])), slices, reverse=True, unroll=unroll)[1]
    return jax.tree.map(lambda output: jnp.moveaxis(output, 0, axis), outputs)


def slices(terms: Terms, results: Results, inputs: tuple, initial: jax.Array, axis: int) -> Any:
    """Reads and writes one slice at a time, serially and in place.

    Nothing is transposed, whatever the time axis, under `vmap` either.
    """
    arrays, _, join = split_scalars(inputs)
    steps = arrays[0].shape[axis]

    def read(t: Any) -> tuple:
        return join(lax.dynamic_index_in_dim(array, t, axis, keepdims=False) for array in arrays)

    def step(index: jax.Array, loop: tuple) -> tuple:
        carry, outputs = loop
        t = steps - 1 - index
        carry, output = advance(terms, results, read(t), carry)
        write = lambda all_, one: lax.dynamic_update_index_in_dim(all_, one, t, axis)
        return carry, jax.tree.map(write, outputs, output)

    one = jax.eval_shape(lambda: advance(terms, results, read(0), start(initial, steps))[1])
    empty = jax.tree.map(lambda leaf: jnp.zeros(arrays[0].shape, leaf.dtype), one)
    return lax.fori_loop(0, steps, step, (start(initial, steps), empty))[1]


def staged(terms: Terms, results: Results, inputs: tuple, initial: jax.Array, axis: int) -> Any:
    """Runs serially and in place over `drive` alone, for large arrays.

    What precedes and follows the loop has passes of its own, which take all cores.
    """
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
        carry, state = advance(lambda: (at_t[0], at_t[1], at_t[2]), lambda x: x, (), carry)
        return carry, lax.dynamic_update_index_in_dim(states, state, t, axis)

    states = jnp.broadcast_to(jnp.asarray(drive), shape).astype(initial.dtype)
    return results(lax.fori_loop(0, shape[axis], step, (start(initial, shape[axis]), states))[1], *inputs)


def blocks(terms: Terms, results: Results, inputs: tuple, initial: jax.Array, axis: int) -> Any:
    """Solves a few sequences at a time, serially: for arrays of many sequences whose time axis is the last."""
    arrays, _, join = split_scalars(inputs)
    steps, rows = arrays[0].shape[axis], initial.size
    size = next(size for size in range(BLOCK_ROWS, 0, -1) if rows % size == 0)
    shape = jnp.moveaxis(arrays[0], axis, -1).shape

    def block(parts: tuple) -> Any:
        initial, *arrays = parts
        unroll = 1 if initial.ndim else 4
        return scan(terms, results, join(arrays), initial, initial.ndim, unroll=unroll, differentiable=False)

    if rows == 1:
        outputs = block((initial.reshape(()), *(array.reshape(steps) for array in arrays)))
        return jax.tree.map(lambda output: output.reshape(arrays[0].shape), outputs)
    together = (size,) if size > 1 else ()  # a single sequence is a loop over scalars
    parts = [initial.reshape(-1, *together)]
    parts += [jnp.moveaxis(array, axis, -1).reshape(-1, *together, steps) for array in arrays]
    outputs = lax.map(block, tuple(parts))
    return jax.tree.map(lambda output: jnp.moveaxis(output.reshape(shape), -1, axis), outputs)


def associative(terms: Terms, results: Results, inputs: tuple, initial: jax.Array, axis: int) -> Any:
    """Runs parallel in time, in about `2 log T` passes: for machines on which a step costs more than its bytes."""
    shape = next(x.shape for x in inputs if x.ndim)
    drive, decay, reset = terms(*inputs)
    drive, decay = jnp.broadcast_to(drive, shape), jnp.broadcast_to(decay, shape).astype(initial.dtype)
    reset = jnp.zeros(shape, bool) if reset is None else jnp.broadcast_to(reset, shape)

    def combine(later: tuple, earlier: tuple) -> tuple:
        """Joins two neighbouring spans into one, `x = drive + decay * (the state after it)`, hidden by a reset."""
        drive, decay, reset = earlier
        later_drive, later_decay, later_reset = later
        drive = drive + isolated_product(decay, jnp.where(reset, 0, later_drive))
        return drive, decay * jnp.where(reset, 0, later_decay), reset | later_reset

    drive, decay, reset = lax.associative_scan(combine, (drive, decay, reset), reverse=True, axis=axis)
    after = jnp.where(reset, 0, jnp.expand_dims(initial, axis))
    return results(drive + isolated_product(decay, after), *inputs)


def start(initial: jax.Array, steps: int) -> tuple:
    """Returns what a serial loop carries: the state, and in long loops what rounding has taken from it."""
    return initial, jnp.zeros_like(initial) if steps >= LONG else None


def advance(terms: Terms, results: Results, inputs: tuple, carry: tuple, *, differentiable: bool = False) -> tuple:
    """Computes one step: what is carried on, and the results.

    If the step is to be differentiated, what a reset hides is selected away before the product, since the gradient of
    the other branch would be 0 * NaN. Otherwise it is selected after the product, which shortens the dependency chain.
    """
    successor, lost = carry
    drive, decay, reset = terms(*inputs)
    hide = lambda x, by=0: x if reset is None else jnp.where(reset, by, x)
    product = isolated_product(decay, hide(successor) if differentiable else successor)
    total = drive + product
    state = (total if differentiable else hide(total, by=drive)).astype(successor.dtype)
    if lost is None:
        return (state, None), results(state, *inputs)
    lost = (hide(decay) * lost + hide(lost_to_rounding(total, drive, product))).astype(state.dtype)
    return (state, lost), results(state + lost, *inputs)


def lost_to_rounding(total: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns `one + other - total` exactly, where `total` is their rounded sum (Knuth's two-sum).

    It is 0 where that is infinite.
    """
    part = total - other
    lost = (other - (total - part)) + (one - part)
    return lax.stop_gradient(jnp.where(jnp.isfinite(lost), lost, 0))


def split_scalars(inputs: tuple) -> tuple[list[jax.Array], list[jax.Array], Callable[..., tuple]]:
    """Returns the arrays, the scalars, and `join(arrays, scalars)`, which puts what became of them in order again."""
    scalars = [x for x in inputs if not x.ndim]

    def join(arrays: Iterable, scalars: Iterable = scalars) -> tuple:
        arrays, scalars = iter(arrays), iter(scalars)
        return tuple(next(arrays) if x.ndim else next(scalars) for x in inputs)

    return [x for x in inputs if x.ndim], scalars, join


@jax.custom_jvp
def isolated_product(factor: jax.Array, operand: jax.Array) -> jax.Array:
    """Returns `factor * operand`, whose derivative in `factor` ignores a non-finite operand.

    A factor shared by all steps (the discount) would otherwise collect `0 * NaN` from steps that no result depends on.
    """
    return factor * operand


@isolated_product.defjvp
def _isolated_product_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    factor, operand = primals
    factor_dot, operand_dot = tangents
    finite_operand = jnp.where(jnp.isfinite(operand), operand, 0)
    return isolated_product(factor, operand), factor_dot * finite_operand + factor * operand_dot
