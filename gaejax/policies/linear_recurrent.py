"""The linear-recurrent memory: its gates see only the inputs, so that all steps are solved at once."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.policies.bodies import Body, fold, sequential
from gaejax.policies.layers import check_positive, flat
from gaejax.recurrence import reverse_linear_recurrence


def linear_recurrent(size: int = 64, num_layers: int = 2) -> Body:
    """Returns layers of minimal gated recurrent units (Feng et al. 2024, arXiv:2410.01201, section 3.1) with residuals.

    `h[t] = (1 - z[t]) h[t - 1] + z[t] c[t]`, where the gate z and the candidate c are functions of the inputs. This is
    the recurrence of the advantages in the other direction of time, and it is solved by the same kernel.

    Args:
      size: Width of each layer's memory and of the features.
      num_layers: Number of layers; the gates of a layer see the memory of the layer before it.

    Raises:
      ValueError: if a size is less than 1.
    """
    check_positive("linear_recurrent", size=size, num_layers=num_layers)
    module = Layers(size, num_layers)

    def initial_carry(batch: int) -> tuple:
        return tuple(jnp.zeros((batch, size), jnp.float32) for _ in range(num_layers))

    return sequential(module.init, module.apply, initial_carry)


class Layers(nn.Module):
    """The layers: `[T, N, ...]` to `[T, N, size]`; products are computed on the folded axis."""

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
    """Returns gate biases for memories of 1 to 1000 steps, evenly spaced on a logarithmic scale."""
    steps = jnp.exp(jnp.linspace(0, jnp.log(1000.0), shape[0]))
    return -jnp.log(steps).astype(dtype)


def remember(memory: jax.Array, gates: jax.Array, candidates: jax.Array, resets: jax.Array) -> jax.Array:
    """Computes the memories `[T, N, size]` after each step.

    Args:
      memory: The memory before the first step, `[N, size]`.
      gates: Logits of the gates, `[T * N, size]`.
      candidates: `[T * N, size]`.
      resets: Booleans `[T, N]`: a step starts from an empty memory.
    """
    shape = (*resets.shape, memory.shape[-1])
    gates, candidates = (x.astype(memory.dtype).reshape(shape) for x in (gates, candidates))
    backwards = reverse_linear_recurrence(
        (jax.nn.sigmoid(gates) * candidates)[::-1],
        jax.nn.sigmoid(-gates)[::-1],
        memory,
        reset=jnp.broadcast_to(resets[::-1, :, None], shape),
    )
    return backwards[::-1]
