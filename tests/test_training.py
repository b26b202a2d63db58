"""Training on the host: the pure loop, evaluation, the folder of a run, interruption, resumption and bad input."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import ROOT, load_script
from test_environments import counter
from test_ppo import assert_same_bits
from test_rollout import remembering_policy

import gaejax
from gaejax.training import (
    PRESETS,
    Experiment,
    Observer,
    load_states,
    num_updates,
    preset,
    read_metrics,
    run_experiment,
)

CONFIG = gaejax.PPOConfig(num_envs=4, num_steps=32, num_epochs=2, learning_rate=1e-3, anneal_steps=1280.0)
EXPERIMENT = Experiment(environment="CartPole-v1", config=CONFIG, total_steps=1280, num_seeds=2, eval_episodes=8)
SCRIPTS = ["train", "evaluate", "credit_horizon"] + [
    f"benchmarks/{name}"
    for name in (
        "algorithms",
        "gae_cart_pole",
        "kernel_speed",
        "kills",
        "learning",
        "policy_speed",
        "stale_memory",
        "training_speed",
    )
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run to its end, shared by the tests of this file."""
    output = tmp_path_factory.mktemp("runs") / "finished"
    return output, run_experiment(EXPERIMENT, output)


def test_evaluation_plays_the_first_episode_of_each_environment_to_its_end():
    algorithm = gaejax.ppo(counter(limit=7), remembering_policy())
    state = algorithm.init(jax.random.key(0), gaejax.PPOConfig(num_envs=2, num_steps=8, num_minibatches=1))
    evaluation = jax.jit(lambda state, key: gaejax.evaluate(algorithm, state, key, 5))(state, jax.random.key(1))
    np.testing.assert_array_equal(evaluation.returns, np.full(5, 7))
    np.testing.assert_array_equal(evaluation.lengths, np.full(5, 7))
    assert evaluation.finished.all()
    longer = gaejax.evaluate(algorithm, state, jax.random.key(1), 3, environment=counter(limit=20), max_steps=15)
    np.testing.assert_array_equal(longer.lengths, np.full(3, 15))
    assert not longer.finished.any()


def test_evaluation_returns_the_environments_metrics_of_the_last_step():
    def reset(key, params):
        return jnp.zeros((), jnp.int32), jnp.zeros(1)

    def step(key, state, action, params):
        state = state + 1
        metrics = {"steps": state, "solved": state >= 3}
        return state, jnp.zeros(1), jnp.float32(1), state >= 3, jnp.bool_(False), {"metrics": metrics}

    environment = gaejax.Environment("three", reset, step, gaejax.Box(0, 1, (1,)), gaejax.Discrete(2))
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment, (2,)))
    state = algorithm.init(jax.random.key(0), gaejax.PPOConfig(num_envs=2, num_steps=8))
    metrics = gaejax.evaluate(algorithm, state, jax.random.key(1), 4).metrics
    np.testing.assert_array_equal(metrics["steps"], np.full(4, 3.0))
    np.testing.assert_array_equal(metrics["solved"], np.ones(4))
    cut = gaejax.evaluate(algorithm, state, jax.random.key(1), 4, max_steps=2)
    np.testing.assert_array_equal(cut.metrics["steps"], np.full(4, 2.0))
    assert not cut.finished.any()


def test_greedy_evaluation_takes_the_mode():
    def reset(key, params):
        return jnp.zeros((), jnp.int32), jnp.zeros(1)

    def step(key, state, action, params):
        return state, jnp.zeros(1), action.astype(jnp.float32), jnp.bool_(True), jnp.bool_(False), {}

    box = gaejax.Box(0, 1, (1,))
    environment = gaejax.Environment("pays the action", reset, step, box, gaejax.Discrete(2))
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment))
    state = algorithm.init(jax.random.key(0), gaejax.PPOConfig())
    sampled = gaejax.evaluate(algorithm, state, jax.random.key(0), 64).returns
    greedy = gaejax.evaluate(algorithm, state, jax.random.key(0), 64, greedy=True).returns
    assert 10 < sampled.sum() < 54 and len(np.unique(greedy)) == 1


