"""Shuffling: every sample exactly once, for any size, and minibatches of every composition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaejax.minibatches import minibatch_epochs, random_permutation


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 13, 31, 64, 97, 100, 127, 128, 1000, 1009, 2048, 8192, 10007])
def test_is_a_permutation_of_any_size(size):
    permute = jax.jit(jax.vmap(lambda key: random_permutation(key, size)))
    for permutation in permute(jax.random.split(jax.random.key(size), 5)):
        np.testing.assert_array_equal(np.sort(permutation), np.arange(size))


def test_refuses_an_empty_batch():
    with pytest.raises(ValueError, match="size must be positive, got 0"):
        random_permutation(jax.random.key(0), 0)


def chi_square_is_plausible(counts, expected, degrees):
    """Within 5 standard deviations of its mean, either side (too even is no shuffle either)."""
    statistic = np.sum((counts - expected) ** 2 / expected)
    return abs(statistic - degrees) < 5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("size", [24, 37, 96])
def test_every_sample_lands_everywhere_equally_often(size):
    draws = 20_000
    permutations = jax.jit(jax.vmap(lambda key: random_permutation(key, size)))(
        jax.random.split(jax.random.key(1), draws)
    )
    counts = np.stack([np.bincount(np.asarray(column), minlength=size) for column in permutations.T])
    assert chi_square_is_plausible(counts, draws / size, (size - 1) ** 2)


@pytest.mark.parametrize("size, num_minibatches", [(24, 4), (96, 4), (128, 8), (2048, 4), (8192, 4)])
def test_minibatch_composition_mixes(size, num_minibatches):
    """How many of a fixed group (one environment's steps, one stretch of time, a random one) share a minibatch is
    hypergeometric. A shuffle that permutes affinely gives every minibatch the same composition: variance far off."""
    draws, group = 4000, size // num_minibatches
    permutations = jax.jit(jax.vmap(lambda key: random_permutation(key, size)))(
        jax.random.split(jax.random.key(2), draws)
    )
    minibatch = np.asarray(permutations)[:, :group]
    stretch, stride = minibatch < group, minibatch % num_minibatches == 0
    anything = np.isin(minibatch, np.random.default_rng(0).permutation(size)[:group])
    share = group / size
    variance = group * share * (1 - share) * (size - group) / (size - 1)
    for members in (stretch, stride, anything):
        counts = members.sum(axis=1)
        assert abs(counts.mean() - group * share) < 5 * np.sqrt(variance / draws)
        assert abs(counts.var() / variance - 1) < 5 * np.sqrt(2 / draws)


def test_pairs_share_a_minibatch_as_often_as_chance_has_it():
    size, num_minibatches, draws = 64, 4, 20_000
    permutations = np.asarray(
        jax.jit(jax.vmap(lambda key: random_permutation(key, size)))(jax.random.split(jax.random.key(3), draws))
    )
    place = np.argsort(permutations, axis=1) // (size // num_minibatches)  # the minibatch of each sample
    together = np.array(
        [[np.mean(place[:, i] == place[:, j]) for j in range(i)] + [0] * (size - i) for i in range(size)]
    )
    pairs = together[np.tril_indices(size, -1)]
    chance = (size // num_minibatches - 1) / (size - 1)
    deviation = np.sqrt(chance * (1 - chance) / draws)
    assert abs(pairs.mean() - chance) < 1e-6
    assert np.abs(pairs - chance).max() < 6 * deviation
    assert 0.8 < pairs.std() / deviation < 1.2


@pytest.mark.parametrize("carry", [(), jnp.zeros((6, 2))])
def test_an_epoch_shows_every_row_once_and_rows_stay_whole_where_there_is_memory(carry):
    batch = {"index": jnp.arange(5 * 6).reshape(5, 6), "row": jnp.tile(jnp.arange(6), (5, 1))}

    def update(state, minibatch):
        return state, minibatch[0]

    _, seen = minibatch_epochs(jax.random.key(0), batch, carry, update, (), num_epochs=2, num_minibatches=3)
    for epoch in range(2):
        np.testing.assert_array_equal(np.sort(seen["index"][epoch].ravel()), np.arange(30))
    assert not np.array_equal(seen["index"][0], seen["index"][1])
    if len(carry):
        assert seen["row"].shape == (2, 3, 5, 2)
        assert np.all(seen["row"] == seen["row"][:, :, :1])
    else:
        assert seen["row"].shape == (2, 3, 1, 10)


def test_rows_that_cannot_be_divided_are_refused():
    with pytest.raises(ValueError, match="num_minibatches must divide the 6 environments of a batch, got 4"):
        minibatch_epochs(jax.random.key(0), jnp.zeros((5, 6)), jnp.zeros(6), None, (), 1, num_minibatches=4)
