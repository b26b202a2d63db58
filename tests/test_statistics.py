"""Distributions against SciPy, masked statistics and normalizers against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gaejax.algorithms.normalizers import ObservationNormalizer, RewardNormalizer
from gaejax.distributions import Categorical, DiagonalGaussian
from gaejax.environments import Box, Dict, Discrete, MultiBinary
from gaejax.rollout import Trajectory
from gaejax.statistics import RunningMoments, explained_variance, masked_mean, standardize

RNG = np.random.default_rng(0)


def test_categorical():
    logits = RNG.normal(size=(4, 3)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    distribution = Categorical(jnp.asarray(logits))
    actions = np.array([0, 2, 1, 2])
    np.testing.assert_allclose(distribution.log_prob(actions), np.log(probabilities[np.arange(4), actions]), rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(), stats.entropy(probabilities, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(distribution.mode(), logits.argmax(axis=1))
    samples = jax.vmap(distribution.sample)(jax.random.split(jax.random.key(0), 20_000))
    frequencies = np.stack([np.mean(np.asarray(samples) == action, axis=0) for action in range(3)], axis=1)
    np.testing.assert_allclose(frequencies, probabilities, atol=0.02)


def test_categorical_with_impossible_actions_is_finite_in_values_and_gradients():
    lowest = np.finfo(np.float32).min
    logits = jnp.array([[0.5, lowest, 0.1]])

    def loss(logits):
        distribution = Categorical(logits)
        return jnp.sum(distribution.entropy() + distribution.log_prob(jnp.array([0])))

    value, gradient = jax.value_and_grad(loss)(logits)
    assert np.isfinite(value) and np.all(np.isfinite(gradient)) and gradient[0, 1] == 0


def test_diagonal_gaussian():
    mean, log_std = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    actions = RNG.normal(size=(5, 3)).astype(np.float32)
    distribution = DiagonalGaussian(jnp.asarray(mean), jnp.asarray(log_std))
    normal = stats.norm(mean, np.exp(log_std))
    np.testing.assert_allclose(distribution.log_prob(actions), normal.logpdf(actions).sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(distribution.entropy(), normal.entropy().sum(axis=1), rtol=1e-5)
    samples = jax.vmap(distribution.sample)(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=0.05 * np.exp(log_std).max())


def test_masked_statistics_ignore_what_is_masked_even_nan():
    values = RNG.normal(size=(6, 2)).astype(np.float32)
    mask = RNG.random((6, 2)) < 0.6
    kept = values[mask]
    poisoned = jnp.where(mask, values, np.nan)
    np.testing.assert_allclose(masked_mean(poisoned, mask), kept.mean(), rtol=1e-5)
    standardized = standardize(poisoned, mask)
    np.testing.assert_allclose(np.asarray(standardized)[mask], (kept - kept.mean()) / kept.std(), rtol=1e-4)
    assert np.all(np.asarray(standardized)[~mask] == 0)
    assert masked_mean(poisoned, jnp.zeros_like(mask)) == 0
    gradient = jax.grad(lambda x: masked_mean(x**2, mask))(poisoned)
    np.testing.assert_allclose(np.where(mask, gradient, 0), np.where(mask, 2 * values / mask.sum(), 0), rtol=1e-5)


def test_explained_variance():
    targets = jnp.asarray(RNG.normal(size=(8, 2)), jnp.float32)
    mask = jnp.ones((8, 2), bool)
    assert explained_variance(targets, targets, mask) == 1
    assert explained_variance(targets + 3, targets, mask) > 0.999
    np.testing.assert_allclose(explained_variance(jnp.zeros_like(targets), targets, mask), 0, atol=1e-6)


def test_running_moments_of_batches_are_those_of_the_whole():
    batches = [RNG.normal(loc=5, scale=(1, 10), size=(size, 2)).astype(np.float32) for size in (1, 7, 100, 3)]
    masks = [RNG.random(len(batch)) < 0.8 for batch in batches]
    moments = RunningMoments.empty((2,))
    assert np.all(moments.std() == 1)
    for batch, mask in zip(batches, masks, strict=True):
        moments = moments.update(jnp.where(mask[:, None], batch, np.nan), mask)
    kept = np.concatenate([batch[mask] for batch, mask in zip(batches, masks, strict=True)])
    np.testing.assert_allclose(moments.mean, kept.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.std(), kept.std(axis=0), rtol=1e-4)
    assert moments.count == len(kept)


def trajectory(rewards, resets, mask, observations=None):
    blank = jnp.zeros_like(rewards)
    observations = blank[..., None] if observations is None else observations
    return Trajectory(observations, resets, blank, blank, rewards, blank > 0, blank > 0, mask, (), None, None)


def test_a_terminal_reward_is_not_carried_into_the_next_episodes_return():
    """Rows: an episode of two steps, its final observation, then the next episode; in two rollouts."""
    rewards = jnp.array([1.0, 10.0, 0.0, 2.0, 3.0])[:, None]
    resets = jnp.array([True, False, False, True, False])[:, None]
    mask = jnp.array([True, True, False, True, True])[:, None]
    returns = [1, 10 + 0.5 * 1, 2, 3 + 0.5 * 2]
    whole = RewardNormalizer.create(1).update(trajectory(rewards, resets, mask), jnp.float32(0.5))
    np.testing.assert_allclose(whole.moments.std(), np.std(returns), rtol=1e-5)
    np.testing.assert_allclose(whole.discounted_return, [4])
    halves = RewardNormalizer.create(1)
    for part in (slice(0, 2), slice(2, 5)):
        halves = halves.update(trajectory(rewards[part], resets[part], mask[part]), jnp.float32(0.5))
    np.testing.assert_allclose(halves.moments.std(), whole.moments.std(), rtol=1e-6)
    np.testing.assert_allclose(halves(rewards), rewards / np.std(returns), rtol=1e-5)


def test_observation_normalizer():
    observations = jnp.asarray(RNG.normal(3, 2, size=(50, 4, 2)), jnp.float32)
    mask = jnp.asarray(RNG.random((50, 4)) < 0.9)
    normalizer = ObservationNormalizer.create(Box(-1, 1, (2,)))
    np.testing.assert_array_equal(normalizer(observations), observations)  # nothing seen: nothing changed
    normalizer = normalizer.update(trajectory(jnp.zeros((50, 4)), mask, mask, observations))
    normalized = np.asarray(normalizer(observations))[np.asarray(mask)]
    np.testing.assert_allclose(normalized.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std(axis=0), 1, atol=1e-3)
    assert np.abs(normalizer(observations + 1e6)).max() == 10


def test_of_a_dict_the_real_parts_are_normalized():
    space = Dict({"box": Box(-1, 1, ()), "cell": Discrete(3), "action_mask": MultiBinary((2,))})
    box, mask = jnp.asarray(RNG.normal(3, 2, size=(50, 4)), jnp.float32), jnp.ones((50, 4), bool)
    observations = {"box": box, "cell": jnp.full((50, 4), 2), "action_mask": jnp.ones((50, 4, 2), bool)}
    normalizer = ObservationNormalizer.create(space).update(trajectory(box, mask, mask, observations))
    normalized = normalizer(observations)
    np.testing.assert_allclose([normalized["box"].mean(), normalized["box"].std()], [0, 1], atol=1e-3)
    for name in ("cell", "action_mask"):
        np.testing.assert_array_equal(normalized[name], observations[name])
        assert normalized[name].dtype == observations[name].dtype


def moments_of(values, mask=None):
    values = jnp.asarray(values, jnp.float32)
    return RunningMoments.empty(values.shape[1:]).update(values, jnp.ones(len(values), bool) if mask is None else mask)


@pytest.mark.parametrize("mean, spread", [(0, 5e-7), (48.12345, 4e-4), (1000, 1e-2), (-3e6, 100), (0, 1e-12)])
def test_a_small_spread_is_a_spread(mean, spread):
    """Far above float32's rounding of the mean, however small against it."""
    values = np.float32(mean + spread * RNG.choice([-1.0, 1.0], size=(4000, 1)))
    np.testing.assert_allclose(moments_of(values).std(), values.std(dtype=np.float64), rtol=2e-2)


