"""Distributions and histograms of values: against sums, integrals and each other; they survive vmap and scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaejax.distributions import (
    Categorical,
    CategoricalValue,
    DiagonalGaussian,
    EpsilonGreedy,
    LazyCategorical,
    MultiCategorical,
    TanhGaussian,
    ValueBins,
    expected_values,
    histogram,
    mask_logits,
)
from gaejax.losses import value_loss

KEY = jax.random.key(0)
SHAPE = (3, 2)


def normal(*shape, seed=0, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


FAMILY = {
    "categorical": Categorical(normal(*SHAPE, 4)),
    "gaussian": DiagonalGaussian(normal(*SHAPE, 2), normal(*SHAPE, 2, seed=1, scale=0.3)),
    "tanh-gaussian": TanhGaussian(normal(*SHAPE, 2), normal(*SHAPE, 2, seed=1, scale=0.3)),
    "multi-categorical": MultiCategorical(normal(*SHAPE, 5), (2, 3)),
    "epsilon-greedy": EpsilonGreedy(normal(*SHAPE, 4), jnp.full(SHAPE, 0.3)),
    "lazy": LazyCategorical(normal(*SHAPE, 4), normal(5, 4, seed=1), normal(5, seed=2), chunk=4),
}


@pytest.mark.parametrize("name", FAMILY)
def test_log_probs_and_entropy_are_those_of_the_samples(name):
    """Over many samples: E[-log p] is the entropy, and no action's log-probability has another shape."""
    distribution = FAMILY[name]
    samples = jax.vmap(distribution.sample)(jax.random.split(KEY, 20_000))
    log_probs = jax.vmap(distribution.log_prob)(samples)
    assert log_probs.shape == (20_000, *SHAPE) and distribution.mode().shape == samples.shape[1:]
    error = 5 * log_probs.std(axis=0) / np.sqrt(20_000)
    assert np.all(np.abs(-log_probs.mean(axis=0) - distribution.entropy()) < error)


@pytest.mark.parametrize("name", FAMILY)
def test_the_divergence_is_the_mean_log_ratio_of_samples(name):
    distribution = FAMILY[name]
    other = jax.tree.map(lambda x: 0.7 * x, distribution)
    samples = jax.vmap(distribution.sample)(jax.random.split(KEY, 20_000))
    log_ratios = jax.vmap(lambda x: distribution.log_prob(x) - other.log_prob(x))(samples)
    divergence = distribution.kl_divergence(other)
    assert divergence.shape == SHAPE and np.all(divergence > 0)
    error = 5 * log_ratios.std(axis=0) / np.sqrt(20_000)
    assert np.all(np.abs(log_ratios.mean(axis=0) - divergence) < error)
    np.testing.assert_allclose(distribution.kl_divergence(distribution), 0, atol=1e-6)


@pytest.mark.parametrize("name", FAMILY)
def test_survives_vmap_and_scan(name):
    distribution = FAMILY[name]
    actions = distribution.sample(KEY)
    make = lambda scale: jax.tree.map(lambda x: x * scale, distribution)  # noqa: E731
    scales = jnp.array([1.0, 0.5, 2.0])
    stacked = jax.vmap(make)(scales)
    _, scanned = jax.lax.scan(lambda carry, scale: (carry, make(scale)), 0, scales)
    repeated = jnp.broadcast_to(actions, (3, *actions.shape))
    one_by_one = jnp.stack([make(scale).log_prob(actions) for scale in scales])
    for several in (stacked, scanned):
        np.testing.assert_allclose(several.log_prob(repeated), one_by_one, rtol=1e-5)
        assert several.sample(KEY).shape == repeated.shape and several.entropy().shape == (3, *SHAPE)
        np.testing.assert_allclose(several.kl_divergence(several), 0, atol=1e-6)


