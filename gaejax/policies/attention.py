"""Attention with memory: a ring of the keys and values of the last steps, and the visibility of its slots."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Cache(NamedTuple):
    """The last `context` steps of each environment, as a ring.

    Attributes:
      keys, values: One array `[N, context, heads, size / heads]` per layer.
      positions: `[N, context]`, the step of its episode at which a slot was written; -1 for an empty slot, so that a
        reset need not clear keys and values.
      position: `[N]`, the position of the next step in its episode.
      slot: `[N]`, the slot that the next step is written to, the same for all environments.
    """

    keys: tuple
    values: tuple
    positions: jax.Array
    position: jax.Array
    slot: jax.Array


class View(NamedTuple):
    """What the new steps of one call may see.

    Attributes:
      positions: `[T, N]`, the position of each new step in its episode.
      visible: `[N, T, S]`: whether step t may read slot s of the ring and the new steps, concatenated (for T = 1: of
        the ring after the step was written to it).
      slot: The slot that the first new step is written to.
    """

    positions: jax.Array
    visible: jax.Array
    slot: jax.Array


def empty_cache(batch: int, num_layers: int, context: int, shape: tuple[int, int]) -> Cache:
    """Returns a cache with empty slots for vectors of a shape `[heads, size / heads]`."""
    ring, zeros = jnp.zeros((batch, context, *shape), jnp.float32), jnp.zeros(batch, jnp.int32)
    rings = (ring,) * num_layers
    return Cache(rings, rings, jnp.full((batch, context), -1, jnp.int32), zeros, zeros)


def look(cache: Cache, resets: jax.Array) -> tuple[View, jax.Array, jax.Array]:
    """Returns the view of new steps `[T, N]`, and the cache's `positions` and `position` after them."""
    steps, context = resets.shape[0], cache.positions.shape[1]
    index = jnp.arange(steps, dtype=jnp.int32)[:, None]
    start = jax.lax.cummax(jnp.where(resets, index, -1))  # of the episode; -1: it began before this call
    positions = jnp.where(start < 0, cache.position + index, index - start)
    # Steps of one episode share its start; slots of the cache belong to the episode that began before this call.
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
    """Writes new steps `[N, T, ...]` to a ring `[N, context, ...]` from `slot` on; if T > context, the last ones."""
    context, steps = ring.shape[1], new.shape[1]
    if steps == 1:
        return jax.lax.dynamic_update_slice_in_dim(ring, new, slot, axis=1)
    kept = new[:, -context:]
    slots = (slot + steps - kept.shape[1] + jnp.arange(kept.shape[1], dtype=jnp.int32)) % context
    return ring.at[:, slots].set(kept, unique_indices=True)


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array) -> jax.Array:
    """Computes softmax attention `[T, N, H, D]`.

    Args:
      queries: `[T, N, H, D]`.
      keys, values: `[N, S, H, D]`.
      visible: Booleans `[N, T, S]`: whether query t may read slot s.
    """
    scores = jnp.einsum("tnhd,nshd->nhts", queries, keys) / math.sqrt(queries.shape[-1])
    scores = jnp.where(visible[:, None], scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores).astype(values.dtype)
    return jnp.einsum("nhts,nshd->tnhd", weights, values)


def rotate(vectors: jax.Array, positions: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Rotates vectors `[T, N, H, D]` by angles proportional to their positions `[T, N]` (Su et al. 2021,
    arXiv:2104.09864); entry k of the first half of D is paired with entry k of the second, and turns at the rate
    `base ** (-2k / D)`."""
    half = vectors.shape[-1] // 2
    angles = positions[..., None, None] * base ** -(jnp.arange(half) / half)
    first, second = vectors[..., :half], vectors[..., half:]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    turned = (first * cosine - second * sine, first * sine + second * cosine)
    return jnp.concatenate(turned, axis=-1).astype(vectors.dtype)
