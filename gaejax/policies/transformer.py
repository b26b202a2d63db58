"""The causal transformer with a sliding window, whose memory is a ring of keys and values."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.policies.attention import Cache, View, attend, empty_cache, look, rotate, write
from gaejax.policies.bodies import Body, fold, sequential
from gaejax.policies.layers import check_positive, flat


def transformer(
    size: int = 64,
    num_layers: int = 2,
    num_heads: int = 4,
    context: int = 64,
    positions: Literal["learned", "rotary"] = "learned",
    remat: bool = False,
) -> Body:
    """Returns a pre-norm causal transformer (Vaswani et al. 2017, arXiv:1706.03762).

    Each layer sees the last `context` steps of the current episode, including the present one.

    Args:
      size: Width of the features.
      num_layers: Number of layers.
      num_heads: Number of attention heads per layer.
      context: Number of steps that each layer sees, and of slots in its ring of keys and values.
      positions: "learned" adds a vector for each step of an episode (modulo `context`, so they differ within the
        window); "rotary" rotates queries and keys (Su et al. 2021, arXiv:2104.09864).
      remat: Whether to recompute each layer for the gradient, instead of storing it.

    Raises:
      ValueError: for invalid sizes or positions; in `apply`, for a carry with another context.
    """
    check_positive("transformer", size=size, num_layers=num_layers, num_heads=num_heads, context=context)
    if size % (2 * num_heads):
        raise ValueError(f"size must be a multiple of 2 * num_heads = {2 * num_heads}, got {size}")
    if positions not in ("learned", "rotary"):
        raise ValueError(f"positions must be 'learned' or 'rotary', got {positions!r}")
    module = Transformer(size, num_layers, num_heads, context, positions == "rotary", remat)

    def initial_carry(batch: int) -> Cache:
        return empty_cache(batch, num_layers, context, (num_heads, size // num_heads))

    return sequential(module.init, module.apply, initial_carry)


class Transformer(nn.Module):
    """The layers: `[T, N, ...]` to `[T, N, size]`; products are computed on the folded axis."""

    size: int
    num_layers: int
    num_heads: int
    context: int
    rotary: bool
    remat: bool

    @nn.compact
    def __call__(self, cache: Cache, inputs: Any, resets: jax.Array) -> tuple[Cache, jax.Array]:
        slots = cache.positions.shape[1]
        if slots != self.context:
            remedy = "use this policy's initial_carry"
            raise ValueError(f"carry must hold {self.context} steps, the transformer's context, got {slots}: {remedy}")
        view, positions, position = look(cache, resets)
        features = nn.Dense(self.size)(flat(fold(inputs)))
        if not self.rotary:
            table = self.param("positions", nn.initializers.normal(0.02), (self.context, self.size), jnp.float32)
            features = features + table[view.positions.reshape(-1) % self.context]
        block = nn.remat(Block) if self.remat else Block
        keys, values = [], []
        for layer, ring in enumerate(zip(cache.keys, cache.values, strict=True)):
            attention = block(self.size, self.num_heads, self.rotary, name=f"layer_{layer}")
            features, key, value = attention(features, *ring, view)
            keys.append(key)
            values.append(value)
        slot = (cache.slot + resets.shape[0]) % self.context
        features = nn.LayerNorm()(features).reshape(*resets.shape, self.size)
        return Cache(tuple(keys), tuple(values), positions, position, slot), features


class Block(nn.Module):
    """Attention and a two-layer perceptron, each with a residual; returns the updated rings too."""

    size: int
    num_heads: int
    rotary: bool

    @nn.compact
    def __call__(self, features: jax.Array, ring_keys: jax.Array, ring_values: jax.Array, view: View) -> tuple:
        steps, batch = view.positions.shape
        projected = nn.Dense(3 * self.size)(nn.LayerNorm()(features))
        heads = (steps, batch, self.num_heads, self.size // self.num_heads)
        queries, keys, values = (x.reshape(heads) for x in jnp.split(projected, 3, axis=-1))
        if self.rotary:
            queries, keys = rotate(queries, view.positions), rotate(keys, view.positions)
        # A NaN (which a final observation may be) must not reach other steps, and 0 times NaN is NaN.
        keys, values = (jnp.nan_to_num(x.swapaxes(0, 1)).astype(ring_keys.dtype) for x in (keys, values))
        written_keys, written_values = (write(ring_keys, keys, view.slot), write(ring_values, values, view.slot))
        if steps == 1:
            seen_keys, seen_values = written_keys, written_values
        else:
            seen_keys = jnp.concatenate([ring_keys, keys], axis=1)
            seen_values = jnp.concatenate([ring_values, values], axis=1)
        read = attend(queries, seen_keys.astype(queries.dtype), seen_values.astype(queries.dtype), view.visible)
        features = features + nn.Dense(self.size)(read.reshape(-1, self.size))
        hidden = nn.gelu(nn.Dense(4 * self.size)(nn.LayerNorm()(features)))
        return features + nn.Dense(self.size)(hidden), written_keys, written_values
