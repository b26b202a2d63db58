"""The kernel: a first-order linear recurrence that runs backwards over the leading axis. It knows no RL."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gaejax import checks


def reverse_linear_recurrence(drive: Any, decay: Any, initial: Any = None, *, reset: Any = None) -> jax.Array:
    """Solves `x[t] = drive[t] + decay[t] * x[t + 1]` from the last step to the first.

    Where `reset[t]` is true the successor is replaced by 0 *before* it is multiplied, so a NaN or an infinity behind
    the boundary reaches neither the results nor the gradients. (A decay of 0 is no boundary: `x` still depends on it.)

    Args:
      drive: `[T, ...]` floats.
      decay: a scalar, or an array of the rank of `drive` with axes of size 1 or full.
      initial: `x[T]`, the state behind the last step, `drive.shape[1:]`. Default: zeros.
      reset: optional booleans of the shape of `drive`; true where the recurrence does not look at its successor.

    Returns:
      `x`, of the shape and dtype of `drive`. Differentiable, to any order and in both modes, in `drive`, `decay` and
      `initial`.

    Raises:
      TypeError, ValueError: if an argument has the wrong dtype or shape; the message names it.
    """
    drive = checks.as_float("drive", drive)
    if drive.ndim == 0 or drive.shape[0] == 0:
        raise ValueError(f"drive must have a leading time axis of at least one step, got shape {drive.shape}")
    decay = checks.as_float("decay", decay).astype(drive.dtype)
    checks.broadcastable("decay", decay, drive.shape, "drive")
    if initial is None:
        initial = jnp.zeros(drive.shape[1:], drive.dtype)
    initial = checks.as_float("initial", initial).astype(drive.dtype)
    checks.same_shape("initial", initial, drive.shape[1:], "drive without its time axis")
    if reset is not None:
        reset = checks.as_bool("reset", reset)
        checks.same_shape("reset", reset, drive.shape, "drive")

    decay_is_constant = decay.ndim == 0 or decay.shape[0] == 1  # scalars stay scalars: bytes count
    constant_decay = decay[0] if decay_is_constant and decay.ndim else decay

    def step(successor: jax.Array, inputs: tuple) -> tuple[jax.Array, jax.Array]:
        drive_t, decay_t, reset_t = inputs
        decay_t = constant_decay if decay_is_constant else decay_t
        operand = successor if reset_t is None else jnp.where(reset_t, 0, successor)
        state = drive_t + isolated_product(decay_t, operand)
        return state, state

    return lax.scan(step, initial, (drive, None if decay_is_constant else decay, reset), reverse=True)[1]


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
