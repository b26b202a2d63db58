"""The causal transformer with a sliding window, whose memory is a ring of keys and values."""

import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.policies.core import Body
from gaejax.policies.layers import flat


class Cache(NamedTuple):
    """The last `context` steps of each row, as a ring.

    Attributes:
      keys, values: of each layer, `[N, context, heads, size / heads]`.
      positions: at which step of its episode a slot was written `[N, context]`; -1: empty, so that a reset writes no
        more than this.
      position: of the next step `[N]`.
      slot: where it will be written, the same in all rows, `[N]`.
    """

    keys: tuple
    values: tuple
    positions: jax.Array
    position: jax.Array
    slot: jax.Array


class View(NamedTuple):
    """Who sees whom in one call: query t may read slot s of `[ring, new steps]` where `visible[n, t, s]`."""

    positions: jax.Array
    visible: jax.Array
    slot: jax.Array


def transformer(
    size: int = 64,
    num_layers: int = 2,
    num_heads: int = 4,
    context: int = 64,
    positions: Literal["learned", "rotary"] = "learned",
    remat: bool = False,
) -> Body:
    """A pre-norm causal transformer (Vaswani et al. 2017, arXiv:1706.03762) that sees the last `context` steps of its
    episode, the present one included, and never another episode.

    Args:
      size: width of the features.
      num_layers, num_heads: of the attention.
      context: steps that each layer sees, and slots of its ring of keys and values.
      positions: "learned" adds a vector for each step of an episode (modulo `context`: within the window no two are
        the same); "rotary" turns queries and keys (Su et al. 2021, arXiv:2104.09864).
      remat: whether each layer is computed again for the gradient, instead of kept.

    Raises:
      ValueError: for sizes that do not fit, or, when it is applied, a carry of another context.
    """
    if size % (2 * num_heads) or min(size, num_layers, num_heads, context) < 1:
        raise ValueError(f"size must be a multiple of 2 * num_heads = {2 * num_heads}, got {size}")
    if positions not in ("learned", "rotary"):
        raise ValueError(f"positions must be 'learned' or 'rotary', got {positions!r}")
    module = Transformer(size, num_layers, num_heads, context, positions == "rotary", remat)

    def initial_carry(batch: int) -> Cache:
        ring = jnp.zeros((batch, context, num_heads, size // num_heads), jnp.float32)
        zeros = jnp.zeros(batch, jnp.int32)
        rings = (ring,) * num_layers
        return Cache(rings, rings, jnp.full((batch, context), -1, jnp.int32), zeros, zeros)

    def init(key: jax.Array, inputs: Any) -> Any:
        steps, rows = jax.tree.leaves(inputs)[0].shape[:2]
        return module.init(key, initial_carry(rows), inputs, jnp.zeros((steps, rows), bool))

    return Body(init, initial_carry, module.apply)


class Transformer(nn.Module):
    """`[T, N, ...]` to `[T, N, size]`, products on the folded axis."""

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
            remedy = "take it from this policy's initial_carry"
            raise ValueError(f"carry holds {slots} steps where the transformer's context is {self.context}: {remedy}")
        view, positions, position = look(cache, resets)
        features = nn.Dense(self.size)(flat(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), inputs)))
        if not self.rotary:
            table = self.param("positions", nn.initializers.normal(0.02), (self.context, self.size), jnp.float32)
            features = features + table[view.positions.reshape(-1) % self.context]
        block = nn.remat(Block) if self.remat else Block
        keys, values = [], []
        for ring_keys, ring_values in zip(cache.keys, cache.values, strict=True):
            features, key, value = block(self.size, self.num_heads, self.rotary)(features, ring_keys, ring_values, view)
            keys.append(key)
            values.append(value)
        slot = (cache.slot + resets.shape[0]) % self.context
        features = nn.LayerNorm()(features).reshape(*resets.shape, self.size)
        return Cache(tuple(keys), tuple(values), positions, position, slot), features


class Block(nn.Module):
    """Attention and a perceptron, each with its residual; returns the written rings too."""

    size: int
    num_heads: int
    rotary: bool

    @nn.compact
    def __call__(self, features: jax.Array, ring_keys: jax.Array, ring_values: jax.Array, view: View) -> tuple:
        steps, rows = view.positions.shape
        projected = nn.Dense(3 * self.size)(nn.LayerNorm()(features))
        heads = (steps, rows, self.num_heads, self.size // self.num_heads)
        queries, keys, values = (x.reshape(heads) for x in jnp.split(projected, 3, axis=-1))
        if self.rotary:
            queries, keys = rotate(queries, view.positions), rotate(keys, view.positions)
        # A NaN (a final observation may be one) stays with its own step: weight 0 would not keep it from the others.
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


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array) -> jax.Array:
    """Softmax attention: queries `[T, N, H, D]`, keys and values `[N, S, H, D]`, visible `[N, T, S]`."""
    scores = jnp.einsum("tnhd,nshd->nhts", queries, keys) / math.sqrt(queries.shape[-1])
    scores = jnp.where(visible[:, None], scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores).astype(values.dtype)
    return jnp.einsum("nhts,nshd->tnhd", weights, values)


def look(cache: Cache, resets: jax.Array) -> tuple[View, jax.Array, jax.Array]:
    """The view of `[T, N]` new steps, and the positions of the slots and of the next step behind them."""
    steps, context = resets.shape[0], cache.positions.shape[1]
    index = jnp.arange(steps)[:, None]
    start = jax.lax.cummax(jnp.where(resets, index, -1))  # of the episode; -1: it goes on from the cache
    positions = jnp.where(start < 0, cache.position + index, index - start)
    # Steps of an episode have its start in common; what stands in the cache is seen from the one that goes on.
    kept = jnp.where(start[-1][:, None] < 0, cache.positions, -1)
    own = jnp.where(start == start[-1], positions, -1)
    written = write(kept, own.T, cache.slot[0])
    if steps == 1:
        visible = (written >= 0)[:, None]
    else:
        ages = positions.T[:, :, None] - jnp.concatenate([cache.positions, positions.T], axis=1)[:, None]
        starts = jnp.concatenate([jnp.where(cache.positions < 0, -2, -1), start.T], axis=1)
        visible = (starts[:, None] == start.T[:, :, None]) & (ages >= 0) & (ages < context)
    return View(positions, visible, cache.slot[0]), written, positions[-1] + 1


def write(ring: jax.Array, new: jax.Array, slot: jax.Array) -> jax.Array:
    """A ring `[N, context, ...]` with new steps `[N, T, ...]` from `slot` on; of more than fit, the last."""
    context, steps = ring.shape[1], new.shape[1]
    if steps == 1:
        return jax.lax.dynamic_update_slice_in_dim(ring, new, slot, axis=1)
    kept = new[:, -context:]
    slots = (slot + steps - kept.shape[1] + jnp.arange(kept.shape[1])) % context
    return ring.at[:, slots].set(kept, unique_indices=True)


def rotate(vectors: jax.Array, positions: jax.Array) -> jax.Array:
    """Vectors `[T, N, H, D]` turned by angles that grow with their positions `[T, N]`."""
    half = vectors.shape[-1] // 2
    angles = positions[..., None, None] * 10_000.0 ** -(jnp.arange(half) / half)
    first, second = vectors[..., :half], vectors[..., half:]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    turned = (first * cosine - second * sine, first * sine + second * cosine)
    return jnp.concatenate(turned, axis=-1).astype(vectors.dtype)
