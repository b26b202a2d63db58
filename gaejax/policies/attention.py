"""Attention with a memory: the ring of keys and values of each row's last steps, and who may see what of it."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


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


def empty_cache(batch: int, num_layers: int, context: int, shape: tuple[int, int]) -> Cache:
    """Rings in which nothing has been written, of vectors `[heads, size / heads]`."""
    ring, zeros = jnp.zeros((batch, context, *shape), jnp.float32), jnp.zeros(batch, jnp.int32)
    rings = (ring,) * num_layers
    return Cache(rings, rings, jnp.full((batch, context), -1, jnp.int32), zeros, zeros)


def look(cache: Cache, resets: jax.Array) -> tuple[View, jax.Array, jax.Array]:
    """The view of `[T, N]` new steps, and the positions of the slots and of the next step behind them."""
    steps, context = resets.shape[0], cache.positions.shape[1]
    index = jnp.arange(steps, dtype=jnp.int32)[:, None]
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
    slots = (slot + steps - kept.shape[1] + jnp.arange(kept.shape[1], dtype=jnp.int32)) % context
    return ring.at[:, slots].set(kept, unique_indices=True)


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array) -> jax.Array:
    """Softmax attention: queries `[T, N, H, D]`, keys and values `[N, S, H, D]`, visible `[N, T, S]`."""
    scores = jnp.einsum("tnhd,nshd->nhts", queries, keys) / math.sqrt(queries.shape[-1])
    scores = jnp.where(visible[:, None], scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores).astype(values.dtype)
    return jnp.einsum("nhts,nshd->tnhd", weights, values)


def rotate(vectors: jax.Array, positions: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Vectors `[T, N, H, D]` turned by angles that grow with their positions `[T, N]`, the slower the later in D."""
    half = vectors.shape[-1] // 2
    angles = positions[..., None, None] * base ** -(jnp.arange(half) / half)
    first, second = vectors[..., :half], vectors[..., half:]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    turned = (first * cosine - second * sine, first * sine + second * cosine)
    return jnp.concatenate(turned, axis=-1).astype(vectors.dtype)
