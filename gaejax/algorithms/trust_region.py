"""Steps within a trust region: conjugate gradient and a backtracking line search."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def trust_region_step(
    gradient: Any, curvature: Callable[[Any], Any], radius: jax.Array, damping: jax.Array, num_steps: int
) -> Any:
    """Returns the step s against a gradient that lowers the linear model most within `s H s / 2 <= radius`: along
    `H^-1 g`, computed by conjugate gradient (Schulman et al. 2015, arXiv:1502.05477, appendix C).

    Args:
      gradient: g, of what is minimized.
      curvature: `v -> H v`.
      radius: of the trust region.
      damping: added to the diagonal of H.
      num_steps: of conjugate gradient.
    """

    def damped(vector: Any) -> Any:
        return jax.tree.map(lambda curved, own: curved + damping * own, curvature(vector), vector)

    direction = conjugate_gradient(damped, gradient, num_steps)
    length = optax.tree.vdot(direction, damped(direction)) / 2
    return optax.tree.scale(-jnp.sqrt(radius / jnp.maximum(length, 1e-30)), direction)


def conjugate_gradient(product: Callable[[Any], Any], target: Any, num_steps: int) -> Any:
    """Returns x with `product(x)` close to `target`, for a symmetric positive definite product (Hestenes & Stiefel,
    1952).

    (`jax.scipy.sparse.linalg.cg` of JAX 0.10.2, under `vmap` with a product that closes over batched values, returns 0
    in some compilations and not in others.)
    """

    def step(progress: tuple, _: None) -> tuple:
        solution, residual, direction, error = progress
        curved = product(direction)
        length = error / jnp.maximum(optax.tree.vdot(direction, curved), 1e-30)
        solution = optax.tree.add_scale(solution, length, direction)
        residual = optax.tree.add_scale(residual, -length, curved)
        new_error = optax.tree.vdot(residual, residual)
        direction = optax.tree.add_scale(residual, new_error / jnp.maximum(error, 1e-30), direction)
        return (solution, residual, direction, new_error), None

    start = (optax.tree.zeros_like(target), target, target, optax.tree.vdot(target, target))
    return jax.lax.scan(step, start, length=num_steps)[0][0]


def backtrack(
    params: Any,
    step: Any,
    measure: Callable[[Any], Any],
    accept: Callable[[Any], Any],
    factor: jax.Array,
    num_backtracks: int,
) -> tuple[Any, jax.Array]:
    """Returns the first of `params + step`, `params + factor * step`, ... for which `accept(measure(...))` is true, and
    its fraction of the step. After `num_backtracks` refusals: `params` and 0."""
    shortest = factor ** (num_backtracks + 0.5)

    def moved(fraction: jax.Array) -> Any:
        return optax.tree.add_scale(params, fraction, step)

    def refused(fraction: jax.Array) -> jax.Array:
        return (fraction > shortest) & ~accept(measure(moved(fraction)))

    fraction = jax.lax.while_loop(refused, lambda fraction: fraction * factor, jnp.float32(1))
    accepted = fraction > shortest
    # Chosen, not multiplied by 0: a step that was refused may be NaN.
    params = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), moved(fraction), params)
    return params, jnp.where(accepted, fraction, 0)