def test_tanh_gaussian_integrates_to_one_and_is_exact_near_the_edges():
    """Against float64: at the last floats before 1, too, where a difference 1 - a^2 would have no digits left."""
    distribution = TanhGaussian(jnp.array([0.7]), jnp.array([0.2]))
    numbers = np.linspace(-12, 12, 200_001)
    inside = np.abs(np.tanh(numbers).astype(np.float32)) < 1
    actions = np.tanh(numbers[inside]).astype(np.float32).astype(np.float64)
    density = np.exp(np.asarray(distribution.log_prob(jnp.asarray(actions, jnp.float32)[:, None]), np.float64))
    np.testing.assert_allclose(np.trapezoid(density, actions), 1, atol=1e-3)

    back = np.arctanh(actions)
    standardized = (back - np.float64(np.float32(0.7))) / np.exp(np.float64(np.float32(0.2)))
    normal_log_prob = -0.5 * standardized**2 - np.float64(np.float32(0.2)) - 0.5 * np.log(2 * np.pi)
    expected = normal_log_prob - np.log1p(actions) - np.log1p(-actions)
    got = distribution.log_prob(jnp.asarray(actions, jnp.float32)[:, None])
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_tanh_gaussian_saturates_without_infinities():
    distribution = TanhGaussian(jnp.full((4, 1), 30.0), jnp.zeros((4, 1)))
    actions = distribution.sample(KEY)
    assert np.all(actions < 1) and np.all(np.isfinite(distribution.log_prob(actions)))
    gradient = jax.grad(lambda mean: distribution._replace(mean=mean).log_prob(actions).sum())(distribution.mean)
    assert np.all(np.isfinite(gradient)) and np.isfinite(distribution.entropy()).all()


def test_tanh_gaussian_entropy_by_quadrature():
    numbers = np.linspace(-9, 9, 100_001)
    for mean, log_std in ((0.0, 0.0), (1.5, -1.0), (-0.5, 0.7)):
        weights = np.exp(-0.5 * numbers**2) / np.sqrt(2 * np.pi)
        stretch = np.log(1 - np.tanh(mean + np.exp(log_std) * numbers) ** 2 + 1e-300)
        expected = log_std + 0.5 * np.log(2 * np.pi * np.e) + np.trapezoid(weights * stretch, numbers)
        got = TanhGaussian(jnp.array([mean]), jnp.array([log_std])).entropy()
        np.testing.assert_allclose(got, expected, atol=2e-3)


