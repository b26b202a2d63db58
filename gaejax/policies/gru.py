"""The gated recurrent unit."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.policies.bodies import Body, chain, feed_forward, recurrent
from gaejax.policies.initializers import orthogonal
from gaejax.policies.layers import check_positive, flat


def gru(size: int = 64, remat: bool = False) -> Body:
    """A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) over the flattened inputs; its memory is `[N, size]`.

    Args:
      size: numbers that it remembers, which are its features too.
      remat: whether the gates are computed again for the gradient, instead of kept for all T steps.
    """

    check_positive("gru", size=size)

    def initial_state(batch: int) -> jax.Array:
        return jnp.zeros((batch, size), jnp.float32)

    def init(key: jax.Array, gates: jax.Array) -> dict:
        kernels = [orthogonal(1.0)(gate_key, (size, size)) for gate_key in jax.random.split(key, 3)]
        return {"kernel": jnp.concatenate(kernels, axis=1), "bias": jnp.zeros(size, jnp.float32)}

    step = jax.checkpoint(gru_step) if remat else gru_step
    # What does not depend on the memory is one product over all steps, outside of the loop over time.
    inputs = Gates(size)
    return chain(feed_forward(inputs.init, inputs.apply), recurrent(init, step, initial_state))


def gru_step(params: dict, state: jax.Array, gates: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step, from the inputs' part of the three gates `[N, 3 * size]`."""
    recalled = state.astype(params["kernel"].dtype) @ params["kernel"]
    (reset_in, update_in, new_in), (reset, update, new) = (jnp.split(x, 3, axis=-1) for x in (gates, recalled))
    reset, update = jax.nn.sigmoid(reset_in + reset), jax.nn.sigmoid(update_in + update)
    new = jnp.tanh(new_in + reset * (new + params["bias"]))
    # Written with one product, it is rounded alike in every loop that XLA:CPU compiles it into.
    state = new + update * (state - new)
    return state, state


class Gates(nn.Module):
    """The inputs' part of the gates: `[B, ...]` to `[B, 3 * size]`."""

    size: int

    @nn.compact
    def __call__(self, inputs: Any) -> jax.Array:
        return nn.Dense(3 * self.size)(flat(inputs))
