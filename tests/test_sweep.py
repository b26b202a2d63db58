"""Sweeps: every agent is one that would train alone, the file is whole at any time, and what is wrong is said early."""

import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from probes import constant_reward
from scripts import ROOT, load_script

import gaejax
from gaejax.training import plan_sweep, plot_heat_map, plot_sweep

ENVIRONMENT = constant_reward()
ALGORITHM = gaejax.ppo(ENVIRONMENT, gaejax.mlp_policy(ENVIRONMENT, (4,)))
CONFIG = gaejax.PPOConfig(num_envs=2, num_steps=8, num_epochs=1, num_minibatches=1, learning_rate=0.01)
AXES = {"gae_lambda": [0.0, 0.5, 1.0], "discount": [0.5, 0.9]}
SETTINGS = {"config": CONFIG, "total_steps": 64, "seeds": 2, "eval_episodes": 3, "progress": False}
SWEEP = sys.modules["gaejax.training.sweep"]  # the package has a function of that name


@pytest.fixture(scope="module")
def swept():
    """A sweep in three chunks."""
    return gaejax.sweep(ALGORITHM, AXES, chunk=4, **SETTINGS)


def assert_same(one, other):
    assert one.axes == other.axes and one.values.keys() == other.values.keys()
    np.testing.assert_array_equal(one.finished, other.finished)
    for name, values in one.values.items():
        np.testing.assert_array_equal(values, other.values[name], err_msg=name)


def test_results_are_labelled_by_axes_seeds_and_rows(swept):
    assert swept.axes == {"gae_lambda": (0.0, 0.5, 1.0), "discount": (0.5, 0.9)}
    assert swept.values["evaluated_return"].shape == swept.finished.shape == (3, 2, 2)
    assert swept.values["episode_return"].shape == (3, 2, 2, 4)  # 64 transitions are 4 updates
    assert swept.finished.all()
    np.testing.assert_array_equal(swept.values["evaluated_return"], np.full((3, 2, 2), 5.0))
    last = swept.values["env_steps"][..., -1]
    assert np.all((last > 40) & (last <= 64)) and np.all(np.diff(swept.values["env_steps"], axis=-1) > 0)


def test_an_agent_of_a_sweep_is_one_that_trains_alone(swept):
    config = CONFIG.replace(gae_lambda=0.5, discount=0.9)
    key = jax.random.split(jax.random.key(0), 2)[1]
    _, infos = jax.jit(lambda key: gaejax.train(ALGORITHM, key, config, 64))(key)
    for name in ("value_loss", "entropy", "explained_variance", "learning_rate"):
        np.testing.assert_allclose(swept.values[name][1, 1, 1], getattr(infos, name), rtol=1e-3, atol=1e-5)


def test_points_differ_and_have_the_same_seeds(swept):
    losses = swept.values["value_loss"]
    assert len(np.unique(losses[..., 0])) == 12
    # Before the first update nothing depends on lambda: one seed acts alike at every point.
    np.testing.assert_allclose(swept.values["episode_return"][..., 0].std(axis=(0, 1)), 0, atol=1e-6)
    np.testing.assert_array_equal(np.ptp(swept.values["env_steps"][..., 0], axis=(0, 1)), [0, 0])


