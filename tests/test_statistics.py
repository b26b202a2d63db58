"""Distributions against SciPy, masked statistics and normalizers against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
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
