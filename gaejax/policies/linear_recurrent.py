"""The linear-recurrent memory: gates that see the inputs alone, so that all steps are solved at once."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.policies.bodies import Body, fold, sequential
from gaejax.policies.layers import check_positive, flat
from gaejax.recurrence import reverse_linear_recurrence


def linear_recurrent(size: int = 64, num_layers: int = 2) -> Body:
    """Layers of the minimal gated recurrent unit (Feng et al. 2024, arXiv:2410.01201, section 3.1), with residuals.

    `h[t] = (1 - z[t]) h[t - 1] + z[t] c[t]`, where the gate z and the candidate c are functions of the inputs: the
    recurrence of the advantages, run forwards, by the same kernel.

    Args:
      size: numbers that each layer remembers, and the width of the features.
      num_layers: how many; the gates of a later one see what an earlier one remembers.
    """
    check_positive("linear_recurrent", size=size, num_layers=num_layers)
    module = Layers(size, num_layers)

    def initial_carry(batch: int) -> tuple:
        return tuple(jnp.zeros((batch, size), jnp.float32) for _ in range(num_layers))

    return sequential(module.init, module.apply, initial_carry)


class Layers(nn.Module):
    """`[T, N, ...]` to `[T, N, size]`, products on the folded axis."""

    size: int
    num_layers: int

    @nn.compact
    def __call__(self, carry: tuple, inputs: Any, resets: jax.Array) -> tuple[tuple, jax.Array]:
        features = nn.Dense(self.size)(flat(fold(inputs)))
        memories = []
        for memory in carry:
            normed = nn.LayerNorm()(features)
            gates = nn.Dense(self.size, bias_init=timescales)(normed)
            candidates = nn.Dense(self.size)(normed)
            remembered = remember(memory, gates, candidates, resets)
            memories.append(remembered[-1])
            read = remembered.reshape(features.shape).astype(features.dtype)
            features = features + nn.Dense(self.size)(nn.gelu(nn.Dense(self.size)(read)))
        return tuple(memories), nn.LayerNorm()(features).reshape(*resets.shape, self.size)


def timescales(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Gate biases whose memories last from 1 to 1000 steps, evenly on a logarithmic scale."""
    steps = jnp.exp(jnp.linspace(0, jnp.log(1000.0), shape[0]))
    return -jnp.log(steps).astype(dtype)


def remember(memory: jax.Array, gates: jax.Array, candidates: jax.Array, resets: jax.Array) -> jax.Array:
    """All memories `[T, N, size]` from the one before `[N, size]`, and logits and candidates `[T * N, size]`."""
    shape = (*resets.shape, memory.shape[-1])
    gates, candidates = (x.astype(memory.dtype).reshape(shape) for x in (gates, candidates))
    backwards = reverse_linear_recurrence(
        (jax.nn.sigmoid(gates) * candidates)[::-1],
        jax.nn.sigmoid(-gates)[::-1],
        memory,
        reset=jnp.broadcast_to(resets[::-1, :, None], shape),
    )
    return backwards[::-1]
