"""Minibatches: what an update reads, a random permutation by integer arithmetic, and shuffled epochs."""

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from gaejax import rows

SMALL, NUM_ROUNDS = 256, 6


class Batch(NamedTuple):
    """What an update reads of each transition, `[T, N, ...]`. Values at masked steps are arbitrary but not NaN in
    `observations`.

    Attributes:
      observations: normalized, as the policy saw them.
      resets, actions, log_probs: as in `gaejax.Trajectory`.
      values: of the policy that the advantages were estimated with.
      advantages, value_targets: from the estimator.
      mask: the steps that count in the loss.
    """

    observations: Any
    resets: jax.Array
    actions: Any
    log_probs: jax.Array
    values: jax.Array
    advantages: jax.Array
    value_targets: jax.Array
    mask: jax.Array


def random_permutation(key: jax.Array, size: int) -> jax.Array:
    """Returns a pseudo-random permutation of `0 .. size - 1`, int32 `[size]`, without sorting where sorting is slow.

    A Feistel network over pairs (i, j) of Z_a x Z_b, where a * b is just above `size` (Black & Rogaway 2002, "Ciphers
    with arbitrary finite domains"): each round adds a hash of one half to the other. Outputs beyond `size` go
    through the network again until they fall inside. On CPU it is several times as fast as `jax.random.permutation`,
    which is used for sizes below 256, where a few rounds would not mix.

    Raises:
      ValueError: if `size` is less than 1.
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
    """Returns (a, b) with a * b >= size, both near its square root, and equal to it if `size` has such factors."""
    root = math.isqrt(size - 1) + 1
    for left in range(root, max(root // 4, 1), -1):
        if size % left == 0:
            return left, size // left
    return root, -(-size // root)


def _hash(value: jax.Array, salt: jax.Array, multiplier: jax.Array) -> jax.Array:
    """Returns a keyed 32-bit mix of `value`: a random affine map, then the finalizer of MurmurHash3."""
    value = value * multiplier + salt
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)


class Update(Protocol):
    """One update from one minibatch."""

    def __call__(self, state: Any, minibatch: tuple[Any, Any], /) -> tuple[Any, Any]:
        """Returns the next state and diagnostics, given `(minibatch, carry)`."""
        ...


def minibatch_epochs(
    key: jax.Array,
    batch: Any,
    carry: Any,
    update: Update,
    state: Any,
    num_epochs: int,
    num_minibatches: int,
) -> tuple[Any, Any]:
    """Scans `update` over epochs of shuffled minibatches, in which every element appears exactly once per epoch.

    A minibatch is made of whole environments, `[T, N / num_minibatches, ...]`, if the policy has a memory. Otherwise it
    is made of single transitions, `[1, T * N / num_minibatches, ...]`.

    Args:
      key: randomness of the shuffles.
      batch: a pytree with leaves `[T, N, ...]`, or a function of the state that makes it anew for every epoch.
      carry: the policy's memory before the first step, leaves `[N, ...]`; `()` without memory.
      update: `(state, (minibatch, carry)) -> (state, info)`.
      state: what `update` carries along.
      num_epochs, num_minibatches: passes over the batch, and minibatches in a pass.

    Returns:
      The last state, and the infos, leaves `[num_epochs, num_minibatches, ...]`.

    Raises:
      ValueError: if `num_minibatches` does not divide the number of elements.
    """
    has_memory = bool(jax.tree.leaves(carry))

    def epoch(state: Any, key: jax.Array) -> tuple:
        now = batch(state) if callable(batch) else batch
        if not has_memory:  # every transition is an element of its own: [1, T * N, ...]
            now = jax.tree.map(lambda x: x.reshape(1, x.shape[0] * x.shape[1], *x.shape[2:]), now)
        size = jax.tree.leaves(now)[0].shape[1]
        if size % num_minibatches:
            what = "environments" if has_memory else "transitions"
            what += " on each device" if rows.num_devices() > 1 else ""
            raise ValueError(f"num_minibatches must divide the {size} {what} of a batch, got {num_minibatches}")
        chosen = random_permutation(key, size).reshape(num_minibatches, -1)

        def step(state: Any, chosen: jax.Array) -> tuple:
            minibatch = jax.tree.map(lambda x: x[:, chosen], now)
            return update(state, (minibatch, jax.tree.map(lambda x: x[chosen], carry)))

        return jax.lax.scan(step, state, chosen)

    return jax.lax.scan(epoch, state, jax.random.split(rows.own_key(key), num_epochs))