def test_the_files_of_a_run(finished):
    output, summary = finished
    assert {file.name for file in output.iterdir()} >= {
        "config.json",
        "metrics.csv",
        "summary.json",
        "curve.png",
        "checkpoint",
    }
    assert json.loads((output / "summary.json").read_text()) == summary
    assert {
        "episode_return",
        "total_env_steps",
        "steps_per_second",
        "compile_seconds",
        "wall_seconds",
        "versions",
    } <= set(summary)
    returns = summary["episode_return"]
    assert len(returns["per_seed"]) == 2
    np.testing.assert_allclose(
        [returns["mean"], returns["std"]], [np.mean(returns["per_seed"]), np.std(returns["per_seed"])]
    )
    assert Experiment.load(output / "config.json") == EXPERIMENT
    assert (output / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_have_a_row_for_each_logged_update_and_seed(finished):
    output, summary = finished
    rows = read_metrics(output / "metrics.csv")
    updates = num_updates(CONFIG, 1280)
    assert [(row["seed"], row["update"]) for row in rows] == [(s, u) for u in range(1, updates + 1) for s in (0, 1)]
    assert {"env_steps", "episode_return", "approx_kl", "explained_variance", "learning_rate"} <= set(rows[0])
    assert summary["total_env_steps"] == sum(row["env_steps"] for row in rows[-2:])
    assert 0.9 * 2 * 1280 < summary["total_env_steps"] < 2 * 1280  # rows that show a final observation do not count


def test_the_driver_takes_the_steps_that_train_takes(finished):
    output, _ = finished
    _, algorithm, states = load_states(output)
    keys = jax.random.split(jax.random.key(0), 2)
    expected, history = jax.jit(jax.vmap(lambda key: gaejax.train(algorithm, key, CONFIG, 1280)))(keys)
    for a, b in zip(jax.tree.leaves(states.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    logged = [row["entropy"] for row in read_metrics(output / "metrics.csv") if row["seed"] == 1]
    np.testing.assert_allclose(logged, history.entropy[1], atol=1e-4)


class Interrupts(Observer):
    """Presses Ctrl-C after the fourth call."""

    calls = 0

    def on_progress(self, progress):
        self.calls += 1
        if self.calls == 4:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_that_is_interrupted_and_resumed_is_the_uninterrupted_one_bit_for_bit(finished, tmp_path):
    """Ctrl-C after the fourth call leaves all files; what a crash wrote after the checkpoint is dropped."""
    output, _ = finished
    interrupted = tmp_path / "interrupted"
    summary = run_experiment(EXPERIMENT, interrupted, observers=[Interrupts()])
    done = summary["updates"]
    assert not summary["finished"] and 0 < done < num_updates(CONFIG, 1280)
    assert {file.name for file in interrupted.iterdir()} >= {"summary.json", "curve.png", "checkpoint", "metrics.csv"}
    with (interrupted / "metrics.csv").open("a") as file:
        *_, last = (interrupted / "metrics.csv").read_text().splitlines()
        seed, _, *rest = last.split(",")
        file.write(",".join([seed, str(done + 1), *rest]) + "\n")

    summary = run_experiment(EXPERIMENT, interrupted, resume=True)
    assert summary["finished"]
    assert_same_bits(load_states(output)[2], load_states(interrupted)[2])
    assert (output / "metrics.csv").read_text() == (interrupted / "metrics.csv").read_text()


def test_a_finished_run_that_is_resumed_says_so_and_is_left_as_it_is(finished, capsys, monkeypatch):
    output, summary = finished
    monkeypatch.setattr(jax, "jit", None)  # nothing is compiled
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert run_experiment(EXPERIMENT, output, resume=True) == summary
    assert capsys.readouterr().out == f"nothing to do: the run in {output} has taken its 1,280 steps\n"
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("*")}


def test_a_run_is_resumed_only_with_its_own_configuration(finished):
    output, _ = finished
    before = (output / "config.json").read_text()
    for changes, words in (
        (dict(num_seeds=3), "has another configuration: only its total_steps can be changed"),
        (dict(config=CONFIG.replace(learning_rate=0.5)), "has another configuration"),
        (dict(total_steps=128), "total_steps must not be less than what the run"),
    ):
        with pytest.raises(ValueError, match=words):
            run_experiment(dataclasses.replace(EXPERIMENT, **changes), output, resume=True)
    assert (output / "config.json").read_text() == before


def test_another_runs_folder_is_refused_and_left_alone(finished):
    output, _ = finished
    before = (output / "config.json").read_text()
    with pytest.raises(ValueError, match=r"output folder .* holds another run: choose another one, or --resume"):
        run_experiment(EXPERIMENT, output)
    assert (output / "config.json").read_text() == before


def test_evaluate_script_loads_the_checkpoint_and_plays_it(finished, capsys):
    output, summary = finished
    load_script("evaluate").main([str(output), "--episodes", "8"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["episode_return"] == pytest.approx(
        summary["episode_return"]["mean"]
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--env", "Cartpole-v1"], "unknown environment 'Cartpole-v1': did you mean CartPole-v1"),
        (["--learning-rate", "-1"], "learning_rate must be finite and not negative, got -1.0"),
        (["--num-minibatches", "7"], "num_minibatches must divide num_envs * num_steps"),
        (["--gae-lambda", "1.5"], "gae_lambda must be between 0 and 1"),
        (["--num-seeds", "0"], "num_seeds must be at least 1, got 0"),
        (["--total-steps", "0"], "total_steps must be at least 1, got 0"),
        (["--env-arguments", "max_step=3"], "CartPole-v1 has no argument 'max_step'"),
        (["--resume", "nowhere"], "nowhere holds no run"),
        (["--output", "gs://bucket/run"], "output must be a folder of this machine, got"),
        (["--resume-if-there", "--checkpoint-every", "-1"], "checkpoint_every must be a number of seconds, got -1.0"),
        (["--resume", "run", "--gamma", "1"], "only --total-steps can be given, not --gamma"),
        (["--env-arguments", "max_steps_in_episode"], "env_arguments must be of the form NAME=VALUE"),
        (["--memory", "gru", "--num-envs", "3", "--num-minibatches", "2"], "num_minibatches must divide"),
        (["--lr", "1"], "there is no flag --lr with --algorithm ppo: did you mean --learning-rate?"),
        (["--gamma=1"], "there is no flag --gamma with --algorithm ppo: did you mean --discount?"),
        (["--lambda", "1"], "did you mean --gae-lambda?"),
        (["--num_sed", "1"], "did you mean --num-seeds"),
        (["--frobnicate"], "there is no flag --frobnicate with --algorithm ppo: --help lists the flags"),
        (["--schedules", "lr=linear"], "schedules: PPOConfig has no field 'lr': did you mean learning_rate?"),
        (["--algorithm", "pppo"], "algorithm must be one of reinforce, a2c, ppo, trpo, pqn"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_compiled_or_written(arguments, words, tmp_path):
    output, given = tmp_path / "run", {"--resume", "--output"} & set(arguments)
    with pytest.raises(ValueError) as caught:
        load_script("train").main(arguments if given else [*arguments, "--output", str(output)])
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not output.exists()


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(config=None), "config must be a PPOConfig, since algorithm is 'ppo', got None"),
        (dict(config={}), "config must be a PPOConfig, since algorithm is 'ppo', got a dict"),
        (dict(config=gaejax.A2CConfig()), "config must be a PPOConfig, since algorithm is 'ppo', got a A2CConfig"),
        (dict(algorithm="ppoo"), "algorithm must be one of"),
        (dict(environment=None), "environment must be a gaejax.Environment, got None"),
        (dict(environment=counter(), environment_arguments={"x": 1}), "environment_arguments need the name"),
        (dict(num_seeds=2.5), "num_seeds must be a whole number, got 2.5"),
        (dict(seed="a"), "seed must be a whole number, got 'a'"),
    ],
)
def test_an_experiment_that_cannot_be_run_is_refused_before_anything_is_written(changes, words, tmp_path):
    with pytest.raises(ValueError) as caught:
        run_experiment(dataclasses.replace(EXPERIMENT, **changes), tmp_path / "run")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_one_seeds_state_is_wanted_where_many_were_trained(finished):
    _, algorithm, states = load_states(finished[0])
    for use in (
        lambda: gaejax.export(algorithm, states),
        lambda: gaejax.evaluate(algorithm, states, jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match="state is of 2 seeds: vmap over it"):
            use()
    with pytest.raises(ValueError, match="key must be a key, such as"):
        gaejax.evaluate(algorithm, jax.tree.map(lambda leaf: leaf[0], states), 0)


def test_the_flags_of_an_environment_of_your_own(capsys):
    train = load_script("train")
    assert train.default_output("ppo", "examples/My env.py:make").name.startswith("My-env.py-make-2")
    assert train.main(["--list-envs"]) == {}
    assert "CartPole-v1" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_a_help_that_starts_nothing(script, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        load_script(script).main(["--help"])
    printed = capsys.readouterr().out
    assert (
        caught.value.code in (0, None) and "usage:" in printed and "  uv run " in printed
    )  # examples keep their lines
    assert list(tmp_path.iterdir()) == []


def test_every_config_field_is_a_flat_flag_and_defaults_follow_the_environment():
    parse = load_script("train").parse
    arguments = parse(["--env", "Pendulum-v1", "--num-envs", "8", "--gae-lambda", "0.9", "--no-normalize-rewards"])
    expected = PRESETS["ppo", "Pendulum-v1"].config.replace(num_envs=8, gae_lambda=0.9, normalize_rewards=False)
    assert expected.anneal_steps == 300_000
    assert arguments.config == expected and arguments.total_steps == 300_000
    assert parse(["--total-steps", "5000"]).config.anneal_steps == 5000
    assert parse(["--total-steps", "5000", "--anneal-steps", "150000"]).config.anneal_steps == 150_000
    assert parse(["--no-anneal"]).config.anneal_steps is None
    chain = parse(["--env=DiscountingChain-bsuite"])
    assert load_script("train").environment_arguments(chain) == {"mapping_seed": 3, "time_limit": "terminate"}


def test_a_ctrl_c_from_outside_leaves_every_file(tmp_path):
    output = tmp_path / "run"
    command = [sys.executable, ROOT / "experiments" / "train.py", "--total-steps", "100000000", "--num-seeds", "1"]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}
    process = subprocess.Popen([*command, "--output", output], env=environment, stdout=subprocess.PIPE, text=True)
    metrics = output / "metrics.csv"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "return" in printed
    summary = json.loads((output / "summary.json").read_text())
    assert not summary["finished"] and summary["total_env_steps"] > 0
    assert (output / "curve.png").exists() and any((output / "checkpoint").iterdir())


def test_presets_are_valid_and_every_environment_has_a_sensible_one():
    for name in gaejax.environment_names():
        experiment = preset(gaejax.make(name))
        experiment.validate()
        assert experiment.environment == name
    assert preset(gaejax.make("Reacher-misc")).config.normalize_observations
