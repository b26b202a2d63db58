"""Learning results: time limits in the fast suite, the presets' bars under `-m slow`."""

import jax
import numpy as np
import pytest
from scripts import load_script

import gaejax
from gaejax.training import PRESETS

learning = load_script("benchmarks/learning")
lag_and_phases = load_script("benchmarks/actor_lag_and_phases")


def short_pendulum(time_limit):
    """Returns over 200 steps of three seeds that were trained on 200 000 steps of episodes cut at 50."""
    environment = gaejax.make("Pendulum-v1", max_steps_in_episode=50, time_limit=time_limit)
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment))
    config = PRESETS["ppo", "Pendulum-v1"].config.replace(num_epochs=4, anneal_steps=200_000.0)
    played = gaejax.make("Pendulum-v1")

    def run(key):
        state, _ = gaejax.train(algorithm, key, config, 200_000)
        return gaejax.evaluate(algorithm, state, key, 64, environment=played)

    evaluation = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(11), 3))
    assert np.all(evaluation.lengths == 200)
    return np.asarray(evaluation.returns).mean(axis=1)


def test_trained_on_episodes_cut_at_50_steps_a_pendulum_stays_up_for_200():
    assert np.all(short_pendulum("truncate") >= -200)


def test_taking_the_cut_for_a_death_ruins_it():
    assert np.all(short_pendulum("terminate") <= -800)


def test_the_optimum_of_the_frozen_lake():
    """About .74 in 100 moves; no path of five moves; certain where the ice does not slip."""
    assert 0.70 < learning.frozen_lake_optimum() < 0.78
    assert learning.frozen_lake_optimum(horizon=5) == 0
    assert learning.frozen_lake_optimum(success_rate=1.0) == 1


@pytest.mark.slow
@pytest.mark.parametrize("run", learning.RUNS, ids=lambda run: f"{run.algorithm} {run.environment} {run.changes}")
def test_presets_reach_their_bars(run):
    assert run.least <= learning.learn(run)["episode_return"]["mean"] <= run.most


@pytest.mark.slow
def test_ppg_solves_the_cart_pole():
    returns, _ = lag_and_phases.measure("ppg", "CartPole-v1", range(2026, 2031), {})
    assert returns.mean() >= 475


@pytest.mark.slow
def test_lagged_actors_solve_the_cart_pole_with_v_trace_and_not_without():
    lag = {"actor_lag": 8}
    corrected, plain = (
        lag_and_phases.measure("impala", "CartPole-v1", range(2026, 2031), lag, estimator=name)[0].mean()
        for name in ("vtrace", "gae")
    )
    assert corrected >= 450
    assert plain <= corrected - 50
