"""One agent's environments on several devices: the collectives, in one place.

`gaejax.training.devices` maps a training step over a mesh (`jax.shard_map`), one of whose axes may be `ROWS`: then each
device steps a part of the agent's environments, and every sum over environments has to be one over devices too. The
functions here do that. Where no axis of this name is bound, as on one device, they do nothing and cost nothing.

Whatever a training step reduces over environments must go through them, usually by `gaejax.statistics`. The step can be
tried on one device, with the parts as a mapped axis: `jax.vmap(step, axis_name=gaejax.rows.ROWS)`.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")

ROWS = "rows"
"""The name of the mesh axis over which the environments of one agent are split."""


def num_devices() -> int:
    """Returns over how many devices an agent's environments are split here."""
    return jax.lax.axis_size(ROWS) if _is_bound() else 1


def _is_bound() -> bool:
    try:
        jax.lax.axis_size(ROWS)
    except NameError:  # no such axis: all environments are on this device
        return False
    return True


def summed(values: Tree) -> Tree:
    """Returns the sums over devices, leaf by leaf, of values that are sums over one device's environments."""
    return jax.lax.psum(values, ROWS) if _is_bound() else values


def largest(values: Tree) -> Tree:
    """Returns the largest values of any device, leaf by leaf."""
    return jax.lax.pmax(values, ROWS) if _is_bound() else values


def total(values: jax.Array) -> jax.Array:
    """Returns the sum of an array over all of its axes and over devices."""
    return summed(jnp.sum(values))


def own_key(key: jax.Array) -> jax.Array:
    """Returns a key that differs from device to device, so that environments on different devices do not copy each
    other."""
    return jax.random.fold_in(key, jax.lax.axis_index(ROWS)) if _is_bound() else key


def shared(params: Tree) -> Tree:
    """Returns parameters that all devices share, as they are, for use inside a loss.

    Losses are means over all devices' environments, and each device differentiates its own copy of them: by the
    transpose of a sum over devices, which is one too, its gradient is that of its own environments times the number of
    devices. The gradient by what is returned here is averaged over devices, and therefore the gradient of the loss.
    """
    return _averaged(params) if _is_bound() else params


@jax.custom_vjp
def _averaged(params: Any) -> Any:
    return params


_averaged.defvjp(lambda params: (params, None), lambda _, gradients: (jax.lax.pmean(gradients, ROWS),))
