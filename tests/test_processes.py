"""Several processes that train together: one run, one folder, and an end for all of them when one of them ends."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from scripts import ROOT
from test_ppo import assert_same_bits

from gaejax.training import load_states

RUN = ["--num-envs", "4", "--num-steps", "16", "--num-seeds", "2", "--total-steps", "160000", "--eval-episodes", "4"]
SECONDS_TO_END = 60


def environment(**more):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | cache | more


def launch(output, *flags):
    """Starts both processes of a run, which is resumed if it is there."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "experiments/train.py", *RUN, "--output", str(output), "--resume-if-there", *flags]
    address = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(JAX_PROCESS_ID=str(number), **address),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]


def ended(processes, within):
    """Waits for both; returns their exit statuses and what they said."""
    deadline = time.monotonic() + within
    try:
        said = [process.communicate(timeout=max(1, deadline - time.monotonic()))[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def wait_for_a_checkpoint(output, processes):
    while not list(output.glob("checkpoint/*/checksums.json")):
        if any(process.poll() is not None for process in processes):
            pytest.fail(f"ended before the first checkpoint: {ended(processes, SECONDS_TO_END)}")
        time.sleep(0.05)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The same run in one process with two devices."""
    output = tmp_path_factory.mktemp("processes") / "one"
    command = [sys.executable, "experiments/train.py", *RUN, "--output", str(output)]
    subprocess.run(command, cwd=ROOT, env=environment(JAX_NUM_CPU_DEVICES="2"), check=True, capture_output=True)
    return output


def assert_same_run(output, other):
    assert (output / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    assert_same_bits(load_states(output)[2], load_states(other)[2])


def resume(output):
    statuses, said = ended(launch(output), 300)
    assert statuses == [0, 0], said
    return said


@pytest.mark.parametrize("number", [0, 1])
def test_a_sigterm_to_either_saves_and_ends_both_and_the_same_command_goes_on(uninterrupted, tmp_path, number):
    output = tmp_path / "run"
    processes = launch(output)
    wait_for_a_checkpoint(output, processes)
    processes[number].send_signal(signal.SIGTERM)
    statuses, said = ended(processes, SECONDS_TO_END)
    assert statuses == [143, 143], said
    assert f"--resume {output} continues the run" in said[0]
    said = resume(output)
    assert_same_run(output, uninterrupted)
    assert "CartPole-v1" in said[0]
    assert "CartPole-v1" not in said[1]  # process 0 alone writes


@pytest.mark.parametrize("number", [0, 1])
def test_when_one_is_killed_the_other_ends_and_the_run_can_be_resumed(uninterrupted, tmp_path, number):
    output = tmp_path / "run"
    processes = launch(output)
    wait_for_a_checkpoint(output, processes)
    processes[number].kill()
    statuses, said = ended(processes, SECONDS_TO_END)
    assert 0 not in statuses, said
    resume(output)
    assert_same_run(output, uninterrupted)


def test_an_exception_in_one_ends_both(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(
        "import os, gaejax\n"
        "def make():\n"
        "    if os.environ.get('JAX_PROCESS_ID') == '1':\n"
        "        raise RuntimeError('no such file on this host')\n"
        "    return gaejax.make('CartPole-v1')\n"
    )
    statuses, said = ended(launch(tmp_path / "run", "--env", f"{source}:make"), SECONDS_TO_END + 30)
    assert 0 not in statuses, said
    assert "no such file on this host" in said[1]


def test_one_process_resumes_what_two_have_trained(tmp_path):
    output = tmp_path / "run"
    statuses, said = ended(launch(output), 300)
    assert statuses == [0, 0], said
    command = [sys.executable, "experiments/train.py", "--resume", str(output), "--total-steps", "170000"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    states = load_states(output)[2]
    assert np.asarray(states.updates).tolist() == [-(-170000 // 64)] * 2
