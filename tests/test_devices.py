"""Seeds and environments over devices: what is refused, what is split, and that it changes nothing but rounding."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows_over_devices import KINDS, differences, simulated
from scripts import ROOT

import gaejax
from gaejax import rows
from gaejax.statistics import RunningMoments, masked_mean, standardize
from gaejax.training import Experiment, run_experiment
from gaejax.training.devices import is_one_of_several, join_processes, make_layout
from gaejax.training.driver import lay_out

CONFIG = gaejax.PPOConfig(num_envs=8, num_steps=4, num_minibatches=2)
DEVICES = [jax.devices()[0]] * 8  # enough to choose from


def layout(num_seeds, config=CONFIG, **options):
    return make_layout(lambda config: {"x": jnp.zeros((num_seeds, config.num_envs))}, config, num_seeds, **options)


@pytest.mark.parametrize(
    "num_seeds, options, sizes",
    [
        (8, {}, (8, 1)),
        (5, {}, (5, 1)),
        (7, {"devices": 1}, (1, 1)),
        (2, {"row_devices": 4}, (2, 4)),
        (6, {"row_devices": 2}, (3, 2)),
        (8, {"devices": 4, "row_devices": 2}, (2, 2)),
    ],
)
def test_as_many_devices_as_the_seeds_can_be_split_over_evenly(num_seeds, options, sizes):
    chosen = layout(num_seeds, available=DEVICES, **options)
    assert tuple(chosen.sizes().values()) == sizes
    assert (chosen.mesh is None) == (sizes == (1, 1))  # on one device nothing is mapped


@pytest.mark.parametrize(
    "num_seeds, options, words",
    [
        (5, {"devices": 2}, "num_seeds must be a multiple of devices = 2, got 5"),
        (4, {"devices": 9}, "devices must be at least 1 and at most the 8 there are, got 9"),
        (4, {"devices": 0}, "devices must be at least 1"),
        (4, {"row_devices": 0}, "row_devices must be at least 1, got 0"),
        (4, {"row_devices": 3}, "num_envs must be a multiple of row_devices = 3, got 8"),
        (4, {"devices": 6, "row_devices": 4}, "row_devices must divide devices = 6, got 4"),
        (3, {"devices": 8, "row_devices": 4}, "num_seeds must be a multiple of devices / row_devices = 2, got 3"),
    ],
)
def test_what_cannot_be_split_evenly_is_refused_in_one_line(num_seeds, options, words):
    with pytest.raises(ValueError, match=words) as refusal:
        layout(num_seeds, available=DEVICES, **options)
    assert "\n" not in str(refusal.value)


def test_a_run_that_cannot_be_split_writes_nothing(tmp_path):
    experiment = Experiment(environment="CartPole-v1", config=CONFIG, total_steps=64, num_seeds=3)
    with pytest.raises(ValueError, match="devices must be at least 1 and at most the 1 there are, got 2"):
        run_experiment(experiment, tmp_path / "run", devices=2)
    assert not (tmp_path / "run").exists()


def test_the_axis_of_the_environments_is_found_in_every_leaf():
    config = CONFIG.replace(normalize_rewards=True)
    experiment = Experiment(environment="CartPole-v1", config=config, total_steps=64, num_seeds=2)
    chosen, shapes = lay_out(experiment, experiment.build(), row_devices=4, available=DEVICES)
    specs = chosen.states
    assert specs.params["actor"]["params"]["Dense_0"]["kernel"] == jax.P("seeds", None, None)
    assert specs.rollout.observation == jax.P("seeds", "rows", None)
    assert specs.reward_normalizer.discounted_return == jax.P("seeds", "rows")
    assert specs.reward_normalizer.moments.mean == jax.P("seeds")
    assert shapes.key.shape == (2,)


def test_sums_over_parts_are_those_of_the_whole_and_without_parts_nothing_is_summed():
    values = jnp.array(np.random.default_rng(0).normal(3, 2, (6, 8)), jnp.float32)
    mask = jnp.array(np.random.default_rng(1).random((6, 8)) < 0.6)
    parts = lambda x: x.reshape(6, 4, 2).swapaxes(0, 1)  # noqa: E731
    whole = (masked_mean(values, mask), standardize(values, mask), RunningMoments.empty(()).update(values, mask))

    def of_part(values, mask):
        assert rows.num_devices() == 4
        moments = RunningMoments.empty(()).update(values, mask)
        return masked_mean(values, mask), standardize(values, mask), moments

    mean, standardized, moments = jax.vmap(of_part, axis_name=rows.ROWS)(parts(values), parts(mask))
    np.testing.assert_allclose(mean, np.full(4, whole[0]), rtol=1e-6)
    np.testing.assert_allclose(standardized.swapaxes(0, 1).reshape(6, 8), whole[1], atol=1e-6)
    for ours, theirs in zip(moments, whole[2], strict=True):
        np.testing.assert_allclose(ours, np.full(4, theirs), rtol=1e-6)
    assert rows.num_devices() == 1
    assert rows.summed(3.0) == 3.0


def test_a_constant_has_no_variance_on_any_number_of_devices():
    values, mask = jnp.full((4, 3, 2), 16777.215), jnp.ones((4, 3, 2), bool).at[0].set(False)
    moments = jax.vmap(lambda *part: RunningMoments.empty(()).update(*part), axis_name=rows.ROWS)(values, mask)
    np.testing.assert_array_equal(moments.variance, 0)
    np.testing.assert_allclose(moments.mean, 16777.215)


def test_the_gradient_by_shared_parameters_is_that_of_the_whole():
    data = jnp.arange(8.0).reshape(4, 2)
    loss = lambda w, x: masked_mean(jnp.square(rows.shared(w) * x), jnp.ones_like(x, bool))  # noqa: E731
    gradients = jax.vmap(jax.grad(loss), (None, 0), axis_name=rows.ROWS)(2.0, data)
    np.testing.assert_allclose(gradients, np.full(4, jax.grad(loss)(2.0, data.reshape(-1))), rtol=1e-6)
    along = lambda x: jax.jvp(lambda w: jax.grad(loss)(w, x), (2.0,), (1.0,))[1]  # noqa: E731
    twice = jax.vmap(along, axis_name=rows.ROWS)(data)
    np.testing.assert_allclose(twice, np.full(4, 2 * np.mean(data**2)), rtol=1e-6)


def test_devices_draw_different_random_numbers():
    keys = jax.vmap(lambda _: jax.random.key_data(rows.own_key(jax.random.key(0))), axis_name=rows.ROWS)(jnp.zeros(4))
    assert len({tuple(key) for key in np.asarray(keys).tolist()}) == 4
    assert (jax.random.key_data(rows.own_key(jax.random.key(0))) == jax.random.key_data(jax.random.key(0))).all()


@pytest.mark.parametrize("case", ["ppo, both normalizers", "trpo", "ppg", "reinforce, time"])
def test_parts_of_the_environments_train_as_the_whole_does(case):
    worst = differences(case, 4, 1, simulated)
    for kind, most in KINDS.items():
        assert max(gap for where, gap in worst.items() if where.startswith(kind)) <= most


def over_eight_devices(*arguments):
    command = [sys.executable, "tests/rows_over_devices.py", *arguments]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_eight_devices_train_as_one_does():
    over_eight_devices("ppo", "--steps", "2", "--collectives")


def test_eight_devices_train_as_one_does_with_every_algorithm():
    over_eight_devices("--steps", "20")


@pytest.mark.parametrize(
    "variables, several",
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_launchers_say_whether_there_are_several_processes(monkeypatch, variables, several):
    for name in ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_one_of_several() == several


def test_a_process_that_cannot_find_the_others_says_what_to_set(monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="JAX_COORDINATOR_ADDRESS"):
        join_processes()
