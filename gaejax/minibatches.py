"""Minibatches: a random permutation by integer arithmetic, and epochs over rows."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

SMALL, NUM_ROUNDS = 256, 6


def random_permutation(key: jax.Array, size: int) -> jax.Array:
    """A pseudo-random permutation of `0 .. size - 1`, int32 `[size]`, without sorting where sorting is slow.

    A Feistel network over pairs (i, j) of Z_a x Z_b, where a * b is just above `size` (Black & Rogaway 2002, "Ciphers
    with arbitrary finite domains"): each round adds a hash of one half to the other. Outputs beyond `size` are put
    through the network again until they fall inside. On CPU several times as fast as `jax.random.permutation`, which
    serves the small sizes, where halves are too small for a few rounds to mix them.
    """
    if size < 1:
        raise ValueError(f"size must be positive, got {size}")
    if size < SMALL:
        return jax.random.permutation(key, size).astype(jnp.int32)
    left_size, right_size = _balanced_factors(size)
    round_keys = jax.random.bits(key, (NUM_ROUNDS, 2), jnp.uint32)

    def permute(index: jax.Array) -> jax.Array:
        left, right = index // right_size, index % right_size
        for round_index in range(NUM_ROUNDS):
            salt, multiplier = round_keys[round_index, 0], round_keys[round_index, 1] | 1
            if round_index % 2:
                right = (right + _hash(left, salt, multiplier) % right_size) % right_size
            else:
                left = (left + _hash(right, salt, multiplier) % left_size) % left_size
        return left * right_size + right

    permutation = permute(jnp.arange(size, dtype=jnp.uint32))
    if left_size * right_size > size:
        permutation = jax.lax.while_loop(
            lambda indices: jnp.any(indices >= size),
            lambda indices: jnp.where(indices >= size, permute(indices), indices),
            permutation,
        )
    return permutation.astype(jnp.int32)


def _balanced_factors(size: int) -> tuple[int, int]:
    """(a, b) with a * b >= size, both near its square root; exact where `size` has such factors."""
    root = math.isqrt(size - 1) + 1
    for left in range(root, max(root // 4, 1), -1):
        if size % left == 0:
            return left, size // left
    return root, -(-size // root)


def _hash(value: jax.Array, salt: jax.Array, multiplier: jax.Array) -> jax.Array:
    """A keyed 32-bit mix (the finalizer of MurmurHash3 behind a random affine map)."""
    value = value * multiplier + salt
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)


def fold_steps(batch: Any) -> Any:
    """`[T, N, ...]` leaves as `[1, T * N, ...]`: for a policy without memory every step is a row of its own."""
    return jax.tree.map(lambda x: x.reshape(1, x.shape[0] * x.shape[1], *x.shape[2:]), batch)


def behind_burn_in(resets: jax.Array, num_steps: int) -> jax.Array:
    """Which steps `[T, N]` bear a loss: not the first `num_steps` of a row, unless an episode has begun in it before.

    (Kapturowski et al. 2019, "Recurrent experience replay": the stored memory is that of older parameters.)
    """
    late = jnp.arange(resets.shape[0])[:, None] >= num_steps
    return late | (jnp.cumsum(resets, axis=0) > 0)


def minibatch_epochs(
    key: jax.Array,
    batch: Any,
    carry: Any,
    update: Callable[[Any, tuple[Any, Any]], tuple[Any, Any]],
    state: Any,
    num_epochs: int,
    num_minibatches: int,
) -> tuple[Any, Any]:
    """Scans `update` over epochs of shuffled minibatches; every row appears exactly once an epoch.

    Args:
      key: randomness of the shuffles.
      batch: a pytree with leaves `[T, N, ...]`, or a function of the state that makes it anew for every epoch.
      carry: the policy's memory at the start of every row, leaves `[N, ...]`. Minibatches are whole rows; where there
        is no memory the rows are folded to single steps.
      update: `(state, (minibatch, carry)) -> (state, info)`.
      state: what `update` carries along.

    Returns:
      The last state, and the infos, leaves `[num_epochs, num_minibatches, ...]`.
    """

    def rows_now(state: Any) -> Any:
        now = batch(state) if callable(batch) else batch
        return now if jax.tree.leaves(carry) else fold_steps(now)

    num_rows = jax.tree.leaves(jax.eval_shape(rows_now, state))[0].shape[1]
    if num_rows % num_minibatches:
        raise ValueError(f"num_minibatches must divide the {num_rows} rows of a batch, got {num_minibatches}")

    def epoch(state: Any, key: jax.Array) -> tuple:
        batch = rows_now(state)
        rows = random_permutation(key, num_rows).reshape(num_minibatches, -1)

        def step(state: Any, rows: jax.Array) -> tuple:
            minibatch = jax.tree.map(lambda x: x[:, rows], batch)
            return update(state, (minibatch, jax.tree.map(lambda x: x[rows], carry)))

        return jax.lax.scan(step, state, rows)

    return jax.lax.scan(epoch, state, jax.random.split(key, num_epochs))