def test_lazy_is_the_categorical_of_its_logits_and_so_are_its_gradients():
    lazy = FAMILY["lazy"]
    actions = lazy.sample(KEY)

    def plain(hidden, kernel, bias):
        return Categorical(hidden @ kernel.T + bias)

    def total(make, *arrays):
        distribution = make(*arrays)
        return jnp.sum(distribution.log_prob(actions) + 0.3 * distribution.entropy())

    arrays = (lazy.hidden, lazy.kernel, lazy.bias)
    np.testing.assert_array_equal(lazy.mode(), plain(*arrays).mode())
    results = [
        jax.value_and_grad(total, argnums=(1, 2, 3))(make, *arrays)
        for make in (plain, lambda *arrays: LazyCategorical(*arrays, chunk=4))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


def test_of_many_actions_samples_have_their_frequencies_and_what_is_excluded_never_comes():
    """As many as a vocabulary has are drawn otherwise than few: a block, then one of it."""
    size, draws = 5000, 200_000
    logits = jnp.zeros(size).at[::7].set(-1e9).at[1].set(6.0).at[size - 1].set(5.0)
    many = Categorical(jnp.broadcast_to(logits, (draws // 1000, size)))
    samples = jax.jit(lambda keys: jax.lax.map(many.sample, keys))(jax.random.split(jax.random.key(0), 1000))
    found, expected = np.bincount(samples.reshape(-1), minlength=size), draws * np.asarray(jax.nn.softmax(logits))
    possible = expected > 0
    assert not found[~possible].any()
    # Chi-square: its mean is the number of classes, its standard deviation the root of twice that.
    classes = possible.sum()
    surprise = np.sum((found - expected)[possible] ** 2 / expected[possible])
    assert abs(surprise - classes) < 4 * np.sqrt(2 * classes)


def test_lazy_never_holds_all_logits():
    """4096 positions of 8192 actions are 134 MB of logits; a chunk of 64 positions is 2 MB, forwards and backwards."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 64, 16), (8192, 16), (8192,))]
    actions = jax.ShapeDtypeStruct((64, 64), jnp.int32)

    def loss(hidden, kernel, bias, actions):
        return LazyCategorical(hidden, kernel, bias, 64).log_prob(actions).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes, actions).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 20e6


def test_masked_actions_are_never_taken_and_get_no_gradient():
    mask = jnp.array([[True, False, True, False], [False, True, False, False], [False] * 4])
    logits = normal(3, 4, scale=3.0)

    def masked(logits):
        return Categorical(mask_logits(logits, mask))

    samples = jax.vmap(masked(logits).sample)(jax.random.split(KEY, 5000))
    assert set(np.unique(samples[:, 0])) == {0, 2} and set(np.unique(samples[:, 1])) == {1}
    assert masked(logits).mode()[1] == 1

    def total(logits):
        distribution = masked(logits)
        return jnp.sum(distribution.log_prob(jnp.array([2, 1, 3]))[:2]) + jnp.sum(distribution.entropy()[:2])

    gradient = jax.grad(total)(logits)
    assert np.all(np.isfinite(gradient)) and np.all(gradient[:2][~mask[:2]] == 0) and np.any(gradient[0] != 0)
    alone = Categorical(logits[0, jnp.array([0, 2])])
    np.testing.assert_allclose(masked(logits).entropy()[0], alone.entropy(), rtol=1e-6)
    np.testing.assert_allclose(masked(logits).log_prob(jnp.array([2, 1, 0]))[0], alone.log_prob(1), rtol=1e-6)
    np.testing.assert_allclose(masked(logits).entropy()[1], 0, atol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 0.75])
def test_a_histogram_stands_for_its_number(spread):
    bins = ValueBins(-2.0, 3.0, 41, spread)
    values = jnp.linspace(-1.5, 2.5, 301)
    probabilities = histogram(values, bins)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)
    assert np.all(probabilities >= 0)
    np.testing.assert_allclose(probabilities @ np.linspace(-2, 3, 41), values, atol=1e-3)
    nearest = (probabilities > 1e-6).sum(axis=-1)
    assert np.all(nearest <= 2) if spread == 0 else np.all(nearest >= 4)
    np.testing.assert_allclose(histogram(jnp.array([9.0]), bins), histogram(jnp.array([3.0]), bins))


def test_a_histogram_learns_by_cross_entropy():
    """Its loss is least where its mean is the target, and its gradient is the difference of probabilities."""
    bins, targets = ValueBins(-1.0, 1.0, 21), jnp.array([0.3, -0.6])
    logits = jnp.log(histogram(targets, bins) + 1e-20)
    best = CategoricalValue(logits, bins)
    np.testing.assert_allclose(expected_values(best), targets, atol=1e-3)
    np.testing.assert_allclose(jax.grad(lambda x: CategoricalValue(x, bins).loss(targets).sum())(logits), 0, atol=1e-6)
    assert np.all(CategoricalValue(normal(2, 21), bins).loss(targets) > best.loss(targets))
    with pytest.raises(ValueError, match="must be None where the critic predicts a histogram"):
        value_loss(best, targets, targets, 0.2)


def test_huber_loss_is_linear_beyond_its_delta():
    errors = jnp.array([0.5, -3.0])
    np.testing.assert_allclose(value_loss(errors, jnp.zeros(2), huber_delta=1.0), [0.125, 2.5])
    clipped = value_loss(errors, jnp.zeros(2), jnp.array([0.0, -3.0]), jnp.float32(0.2), jnp.float32(1.0))
    np.testing.assert_allclose(clipped, [0.125, 2.5])
