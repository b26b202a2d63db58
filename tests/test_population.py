"""Populations: who copies whom, what a copy keeps, and what is refused."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import constant_reward

import gaejax
from gaejax.algorithms.config import OnPolicyConfig
from gaejax.training import Lineage, ancestors, exploit, initial_population, mean_return, plot_lineage, train_population

BOUNDS = {"discount": (0.5, 0.999), "anneal_steps": (1.0, 100.0)}
CONFIG = gaejax.PPOConfig(num_envs=2, num_steps=4, num_epochs=1, num_minibatches=1)
LEARNING = {"learning_rate": (1e-4, 1e-2), "gae_lambda": (0.5, 1.0)}


class States(NamedTuple):
    """A training state as far as `exploit` sees it."""

    params: jax.Array
    key: jax.Array
    config: OnPolicyConfig


def states_of(num_agents):
    numbers = jnp.arange(num_agents, dtype=jnp.float32)
    config = OnPolicyConfig(discount=jnp.full(num_agents, 0.9), anneal_steps=10.0 + numbers, gae_lambda=numbers / 100)
    return States(100 + numbers, jax.random.split(jax.random.key(0), num_agents), config)


@pytest.fixture(scope="module")
def trained():
    """A small population, before and after three generations."""
    environment = constant_reward()
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment, (4,)))
    start = initial_population(algorithm, jax.random.key(1), CONFIG, LEARNING, 6)
    train = lambda states, **exploitation: train_population(
        algorithm, jax.random.key(2), states, LEARNING, generations=3, updates=2, **exploitation
    )
    worth = lambda infos: jnp.arange(6.0)  # the last ones are the best
    pbt = jax.jit(lambda states: train(states, fitness=worth))(start)
    alone = jax.jit(lambda states: train(states, fitness=worth, fraction=0.0))(start)
    return algorithm, start, pbt, alone


def test_the_worst_quarter_copies_the_best_quarter_and_the_others_go_on():
    fitness = jnp.array([5.0, 1, 7, 3, 8, 2, 6, 4])
    states, lineage = exploit(jax.random.key(0), states_of(8), fitness, BOUNDS)
    source = np.asarray(lineage.source)
    assert {1, 5} == set(np.flatnonzero(source != np.arange(8)))
    assert {source[1], source[5]} == {2, 4}
    np.testing.assert_array_equal(states.params, 100 + source)
    np.testing.assert_array_equal(lineage.fitness, fitness)


def test_a_copy_keeps_its_own_key_so_that_no_two_agents_are_twins():
    before = states_of(8)
    states, _ = exploit(jax.random.key(0), before, jnp.arange(8.0), BOUNDS, fraction=0.5)
    np.testing.assert_array_equal(jax.random.key_data(states.key), jax.random.key_data(before.key))


def test_a_copy_has_the_winners_hyperparameters_perturbed_and_nobody_elses_change():
    fitness = jnp.arange(8.0)
    states, lineage = exploit(jax.random.key(0), states_of(8), fitness, BOUNDS, factor=1.5)
    source = np.asarray(lineage.source)
    config = states.config
    for agent in (0, 1):
        steps = 10.0 + source[agent]
        assert any(float(config.anneal_steps[agent]) == pytest.approx(moved) for moved in (steps * 1.5, steps / 1.5))
        distance = 1 - float(config.discount[agent])  # of a field that is at most 1
        assert any(distance == pytest.approx(moved, rel=1e-4) for moved in (0.1 * 1.5, 0.1 / 1.5))
        assert float(config.gae_lambda[agent]) == pytest.approx(source[agent] / 100)  # copied, not perturbed
    np.testing.assert_array_equal(config.anneal_steps[2:], 12.0 + np.arange(6))
    np.testing.assert_array_equal(lineage.hyperparameters["anneal_steps"], 10.0 + np.arange(8))  # as they were


def test_what_is_perturbed_stays_within_its_bounds():
    bounds = {"discount": (0.89, 0.91), "anneal_steps": (12.0, 13.0)}
    for seed in range(5):
        states, lineage = exploit(jax.random.key(seed), states_of(8), jnp.arange(8.0), bounds, factor=3.0)
        copied = np.asarray(lineage.source) != np.arange(8)
        assert np.all(np.isin(states.config.anneal_steps[copied], [12, 13]))
        np.testing.assert_allclose(np.abs(states.config.discount[copied] - 0.9), 0.01, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_fitness_that_is_not_finite_never_wins(bad):
    fitness = jnp.array([bad, bad, bad, bad, bad, bad, 1.0, 0.5])
    for seed in range(5):
        _, lineage = exploit(jax.random.key(seed), states_of(8), fitness, BOUNDS, fraction=0.5)
        source = np.asarray(lineage.source)
        copied = source != np.arange(8)
        assert set(source[copied]) <= {6, 7} and copied[:6].any() and not copied[6:].any()
    _, lineage = exploit(jax.random.key(0), states_of(8), jnp.full(8, bad), BOUNDS)
    np.testing.assert_array_equal(lineage.source, np.arange(8))


def test_equal_agents_do_not_copy_each_other():
    _, lineage = exploit(jax.random.key(0), states_of(8), jnp.full(8, 500.0), BOUNDS)
    np.testing.assert_array_equal(lineage.source, np.arange(8))


def test_with_factor_1_half_of_the_population_goes_on_in_place_of_the_other():
    states, lineage = exploit(jax.random.key(0), states_of(8), jnp.arange(8.0), BOUNDS, fraction=0.5, factor=1.0)
    np.testing.assert_array_equal(np.sort(lineage.source), np.repeat(np.arange(4, 8), 2))
    np.testing.assert_allclose(states.config.anneal_steps, 10.0 + np.asarray(lineage.source), rtol=1e-6)
    np.testing.assert_allclose(states.config.discount, 0.9, rtol=1e-6)


def test_fitness_is_the_mean_over_episodes_of_the_later_half():
    info = gaejax.algorithms.TrainingInfo(
        env_steps=jnp.ones((4, 3)),
        episodes=jnp.array([[9, 9, 9], [9, 9, 9], [1, 0, 2], [3, 0, 0]]),
        episode_return=jnp.array([[0.0, 0, 0], [0, 0, 0], [8, jnp.nan, 5], [4, jnp.nan, jnp.nan]]),
        episode_length=jnp.ones((4, 3)),
        explained_variance=jnp.ones((4, 3)),
    )
    np.testing.assert_array_equal(mean_return(info), [5, np.nan, 5])


def test_the_first_population_is_drawn_within_its_bounds_and_is_not_one_agent(trained):
    _, start, _, _ = trained
    for name, (low, high) in LEARNING.items():
        values = np.asarray(getattr(start.config, name))
        assert values.shape == (6,) and len(set(values.tolist())) == 6
        assert np.all((values >= np.float32(low)) & (values <= np.float32(high)))
    assert len({tuple(key) for key in jax.random.key_data(start.key).tolist()}) == 6


def test_a_population_trains_and_exploits_after_every_generation_but_the_last(trained):
    _, _, (states, lineage), _ = trained
    assert lineage.source.shape == lineage.fitness.shape == lineage.hyperparameters["gae_lambda"].shape == (3, 6)
    np.testing.assert_array_equal(states.updates, np.full(6, 6))
    np.testing.assert_array_equal(lineage.source[:2], [[5, 1, 2, 3, 4, 5]] * 2)
    np.testing.assert_array_equal(lineage.source[2], np.arange(6))
    np.testing.assert_array_equal(states.config.gae_lambda, lineage.hyperparameters["gae_lambda"][2])
    assert len({tuple(key) for key in jax.random.key_data(states.key).tolist()}) == 6


def test_agents_that_nobody_replaced_train_as_they_do_alone(trained):
    _, _, (states, _), (alone, lineage) = trained
    np.testing.assert_array_equal(lineage.source, [np.arange(6)] * 3)
    own = lambda states: jax.tree.map(lambda leaf: np.asarray(leaf)[1:], states.params)
    for there, here in zip(jax.tree.leaves(own(states)), jax.tree.leaves(own(alone)), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-6)


def test_ancestors_by_hand():
    source = np.array([[0, 0, 2, 3], [0, 1, 2, 1], [3, 1, 2, 3]])
    np.testing.assert_array_equal(ancestors(source), [[0, 0, 2, 3], [0, 0, 2, 0], [0, 0, 2, 0]])


def test_a_lineage_can_be_drawn(tmp_path):
    source = np.array([[0, 0, 2, 3], [0, 1, 2, 1], [0, 1, 2, 3]])
    values = np.geomspace(1e-4, 1e-1, 12).reshape(3, 4)
    lineage = Lineage(jnp.array(source), jnp.zeros((3, 4)), {"learning_rate": values, "gae_lambda": values})
    plot_lineage(lineage, tmp_path / "lineage.png", "four agents")
    assert (tmp_path / "lineage.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, r"^bounds must name at least one"),
        (
            {"learning_rte": (0.1, 0.2)},
            r"^bounds: PPOConfig has no field 'learning_rte': did you mean 'learning_rate'\?$",
        ),
        ({"lr": (0.1, 0.2)}, r"no field 'lr': did you mean 'learning_rate'\?$"),
        ({"num_envs": (1, 2)}, r"^bounds: num_envs is static"),
        ({"target_kl": (0.1, 0.2)}, r"^bounds: target_kl is None in the config"),
        ({"discount": (0.9, 0.9)}, r"^bounds: discount must have low < high, got \(0.9, 0.9\)$"),
        ({"discount": (0.9, 1.1)}, r"^bounds: discount must be at least 0 and at most 1, got \(0.9, 1.1\)$"),
        ({"learning_rate": (-1.0, 1.0)}, r"^bounds: learning_rate must be at least 0, got"),
        ({"learning_rate": (0.0, float("nan"))}, r"two finite numbers"),
        ({"learning_rate": 0.1}, r"two finite numbers"),
        ({"learning_rate": (0.1,)}, r"two finite numbers"),
    ],
)
def test_bounds_that_cannot_be_used_are_refused_in_one_line(trained, bounds, message):
    with pytest.raises(ValueError, match=message) as caught:
        initial_population(trained[0], jax.random.key(0), CONFIG, bounds, 4)
    assert "\n" not in str(caught.value)


def test_numbers_that_cannot_be_used_are_refused_in_one_line(trained):
    algorithm, start, _, _ = trained
    for arguments, message in (
        ({"fraction": 0.6}, "^fraction must be between 0 and 0.5, got 0.6"),
        ({"factor": 0.8}, "^factor must be a finite number of at least 1, got 0.8"),
    ):
        with pytest.raises(ValueError, match=message):
            exploit(jax.random.key(0), start, jnp.zeros(6), LEARNING, **arguments)
    with pytest.raises(ValueError, match=r"^generations must be a whole number of at least 1, got 0"):
        train_population(algorithm, jax.random.key(0), start, LEARNING, generations=0, updates=1)
    with pytest.raises(ValueError, match=r"^num_agents must be a whole number of at least 2, got 1"):
        initial_population(algorithm, jax.random.key(0), CONFIG, LEARNING, 1)
    with pytest.raises(ValueError, match=r"^fitness must be of shape \(6,\)"):
        exploit(jax.random.key(0), start, jnp.zeros(()), LEARNING)