@pytest.mark.parametrize("value", [0.0, 48.12345, -1e-20, 3e6, 1e19, 1 / 3])
def test_a_constant_has_spread_one_up_to_rounding(value):
    constant = np.full((65_536, 1), value, np.float32)
    moments = moments_of(constant)
    assert moments.std() == 1 and moments.mean == constant[0]
    for _ in range(3):
        moments = moments.update(constant, jnp.ones(len(constant), bool))
    assert moments.std() == 1
    neighbours = np.where(np.arange(4000) % 2, np.nextafter(constant[0], np.float32(np.inf)), constant[0])[:, None]
    assert moments_of(neighbours).std() == 1


@pytest.mark.parametrize("size", [1e19, -1e18, 1e30])
def test_the_spread_of_enormous_values_is_finite(size):
    values = np.float32(size) * RNG.normal(size=(500, 2)).astype(np.float32)
    moments = moments_of(values).update(jnp.asarray(-values), jnp.ones(500, bool))
    assert np.all(np.isfinite(moments.std())) and np.all(moments.std() > 1e17)


def test_moments_pass_over_what_is_not_finite_and_count_it():
    values = RNG.normal(size=(100, 3)).astype(np.float32)
    values[7, 1], values[8, 0] = np.nan, np.inf
    mask = np.arange(100) < 90
    moments = moments_of(values, jnp.asarray(mask))
    kept = values[mask & np.isfinite(values).all(axis=1)]
    np.testing.assert_allclose(moments.mean, kept.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(moments.std(), kept.std(axis=0), rtol=1e-5)
    assert moments.skipped == 2 and moments.count == 88


def test_a_reward_that_is_not_finite_does_not_stay_in_the_discounted_return():
    rewards = jnp.array([1.0, jnp.nan, 2.0, jnp.inf, 3.0])[:, None]
    resets, mask = jnp.zeros((5, 1), bool), jnp.ones((5, 1), bool)
    normalizer = RewardNormalizer.create(1).update(trajectory(rewards, resets, mask), jnp.float32(0.5))
    np.testing.assert_allclose(normalizer.discounted_return, [3 + 0.5 * (2 + 0.5 * 1)])
    assert np.isfinite(normalizer.moments.std())


@pytest.mark.parametrize("value", [3.0, -1e-3, 0.0])
def test_a_single_value_is_not_standardized(value):
    values = jnp.array([value, jnp.nan, 7.0])
    np.testing.assert_array_equal(standardize(values, jnp.array([True, False, False])), [np.float32(value), 0, 0])
    np.testing.assert_array_equal(standardize(values, jnp.zeros(3, bool)), [0, 0, 0])