def test_chunks_do_not_matter_but_for_rounding(swept):
    whole = gaejax.sweep(ALGORITHM, AXES, **SETTINGS)
    for name, values in whole.values.items():
        np.testing.assert_allclose(values, swept.values[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_static_fields_and_none_have_programs_of_their_own(monkeypatch):
    compiled = []
    original = SWEEP._compiled
    monkeypatch.setattr(SWEEP, "_compiled", lambda *arguments: compiled.append(1) or original(*arguments))
    axes = {"num_envs": [2, 4], "huber_delta": [None, 0.1, 0.2]}
    found = gaejax.sweep(ALGORITHM, axes, **{**SETTINGS, "seeds": 1})
    assert len(compiled) == 4
    assert found.finished.shape == (2, 3, 1) and found.finished.all()
    assert found.values["episode_return"].shape == (2, 3, 1, 2)  # as many rows as the shortest training has updates
    losses = found.values["value_loss"][..., -1]
    assert len(np.unique(losses)) == 6 and np.isfinite(losses).all()
    updates = found.values["env_steps"][:, 0, 0, -1]
    assert np.all(updates <= 64)


def test_a_file_is_read_back_as_it_was(swept, tmp_path):
    swept.save(tmp_path / "new" / "sweep.npz")
    assert_same(gaejax.Sweep.load(tmp_path / "new" / "sweep.npz"), swept)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sweep.npz"]


def test_a_sweep_that_was_interrupted_goes_on_bit_for_bit(swept, tmp_path, monkeypatch):
    path, run, ran = tmp_path / "sweep.npz", SWEEP._run, []

    def interrupted(*arguments):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(arguments[3])
        return run(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SWEEP, "_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gaejax.sweep(ALGORITHM, AXES, chunk=4, output=path, **SETTINGS)
    half = gaejax.Sweep.load(path)
    assert half.finished.sum() == 8 and np.isnan(half.values["evaluated_return"][-1]).all()
    assert len(half.points()) == 4
    ran.clear()
    monkeypatch.setattr(SWEEP, "_run", lambda *arguments: ran.append(arguments[3]) or run(*arguments))
    whole = gaejax.sweep(ALGORITHM, AXES, output=path, **SETTINGS)  # the file knows its chunks
    assert [list(agents) for agents in ran] == [[8, 9, 10, 11]]
    assert_same(whole, swept)
    assert_same(gaejax.Sweep.load(path), swept)
    gaejax.sweep(ALGORITHM, AXES, output=path, **SETTINGS)
    assert len(ran) == 1  # nothing was left to do


def test_a_kill_while_a_file_is_written_leaves_the_old_one(swept, tmp_path, monkeypatch):
    path = tmp_path / "sweep.npz"
    swept.save(path)
    monkeypatch.setattr(np, "savez_compressed", lambda file, **arrays: (file.write(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        swept.save(path)
    assert_same(gaejax.Sweep.load(path), swept)


def test_a_file_of_another_sweep_is_refused_and_left_as_it_is(swept, tmp_path):
    path = tmp_path / "sweep.npz"
    gaejax.sweep(ALGORITHM, AXES, chunk=4, output=path, **SETTINGS)
    before = path.read_bytes()
    other = gaejax.a2c(ENVIRONMENT, gaejax.mlp_policy(ENVIRONMENT, (4,)))
    wider = gaejax.ppo(ENVIRONMENT, gaejax.mlp_policy(ENVIRONMENT, (5,)))
    changed = {**SETTINGS, "config": CONFIG.replace(learning_rate=0.02)}
    for algorithm, axes, settings, message in (
        (ALGORITHM, AXES, {**SETTINGS, "total_steps": 128}, "holds another sweep: .* total_steps, 64$"),
        (ALGORITHM, AXES, {**SETTINGS, "seeds": 3}, "its seeds, 2$"),
        (ALGORITHM, AXES, changed, "its config"),
        (ALGORITHM, {"discount": [0.5, 0.9]}, SETTINGS, "its axes"),
        (other, AXES, {**SETTINGS, "config": gaejax.A2CConfig(num_envs=2, num_steps=8)}, "its algorithm, 'PPO'$"),
        (wider, AXES, SETTINGS, "another algorithm, policy or environment"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            gaejax.sweep(algorithm, axes, output=path, **settings)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    (tmp_path / "text.npz").write_text("hello")
    for path, message in (("none.npz", "^there is no sweep at"), ("text.npz", "is no sweep, or damaged")):
        with pytest.raises(ValueError, match=message):
            gaejax.Sweep.load(tmp_path / path)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "^axes must name at least one hyperparameter"),
        ({"gae_lam": [1.0]}, r"^axes: PPOConfig has no field 'gae_lam': did you mean 'gae_lambda'\?$"),
        ({"gamma": [1.0]}, r"no field 'gamma': did you mean 'discount'\?$"),
        ({"discount": []}, r"^axes: discount must be a list of at least one value, got \[\]$"),
        ({"discount": 0.9}, r"^axes: discount must be a list of at least one value, got 0.9$"),
        ({"discount": [0.9, 1.5]}, r"^axes: discount must be between 0 and 1, got 1.5$"),
        ({"discount": [0.9, "much"]}, r"^axes: discount must be a number, got 'much'$"),
        ({"discount": [0.9, 0.9]}, r"^axes: discount must have different values"),
        ({"num_envs": [2, 2.5]}, r"^axes: num_envs must be a whole number, got 2.5$"),
        ({"discount": [None]}, r"^axes: discount must be a number, got None$"),
        ({"num_minibatches": [1, 3]}, r"^at num_minibatches=3: num_minibatches must divide num_envs \* num_steps = 16"),
    ],
)
def test_axes_that_cannot_be_swept_are_refused_before_anything_is_compiled(axes, message, monkeypatch, tmp_path):
    monkeypatch.setattr(SWEEP, "_compiled", lambda *arguments: pytest.fail("compiled"))
    with pytest.raises(ValueError, match=message) as caught:
        gaejax.sweep(ALGORITHM, axes, output=tmp_path / "sweep.npz", **SETTINGS)
    assert "\n" not in str(caught.value) and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "^seeds must be a whole number of at least 1, got 0$"),
        ({"total_steps": 0.5}, "^total_steps must be a whole number of at least 1, got 0.5$"),
        ({"eval_episodes": True}, "^eval_episodes must be"),
        ({"chunk": 0}, "^chunk must be"),
        ({"output": "sweep.csv"}, "^output must be a .npz file, got 'sweep.csv'$"),
        ({"config": None}, "^config must be an algorithm's config"),
        ({"config": CONFIG.replace(discount=2.0)}, "^discount must be between 0 and 1"),
    ],
)
def test_values_that_cannot_be_swept_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        gaejax.sweep(ALGORITHM, AXES, **{**SETTINGS, **changes})


def test_chunks_are_as_large_as_fits(monkeypatch):
    job = SWEEP._checked(ALGORITHM, AXES, CONFIG, 64, 2, 0, 3)
    program = lambda size: SWEEP.Program(None, 100 * size, 0.0)
    monkeypatch.setattr(SWEEP, "_compiled", lambda job, group, size: SWEEP._Programs(size, program(size), program(1)))
    fitting = lambda memory, size=None, agents=504: (
        (
            monkeypatch.setattr(SWEEP, "device_memory", lambda device: memory),
            SWEEP._fitting(job, job.groups[0], size, agents),
        )[1].size
    )
    devices = jax.device_count()
    assert fitting(None) == 63 * devices  # eight chunks of at most 64, none nearly empty
    assert fitting(10_000_000, agents=10) == 10 and fitting(10_000_000, size=200) == 200
    assert 100 * fitting(2000) <= 0.8 * 2000 and fitting(2000) >= 8
    with pytest.raises(ValueError, match=r"^chunk = 200 agents need 0.0 MB of 0.0 MB: choose a smaller one$"):
        fitting(2000, size=200)
    with pytest.raises(ValueError, match=r"^a single agent needs 0.0 MB of 0.0 MB: reduce num_envs or num_steps$"):
        fitting(20)


def test_a_plan_says_agents_memory_and_time_and_starts_nothing():
    settings = {name: value for name, value in SETTINGS.items() if name != "progress"}
    plan = plan_sweep(ALGORITHM, {"num_envs": [2, 4], "discount": [0.5, 0.9]}, **settings)
    assert plan.agents == 8
    assert [(group.static, group.agents, group.updates) for group in plan.groups] == [
        ({"num_envs": 2}, 4, 4),
        ({"num_envs": 4}, 4, 2),
    ]
    assert all(group.bytes_per_device > 1000 and group.seconds > 0 for group in plan.groups)
    assert "num_envs=2: 4 agents in 1 chunk of 4, 4 updates" in plan.report()
    assert "2 programs" in plan.report()


def test_pictures_are_drawn_of_one_and_of_two_hyperparameters_and_of_what_is_not_finished(swept, tmp_path):
    half = swept._replace(finished=np.arange(12).reshape(3, 2, 2) < 7)
    one = swept._replace(
        axes={"gae_lambda": swept.axes["gae_lambda"]},
        values={name: values[:, 0] for name, values in swept.values.items()},
        finished=swept.finished[:, 0],
    )
    for name, own, arguments in (
        ("two", swept, {}),
        ("half", half, {"metric": "value_loss"}),
        ("fixed", swept, {"axes": ["discount"]}),
        ("one", one, {}),
        ("turned", swept, {"axes": ["discount", "gae_lambda"]}),
    ):
        plot_sweep(own, tmp_path / f"{name}.png", **arguments)
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    plot_heat_map(np.full((2, 2), np.nan), {"a": [1, 2], "b": [1, 2]}, tmp_path / "empty.png", "nothing", "value")
    with pytest.raises(ValueError, match=r"^metric: the sweep has no 'value_los': did you mean 'value_loss'\?$"):
        plot_sweep(swept, tmp_path / "wrong.png", "value_los")
    with pytest.raises(ValueError, match=r"^axes must be one or two of gae_lambda, discount, got lambda$"):
        plot_sweep(swept, tmp_path / "wrong.png", axes=["lambda"])


def test_the_script_reads_its_command_line_and_answers_in_one_line():
    script = load_script("sweep")
    parsed = script.parse(["--sweep", "gae_lambda=0,0.5,None", "--sweep", "num-envs=8,16", "--num-seeds", "3"])
    assert script.grid(parsed.sweep) == {"gae_lambda": [0, 0.5, None], "num_envs": [8, 16]}
    for argv, message in (
        ([], "^--sweep must name a hyperparameter"),
        (["--sweep", "discount=1", "--num_sed", "3"], r"^there is no flag --num_sed: did you mean '--num-seeds'\?$"),
        (["--sweep", "discount"], "^--sweep must be NAME=VALUE, got 'discount'$"),
        (["--sweep", "discount=1", "--sweep", "discount=0.9"], "^--sweep names discount twice"),
        (
            ["--sweep", "discount=1", "--set", "lr=1"],
            r"^--set: PPOConfig has no field 'lr': did you mean 'learning_rate'",
        ),
        (["--sweep", "discount=1", "--algorithm", "pp"], r"^--algorithm: there is no 'pp': did you mean 'ppo'\?$"),
        (["--sweep", "gamma=1"], r"^axes: PPOConfig has no field 'gamma': did you mean 'discount'\?$"),
    ):
        with pytest.raises(ValueError, match=message):
            script.main([*argv, "--plan"])


@pytest.mark.slow
def test_the_script_is_interrupted_by_ctrl_c_and_goes_on(tmp_path):
    command = [sys.executable, ROOT / "experiments" / "sweep.py", "--sweep", "gae_lambda=0.5,0.9,1", "--num-seeds", "8"]
    command += ["--total-steps", "4000", "--set", "num_envs=8", "num_steps=32", "--chunk", "4", "--output", tmp_path]
    whole = [*command[:-1], tmp_path / "whole"]
    file = tmp_path / "sweep.npz"
    cached = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=cached)
    while not file.exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 1 and "of 24 agents are kept in" in said
    assert "Traceback" not in said and os.listdir(tmp_path) == ["sweep.npz"]
    subprocess.run(command, check=True, capture_output=True, env=cached)
    subprocess.run(whole, check=True, capture_output=True, env=cached)
    assert_same(gaejax.Sweep.load(file), gaejax.Sweep.load(tmp_path / "whole" / "sweep.npz"))
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.npz", "sweep.csv", "sweep.png", "whole"}


DEVICES = """
import sys, jax, numpy as np
sys.path.insert(0, "tests")
import test_sweep as t
import gaejax
found = gaejax.sweep(t.ALGORITHM, t.AXES, **t.SETTINGS)
assert jax.device_count() == 4, jax.device_count()
found.save(sys.argv[1])
"""


@pytest.mark.slow
def test_several_devices_share_a_chunk(swept, tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", DEVICES, str(tmp_path / "sweep.npz")]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | flags)
    found = gaejax.Sweep.load(tmp_path / "sweep.npz")
    for name, values in swept.values.items():
        np.testing.assert_allclose(values, found.values[name], rtol=1e-3, atol=1e-4, err_msg=name)
