"""Numbers that are not finite are counted where they arise, named, and move no parameter."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import load_script
from test_environments import counter
from test_ppo import assert_same_bits

import gaejax
from gaejax.policies import make_policy
from gaejax.statistics import count_nonfinite
from gaejax.training import Experiment, load_states, read_metrics, run_experiment
from gaejax.training.scripts import run_script
from gaejax.training.watch import Watch

KINDS = ("observations", "rewards", "losses", "gradients", "parameters")


def broken(what, value, at=5, limit=9):
    """An environment that is right but for one number in the middle of each episode."""
    sound = counter(limit=limit)

    def step(key, state, action, params):
        state, observation, reward, terminated, truncated, info = sound.step(key, state, action, params)
        now = state == at
        if what == "rewards":
            reward = jnp.where(now, value, reward)
        else:
            observation = jnp.where(now, value, jnp.asarray(observation, jnp.float32))
        return state, observation, reward, terminated, truncated, info

    return dataclasses.replace(sound, step=step)


def trained(algorithm, config, updates=2):
    state = algorithm.init(jax.random.key(0), config)
    return state, jax.jit(lambda state: jax.lax.scan(lambda s, _: algorithm.step(s), state, length=updates))(state)


@pytest.mark.parametrize("name", gaejax.algorithms.ALGORITHMS)
@pytest.mark.parametrize("what, value", [("rewards", np.nan), ("observations", np.inf)])
def test_each_algorithm_counts_what_its_environment_breaks_and_keeps_its_parameters(name, what, value):
    spec, environment = gaejax.algorithms.ALGORITHMS[name], broken(what, value)
    policy = make_policy(environment, hidden_sizes=(4,), action_values=spec.action_values, shared=name == "ppg")
    sizes = {"num_minibatches": 1, "num_epochs": 1} if hasattr(spec.config(), "num_minibatches") else {}
    config = spec.config(num_envs=2, num_steps=10, anneal_steps=1e4, **sizes)
    state, (after, info) = trained(spec.make(environment, policy), config)
    np.testing.assert_array_equal(info.nonfinite[what], [2, 2])
    for kind in KINDS[:2]:
        assert kind == what or not info.nonfinite[kind].any()
    assert name == "trpo" or (info.nonfinite["losses"] + info.nonfinite["gradients"]).all()
    assert not info.nonfinite["parameters"].any()
    assert count_nonfinite(after.params) == 0
    assert_same_bits(state.params, after.params)  # the only minibatch of every pass has such a number


def test_a_rollout_without_any_is_counted_as_such_and_loss_of_a_seed_is_its_own():
    environment = counter(limit=9)
    algorithm = gaejax.ppo(environment, make_policy(environment, hidden_sizes=(4,)))
    config = gaejax.PPOConfig(num_envs=2, num_steps=10, num_minibatches=1, num_epochs=2, max_grad_norm=1e30)
    keys = jax.random.split(jax.random.key(0), 2)
    rates = jnp.array([2.5e-4, 1e30])

    def run(key, rate):
        state = algorithm.init(key, config.replace(learning_rate=rate))
        return jax.lax.scan(lambda s, _: algorithm.step(s), state, length=3)

    _, infos = jax.jit(jax.vmap(run))(keys, rates)
    counts = np.array([infos.nonfinite[kind] for kind in KINDS])  # [kinds, seeds, updates]
    assert not counts[:, 0].any()
    assert counts[KINDS.index("losses"), 1].any()
    assert not np.isnan(infos.value_loss[0]).any()
    _, alone = jax.jit(jax.vmap(run))(keys[:1], rates[:1])
    np.testing.assert_allclose(infos.value_loss[0], alone.value_loss[0], rtol=1e-5)


def test_what_is_masked_is_not_counted():
    observations = {"x": jnp.array([[1.0, jnp.nan], [jnp.inf, 2.0]]), "mask": jnp.ones((2, 2), bool)}
    assert count_nonfinite(observations) == 2
    assert count_nonfinite(observations, jnp.array([[True, False], [True, True]])) == 1
    assert count_nonfinite({"x": jnp.full((2, 2, 3), jnp.nan)}, jnp.array([[True, False], [False, False]])) == 3
    assert count_nonfinite(()) == 0


def test_the_watch_names_the_first_update_the_seed_and_the_cause():
    watch = Watch(num_seeds=3)
    nothing = {kind: np.zeros((2, 3), int) for kind in KINDS}
    watch.add(nothing, 0)
    assert watch.first is None
    assert watch.as_fields() is None
    watch.add(nothing | {"losses": np.array([[0, 0, 1], [0, 1, 1]]), "rewards": np.array([[0, 0, 2], [0, 0, 0]])}, 2)
    assert watch.first == (3, 2, "rewards")
    watch.add(nothing | {"losses": np.array([[1, 0, 0], [0, 0, 0]])}, 4)
    assert watch.first == (3, 2, "rewards")
    assert watch.as_fields()["updates_per_seed"] == {"rewards": [0, 0, 1], "losses": [1, 1, 2]}
    assert "rewards of seed 2 are not finite since update 3 (3 of 3 seeds by now)" in watch.message()


CONFIG = gaejax.PPOConfig(num_envs=2, num_steps=10, num_minibatches=1, num_epochs=1)


def rarely_broken():
    """An environment of which one reward in a thousand is not a number: sooner or later, and differently by seed."""
    sound = counter(limit=9)

    def step(key, state, action, params):
        state, observation, reward, *rest = sound.step(key, state, action, params)
        return state, observation, jnp.where(jax.random.uniform(key) < 0.001, jnp.nan, reward), *rest

    return dataclasses.replace(sound, step=step)


RARELY = Experiment(environment=rarely_broken(), config=CONFIG, total_steps=20 * 60, num_seeds=3, eval_episodes=2)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    output = tmp_path_factory.mktemp("watch") / "stopped"
    return output, run_experiment(RARELY, output, checkpoint_every=0)


def test_a_run_stops_where_a_number_is_not_finite_and_keeps_what_was_before(stopped):
    output, summary = stopped
    first = summary["nonfinite"]["first"]
    assert first["kind"] == "rewards"
    assert not summary["finished"]
    assert "episode_return" not in summary
    assert json.loads((output / "summary.json").read_text()) == summary
    _, _, states = load_states(output, experiment=RARELY)
    assert np.asarray(states.updates).max() < first["update"] <= summary["updates"]
    assert count_nonfinite(states) == 0
    assert (output / "curve.png").is_file()


def test_a_stopped_run_goes_on_if_it_is_told_to(stopped, capsys):
    output, before = stopped
    summary = run_experiment(RARELY, output, resume=True, on_nonfinite="skip")
    assert summary["finished"]
    assert summary["updates"] == 60
    assert "warning: the run in" in capsys.readouterr().err
    assert summary["nonfinite"]["first"] == before["nonfinite"]["first"]
    rows = read_metrics(output / "metrics.csv")
    assert any(np.isnan(row["value_loss"]) for row in rows)  # a number that is none is shown as such
    assert count_nonfinite(load_states(output, experiment=RARELY)[2].params) == 0


def test_what_is_ignored_is_not_spoken_of(tmp_path, capsys):
    summary = run_experiment(RARELY, tmp_path / "run", on_nonfinite="ignore")
    assert summary["finished"]
    assert summary["nonfinite"]
    assert "not finite" not in capsys.readouterr().err


def test_a_script_ends_with_one_line_and_status_1(tmp_path, capsys):
    train = load_script("train")
    with pytest.raises(SystemExit) as end:
        flags = ["--learning-rate", "1e30", "--num-envs", "2", "--num-steps", "10", "--num-minibatches", "1"]
        run_script(train.main, [*flags, "--total-steps", "2000", "--num-seeds", "1", "--output", str(tmp_path / "run")])
    assert end.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "has stopped:" in said
    assert "of seed 0 are not finite since update" in said
    assert "lower learning_rate" in said


def test_what_to_do_is_one_of_three(tmp_path):
    with pytest.raises(ValueError, match="on_nonfinite must be stop, skip or ignore, got 'continue'"):
        run_experiment(RARELY, tmp_path / "run", on_nonfinite="continue")


@pytest.mark.parametrize("name", gaejax.algorithms.ALGORITHMS)
@pytest.mark.parametrize(
    ("what", "value"),
    [("rewards", np.nan), ("rewards", -np.inf), ("observations", np.nan), ("observations", np.inf)],
)
def test_whatever_is_injected_is_noticed_and_named(name, what, value, tmp_path):
    spec = gaejax.algorithms.ALGORITHMS[name]
    sizes = {"num_minibatches": 1, "num_epochs": 1} if hasattr(spec.config(), "num_minibatches") else {}
    config = spec.config(num_envs=2, num_steps=10, anneal_steps=1e4, **sizes)
    policy = {"hidden_sizes": (4,), "shared": name == "ppg"}
    experiment = Experiment(
        environment=broken(what, value), config=config, total_steps=200, num_seeds=2, algorithm=name, policy=policy
    )
    summary = run_experiment(experiment, tmp_path / "run")
    assert not summary["finished"]
    assert summary["nonfinite"]["first"] == {"update": 1, "seed": 0, "kind": what}
