"""The gated recurrent unit."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.policies.bodies import Body, chain, feed_forward, recurrent
from gaejax.policies.layers import check_positive, flat, orthogonal


def gru(size: int = 64, remat: bool = False) -> Body:
    """Returns a gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) over the flattened inputs.

    Args:
      size: Width of its memory `[N, size]`, which is also its features.
      remat: Whether to recompute the gates for the gradient, instead of storing them for all T steps.

    Raises:
      ValueError: if `size` is less than 1.
    """
    check_positive("gru", size=size)

    def initial_state(batch: int) -> jax.Array:
        return jnp.zeros((batch, size), jnp.float32)

    def init(key: jax.Array, gates: jax.Array) -> dict:
        kernels = [orthogonal(1.0)(gate_key, (size, size)) for gate_key in jax.random.split(key, 3)]
        return {"kernel": jnp.concatenate(kernels, axis=1), "bias": jnp.zeros(size, jnp.float32)}

    step = jax.checkpoint(gru_step) if remat else gru_step
    # What does not depend on the memory is computed as one product over all steps, outside of the loop over time.
    inputs = Gates(size)
    return chain(feed_forward(inputs.init, inputs.apply), recurrent(init, step, initial_state))


def gru_step(params: dict, state: jax.Array, gates: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Takes one step, given the inputs' part of the three gates `[N, 3 * size]`."""
    recalled = state.astype(params["kernel"].dtype) @ params["kernel"]
    (reset_in, update_in, new_in), (reset, update, new) = (jnp.split(x, 3, axis=-1) for x in (gates, recalled))
    reset, update = jax.nn.sigmoid(reset_in + reset), jax.nn.sigmoid(update_in + update)
    new = jnp.tanh(new_in + reset * (new + params["bias"]))
    # With a single product, XLA:CPU rounds this in the same way in every loop that it is compiled into.
    state = new + update * (state - new)
    return state, state


class Gates(nn.Module):
    """Computes the inputs' part of the gates: `[B, ...]` to `[B, 3 * size]`."""

    size: int

    @nn.compact
    def __call__(self, inputs: Any) -> jax.Array:
        return nn.Dense(3 * self.size)(flat(inputs))
