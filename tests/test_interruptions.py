"""Interruptions: signals, kills, full disks and second processes, after which a run goes on bit for bit."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from scripts import ROOT, load_script
from test_ppo import assert_same_bits

import gaejax
from gaejax.training import Experiment, Observer, load_checkpoint, load_states, read_metrics, run_experiment
from gaejax.training import driver as driver_module
from gaejax.training.checkpoints import load_notes, whole_checkpoints
from gaejax.training.driver import Saver, _Checkpoints
from gaejax.training.files import check_output, locked
from gaejax.training.interruptions import Interrupted, interruptible
from gaejax.training.metrics import Aggregate, Counters
from gaejax.training.observers import Observers
from gaejax.training.scripts import run_script

CONFIG = gaejax.PPOConfig(num_envs=4, num_steps=32, num_epochs=2, learning_rate=1e-3, anneal_steps=38400.0)
EXPERIMENT = Experiment(environment="CartPole-v1", config=CONFIG, total_steps=38400, num_seeds=2, eval_episodes=8)
UPDATES = 300  # three to a row


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run to its end, to compare with."""
    output = tmp_path_factory.mktemp("runs") / "finished"
    return output, run_experiment(EXPERIMENT, output)


def assert_same_run(output, finished):
    assert_same_bits(load_states(output)[2], load_states(finished[0])[2])
    assert (output / "metrics.csv").read_bytes() == (finished[0] / "metrics.csv").read_bytes()
    summary = json.loads((output / "summary.json").read_text())
    assert summary["finished"] and summary["interrupted_by"] is None
    assert summary["episode_return"] == finished[1]["episode_return"]


class Sends(Observer):
    """Sends this process a signal after some calls."""

    def __init__(self, signum, calls):
        self.signum, self.calls = signum, calls

    def on_progress(self, progress):
        self.calls -= 1
        if self.calls == 0:
            os.kill(os.getpid(), self.signum)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_a_run_that_goes_on_bit_for_bit_within_a_row(name, finished, tmp_path, capsys):
    signum = signal.Signals[name]
    handler = signal.getsignal(signum)
    summary = run_experiment(EXPERIMENT, tmp_path / "run", observers=[Sends(signum, 1)])
    assert signal.getsignal(signum) == handler
    assert summary["interrupted_by"] == name and not summary["finished"] and "episode_return" not in summary
    assert summary["updates"] == 1 and len(read_metrics(tmp_path / "run" / "metrics.csv")) == 2  # not a whole row
    line = f"interrupted by {name} after 1 of 300 updates: --resume {tmp_path / 'run'} continues the run\n"
    assert capsys.readouterr().err == line
    run_experiment(EXPERIMENT, tmp_path / "run", resume="if_there")
    assert_same_run(tmp_path / "run", finished)


