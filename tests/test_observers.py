"""Observers: they are told of complete things, in order, and cannot disturb the run."""

import json
import sys
import types

import jax
import numpy as np
import pytest
from test_environments import counter

import gaejax
from gaejax.training import Experiment, Observer, TensorBoard, load_checkpoint, read_metrics, run_experiment
from gaejax.training.driver import initial_states
from gaejax.training.observers import Observers

CONFIG = gaejax.PPOConfig(num_envs=2, num_steps=4, num_epochs=1, num_minibatches=1)
EXPERIMENT = Experiment(
    environment=counter(), config=CONFIG, total_steps=24, num_seeds=2, eval_episodes=2, policy={"hidden_sizes": (2,)}
)


class Recorder:
    """Not a subclass, and without `on_progress`: every method is optional."""

    def __init__(self):
        self.told = []

    def on_start(self, start):
        assert (start.output / "config.json").is_file() and start.experiment is EXPERIMENT
        self.output = start.output
        self.told.append(("start", start.updates, start.total_updates, start.env_steps.tolist()))

    def on_row(self, row):
        assert read_metrics(self.output / "metrics.csv")[-1]["update"] == row.update  # it is on disk
        with pytest.raises(ValueError, match="read-only"):
            row.values["entropy"][0] = 0
        with pytest.raises(TypeError):
            row.values["mine"] = 0
        self.told.append(("row", row.update, row.env_steps.tolist(), row.values["episodes"].tolist()))

    def on_checkpoint(self, checkpoint):
        like = jax.eval_shape(lambda: initial_states(EXPERIMENT, EXPERIMENT.build()))
        assert load_checkpoint(checkpoint.folder, like).updates.tolist() == [checkpoint.update] * 2
        self.told.append(("checkpoint", checkpoint.update))

    def on_end(self, summary):
        assert dict(summary) == json.loads((self.output / "summary.json").read_text())
        assert (self.output / "curve.png").is_file()
        self.told.append(("end", summary["updates"]))


class Fails(Observer):
    def on_row(self, row):
        raise RuntimeError("no\nconnection")

    def on_end(self, summary):
        raise RuntimeError("again")


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run with a recorder, and with observers that fail before and after it."""
    recorder, output = Recorder(), tmp_path_factory.mktemp("runs") / "watched"
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr(sys, "stderr", types.SimpleNamespace(write=lines.append, flush=lambda: None))
        summary = run_experiment(EXPERIMENT, output, observers=[Fails(), recorder, Fails()])
    return recorder, output, summary, "".join(lines)


def test_observers_are_told_of_the_start_each_row_the_checkpoints_and_the_end(watched):
    recorder, _, summary, _ = watched
    # Episodes of 3 steps and a final observation: 3 of 4 transitions are environment steps, one episode a rollout.
    rows = [("row", update, [6 * update] * 2, [2, 2]) for update in (1, 2, 3)]
    assert recorder.told[0] == ("start", 0, 3, [0, 0]) and recorder.told[-2:] == [("checkpoint", 3), ("end", 3)]
    assert [told for told in recorder.told if told[0] == "row"] == rows
    # The first is written in the background, and told of when it is whole.
    assert [told[1] for told in recorder.told if told[0] == "checkpoint"] == [1, 3]
    assert summary["finished"] and summary["total_env_steps"] == 36


def test_what_an_observer_raises_is_reported_once_in_one_line_and_the_run_goes_on(watched):
    *_, errors = watched
    line = "warning: observer Fails failed in on_row, the run goes on: RuntimeError: no connection\n"
    assert errors.count(line) == 2 and "again" not in errors


def test_an_environment_of_your_own_is_trained_and_resumed_with_the_experiment(watched):
    _, output, summary, _ = watched
    assert json.loads((output / "config.json").read_text())["environment"]["name"] == "counter"
    assert summary["environment"] == "counter" and summary["episode_return"]["mean"] == 3
    with pytest.raises(ValueError, match="an Environment value called 'counter', which its folder does not hold: give"):
        gaejax.training.load_states(output)
    loaded, _, states = gaejax.training.load_states(output, experiment=EXPERIMENT)
    assert loaded.environment is EXPERIMENT.environment and states.updates.tolist() == [3, 3]
    longer = Experiment(**{**vars(EXPERIMENT), "total_steps": 40})
    recorder = types.SimpleNamespace(on_start=lambda start: starts.append((start.updates, start.env_steps.tolist())))
    starts = []
    assert run_experiment(longer, output, resume=True, observers=[recorder])["env_steps_per_seed"] == [30, 30]
    assert starts == [(3, [18, 18])]
    assert [row["env_steps"] for row in read_metrics(output / "metrics.csv")] == [6, 6, 12, 12, 18, 18, 24, 24, 30, 30]


def test_an_exception_that_ends_the_run_is_told_as_the_end(tmp_path, monkeypatch):
    ends = []
    monkeypatch.setattr("gaejax.training.driver._train", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        observer = types.SimpleNamespace(on_end=ends.append)
        run_experiment(EXPERIMENT, tmp_path / "run", observers=[observer])
    assert ends == [None]


@pytest.mark.parametrize("observers", [[print], [Recorder], Recorder(), [None]])
def test_what_is_no_observer_is_refused_before_the_run(observers, tmp_path):
    with pytest.raises(ValueError, match="observers must be"):
        run_experiment(EXPERIMENT, tmp_path / "run", observers=observers)
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_every_value_of_every_seed(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            self.folder = folder
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((self.folder, name, value, step))

        flush = close = lambda self: None

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    watching = Observers([], [TensorBoard(tmp_path)])
    start = gaejax.training.Start(EXPERIMENT, tmp_path, 3, 1, np.array([6, 8]))
    watching.tell("on_start", start)
    watching.tell("on_row", gaejax.training.Row(2, np.array([12, 16]), {"entropy": np.array([0.5, 0.25])}))
    watching.tell("on_end", {})
    folders = [str(tmp_path / f"seed_{seed}") for seed in (0, 1)]
    assert written[:2] == [(folders[0], 7), (folders[1], 9)]  # what lies after the checkpoint is hidden
    assert written[2:] == [(folders[0], "entropy", 0.5, 12), (folders[1], "entropy", 0.25, 16)]


def test_without_tensorboardx_the_remedy_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="TensorBoard needs the package tensorboardX: uv run --extra tensorboard"):
        TensorBoard()