@pytest.mark.parametrize("what", ["lowered", "_evaluation"])
def test_a_signal_while_compiling_or_evaluating_is_not_waited_for(what, finished, tmp_path, monkeypatch):
    """And it does not lose what was trained."""
    left = threading.Event()

    def take_long():
        os.kill(os.getpid(), signal.SIGTERM)
        left.wait(60)

    build = driver_module._build
    slow = types.SimpleNamespace(compile=take_long)
    with monkeypatch.context() as patch:
        if what == "lowered":
            patch.setattr(driver_module, "_build", lambda *arguments: build(*arguments)._replace(lowered=slow))
        else:
            patch.setattr(driver_module, "_evaluation", lambda *_: take_long)
        started = time.monotonic()
        summary = run_experiment(EXPERIMENT, tmp_path / "run")
    left.set()
    assert time.monotonic() - started < 30
    assert summary["interrupted_by"] == "SIGTERM" and not summary["finished"] and "episode_return" not in summary
    assert summary["updates"] == (0 if what == "lowered" else UPDATES)
    assert {"config.json", "metrics.csv", "summary.json", "curve.png", "checkpoint"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    run_experiment(EXPERIMENT, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished)


def test_waiting_ends_with_the_result_the_error_or_a_signal():
    with interruptible() as interruptions:
        assert interruptions.attend(lambda: 3) == 3
        with pytest.raises(ZeroDivisionError):
            interruptions.attend(lambda: 1 / 0)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            interruptions.attend(lambda: 3)
        assert interruptions.attend(lambda: 3, allowed=1) == 3  # it was answered: this is what follows from it
        with pytest.raises(Interrupted):
            interruptions.attend(lambda: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(1), allowed=1)
        assert interruptions.name == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_nohup_and_other_threads():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as interruptions:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interruptions.attend(lambda: 3) == 3 and interruptions.name is None
    finally:
        signal.signal(signal.SIGHUP, previous)

    def elsewhere():
        with interruptible() as interruptions:
            results.append(interruptions.attend(lambda: 3))

    results = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert results == [3]


def test_a_second_ctrl_c_kills_and_says_what_is_kept(finished, tmp_path, monkeypatch):
    def press(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    with monkeypatch.context() as patch:
        patch.setattr(driver_module, "_evaluation", press)
        with pytest.raises(KeyboardInterrupt, match=r"killed: .*run holds the run up to its last checkpoint, --resume"):
            run_experiment(EXPERIMENT, tmp_path / "run", observers=[Sends(signal.SIGINT, 2)])
        patch.setattr(driver_module, "initial_states", press)
        with pytest.raises(KeyboardInterrupt, match="interrupted before there was anything to keep"):
            run_experiment(EXPERIMENT, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("resume", [False, True, "if_there"])
def test_a_run_that_died_before_its_first_checkpoint_starts_again(resume, finished, tmp_path):
    output = tmp_path / "run"
    (output / "checkpoint" / "1" / "default.orbax-checkpoint-tmp").mkdir(parents=True)
    (output / "config.json").write_text(EXPERIMENT.as_text())
    (output / "metrics.csv").write_text("seed,update,env_steps\n0,3,4")
    (output / ".part.curve.png").write_text("half")
    other = dataclasses.replace(EXPERIMENT, num_seeds=3)
    with pytest.raises(ValueError, match=r"holds another run|has another configuration"):
        run_experiment(other, output, resume=resume)
    run_experiment(EXPERIMENT, output, resume=resume)
    assert_same_run(output, finished)


def test_if_there_starts_resumes_and_leaves_what_is_finished(finished, tmp_path, capsys):
    output, summary = finished
    assert run_experiment(EXPERIMENT, output, resume="if_there") == summary
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(ValueError, match="has another configuration"):
        run_experiment(dataclasses.replace(EXPERIMENT, seed=3), output, resume="if_there")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no run"):
        run_experiment(EXPERIMENT, tmp_path, resume="if_there")
    with pytest.raises(ValueError, match="resume_if_there needs the folder of the run: add --output RUN"):
        load_script("train").main(["--resume-if-there"])


def test_a_finished_run_whose_checkpoints_were_removed_is_not_started_over(tmp_path):
    (tmp_path / "config.json").write_text(EXPERIMENT.as_text())
    (tmp_path / "summary.json").write_text('{"finished": true, "updates": 100}')
    with pytest.raises(ValueError, match="holds another run"):
        run_experiment(EXPERIMENT, tmp_path)
    with pytest.raises(ValueError, match="there is no checkpoint"):
        run_experiment(EXPERIMENT, tmp_path, resume=True)


def test_a_second_process_is_refused(finished, tmp_path):
    output = finished[0]
    longer = dataclasses.replace(EXPERIMENT, total_steps=2 * EXPERIMENT.total_steps)
    before = (output / "config.json").read_text()
    with locked(output), pytest.raises(ValueError, match=r"another process is writing to .*finished: wait for it"):
        run_experiment(longer, output, resume=True)
    with locked(tmp_path / "new"), pytest.raises(ValueError, match="another process is writing to"):
        run_experiment(EXPERIMENT, tmp_path / "new")
    assert (output / "config.json").read_text() == before


def test_a_full_disk_is_told_in_one_line_and_the_run_goes_on(finished, tmp_path, monkeypatch, capsys):
    """The first checkpoint and some rows cannot be written; later there is room again."""
    tries = {"checkpoint": 1, "metrics.csv": 4}

    def failing(what, function, *arguments, **keywords):
        if tries.get(what, 0) > 0:
            tries[what] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*arguments, **keywords)

    save, opened = Saver.save, Path.open
    monkeypatch.setattr(Saver, "save", lambda self, *rest: failing("checkpoint", save, self, *rest))
    monkeypatch.setattr(Path, "open", lambda self, *rest, **named: failing(self.name, opened, self, *rest, **named))
    run_experiment(EXPERIMENT, tmp_path / "run", checkpoint_every=0)
    told = sorted(capsys.readouterr().err.splitlines())
    what = f"the checkpoint of update 1 could not be written to {tmp_path / 'run' / 'checkpoint'}"
    assert told[1:] == [f"warning: {what}, the run goes on: No space left on device"]
    assert "observer CsvWriter failed in on_start, the run goes on: OSError: [Errno 28] No space left" in told[0]
    assert_same_run(tmp_path / "run", finished)


def test_a_run_whose_last_states_cannot_be_saved_is_not_finished(finished, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", fail)
        assert not run_experiment(EXPERIMENT, tmp_path / "run")["finished"]
    *told, last = capsys.readouterr().err.splitlines()
    assert all(line.endswith("No space left on device") for line in told)
    assert last.startswith("not finished after 300 of 300 updates, the last of them not saved: --resume")
    run_experiment(EXPERIMENT, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished)


def test_a_damaged_checkpoint_and_a_cut_row_cost_only_time(finished, tmp_path, capsys):
    output = tmp_path / "lr[0.1] a\\b"
    run_experiment(EXPERIMENT, output, observers=[Sends(signal.SIGTERM, 3)], checkpoint_every=0)
    checkpoints = whole_checkpoints(output / "checkpoint")
    assert len(checkpoints) == 2
    with (output / "metrics.csv").open("a") as file:
        file.write("0,4")
    assert len(read_metrics(output / "metrics.csv")) % 2 == 0  # a cut line is not read
    data = max((path for path in checkpoints[-1].rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-1])
    capsys.readouterr()
    run_experiment(EXPERIMENT, output, resume=True)
    assert f"warning: the checkpoint {checkpoints[-1]} is damaged, it is not used" in capsys.readouterr().err
    assert_same_run(output, finished)


def test_the_best_checkpoint_is_that_of_the_highest_row(finished, tmp_path):
    """NaN, where no episode ended, is never best; what was best before a resumption stays so."""
    counters, aggregate = Counters(0, np.zeros(1, np.int64)), Aggregate(())
    for resumed_at, returns in ((None, (np.nan, 3.0, 5.0, np.nan, 4.0)), (5, (4.5, 6.0, 5.0)), (8, (1.0,))):
        checkpoints = _Checkpoints(tmp_path, Observers([]), 0, resumed_at)
        for row_return in returns:
            counters.updates, counters.row_return = counters.updates + 1, row_return
            checkpoints.look({"row": np.full(2, row_return)}, counters, aggregate)
            checkpoints.saver.thread.join()
        checkpoints.end({"row": np.full(2, row_return)}, counters, aggregate)
        (best,) = whole_checkpoints(tmp_path / "best")
        expected = 5.0 if resumed_at is None else 6.0
        assert load_notes(best)["row_return"] == expected
        np.testing.assert_array_equal(load_checkpoint(tmp_path / "best", {"row": np.zeros(2)})["row"], expected)
        assert int(whole_checkpoints(tmp_path / "checkpoint")[-1].name) == counters.updates


def test_the_best_checkpoint_is_loaded_and_evaluated(finished, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(finished[0], output)
    shutil.rmtree(output / "best", ignore_errors=True)
    with pytest.raises(ValueError, match=r"there is no checkpoint in .*best"):
        load_states(output, which="best")
    (output / "checkpoint").rename(output / "best")
    assert load_states(output, which="best")[2].updates.tolist() == [UPDATES] * 2
    load_script("evaluate").main([str(output), "--checkpoint", "best", "--episodes", "2"])
    with pytest.raises(ValueError, match="which must be latest or best, got 'worst'"):
        load_states(output, which="worst")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("bad", [-1, float("nan")])
def test_a_time_between_checkpoints_is_not_negative(bad, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every must be a number of seconds"):
        run_experiment(EXPERIMENT, tmp_path / "run", checkpoint_every=bad)
    with pytest.raises(ValueError, match="resume must be True, False or 'if_there', got 'if-there'"):
        run_experiment(EXPERIMENT, tmp_path / "run", resume="if-there")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("path", ["gs://bucket/run", Path("s3://bucket/run")])
def test_a_bucket_is_refused_in_one_line(path):
    with pytest.raises(ValueError, match="output must be a folder of this machine, got"):
        run_experiment(EXPERIMENT, path)
    assert check_output("runs/a:b") == Path("runs/a:b")


def test_means_do_not_depend_on_how_many_updates_came_in_a_call():
    rng = np.random.default_rng(0)
    infos = {
        "episode_return": rng.normal(size=(50, 3)).astype(np.float32) * np.float32(1e3),
        "episodes": rng.integers(0, 3, (50, 3), np.int32),
        "env_steps": np.ones((50, 3), np.int32),
        "entropy": rng.normal(size=(50, 3)).astype(np.float32),
    }
    infos["episodes"][:, 2] = 0
    infos["episode_return"][infos["episodes"] == 0] = np.nan
    at_once = Aggregate(("episode_return",))
    at_once.add(infos)
    whole = at_once.take()
    assert at_once.take() == {}
    pending = None
    for start, end in ((0, 1), (1, 30), (30, 49), (49, 50)):
        part = Aggregate(("episode_return",), pending)
        part.add({name: values[start:end] for name, values in infos.items()})
        pending = json.loads(json.dumps(part.as_fields()))
    parts = Aggregate(("episode_return",), pending).take()
    assert whole.keys() == parts.keys() == {"episode_return", "episodes", "entropy"}
    for name, values in whole.items():
        np.testing.assert_array_equal(values, parts[name])
        assert values.dtype == parts[name].dtype
    np.testing.assert_allclose(whole["entropy"], infos["entropy"].astype(np.float64).mean(axis=0), rtol=1e-6)
    weighted = np.nansum(infos["episode_return"].astype(np.float64) * infos["episodes"], axis=0)[:2]
    np.testing.assert_allclose(whole["episode_return"][:2], weighted / infos["episodes"].sum(axis=0)[:2])
    assert np.isnan(whole["episode_return"][2]) and whole["entropy"].dtype == np.float32


def test_the_exit_status_names_the_signal(monkeypatch, capsys):
    monkeypatch.setattr(os, "_exit", sys.exit)  # which would wait for a thread that compiles
    for name, status in (("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 0)):
        with pytest.raises(SystemExit) as caught:
            run_script(lambda argv: {"interrupted_by": argv[0]}, [name])
        assert caught.value.code == status

    def killed(argv):
        raise KeyboardInterrupt(*argv)

    for words in ([], ["killed: said so"]):
        with pytest.raises(SystemExit) as caught:
            run_script(killed, words)
        assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted before there was anything to keep\nkilled: said so\n"
    assert run_script(lambda _: {"interrupted_by": None}, []) is None


def test_kills_from_outside_and_the_same_command_again(finished, tmp_path):
    """SIGKILL after a checkpoint, then SIGTERM, then to the end: the run is the one that nobody disturbed."""
    output = tmp_path / "run"
    flags = ["--total-steps=150000", "--num-seeds=2", "--num-envs=4", "--num-steps=32", "--eval-episodes=8"]
    flags += ["--checkpoint-every=0.3", "--resume-if-there"]
    command = [sys.executable, str(ROOT / "experiments" / "train.py"), *flags, f"--output={output}"]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}
    for signum, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        before, deadline = whole_checkpoints(output / "checkpoint")[-1:], time.monotonic() + 120
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        while whole_checkpoints(output / "checkpoint")[-1:] == before:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signum)
        _, error = process.communicate(timeout=60)
        assert process.returncode == status
    assert f"--resume {output} continues the run" in error
    for folder in (output, tmp_path / "undisturbed"):
        load_script("train").main([*flags, f"--output={folder}"])
    assert_same_bits(load_states(output)[2], load_states(tmp_path / "undisturbed")[2])
    assert (output / "metrics.csv").read_bytes() == (tmp_path / "undisturbed" / "metrics.csv").read_bytes()
