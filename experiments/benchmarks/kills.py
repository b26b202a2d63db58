"""Kills runs at random moments, and compares what comes of them, bit for bit, with a run that nobody disturbed.

    uv run experiments/benchmarks/kills.py
    uv run experiments/benchmarks/kills.py --kills 10 --terms 5
    sudo uv run experiments/benchmarks/kills.py --kills 0 --terms 0 --full-disks 100 400   # KiB; mounts file systems

PPO on CartPole-v1 with two seeds. Each run is sent four signals, SIGKILL or SIGTERM, and is started with the one same
command each time. Every other signal comes at a time drawn uniformly from the duration of a whole run, from second 0
on; the rest within two seconds of a row of metrics.csv, so while it trains. Every other run saves a checkpoint each
second; the rest has the default settings. On a full disk, a run starts on a file system of the given size, which is
made larger after it has ended.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.training import load_states
from gaejax.training.checkpoints import whole_checkpoints
from gaejax.training.results import results_parser, write_results
from gaejax.training.scripts import run_script

TOTAL_STEPS, SIGNALS_PER_RUN, SEED = 100_000, 4, 2026
TRAIN = Path(__file__).parent.parent / "train.py"


def start(output: Path, *flags: str) -> subprocess.Popen:
    """Starts the run in a folder, or goes on with it."""
    command = [sys.executable, str(TRAIN), f"--total-steps={TOTAL_STEPS}", "--num-seeds=2", f"--output={output}"]
    return subprocess.Popen(
        [*command, "--resume-if-there", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> tuple[int, float, list[str]]:
    """Waits for a process; returns its status, the seconds, and the lines on its stderr."""
    started = time.monotonic()
    _, error = process.communicate()
    return process.returncode, time.monotonic() - started, [line for line in error.splitlines() if line.strip()]


def newest(output: Path) -> str:
    """Returns the number of the newest checkpoint, "" if there is none."""
    return next((path.name for path in reversed(whole_checkpoints(output / "checkpoint"))), "")


def same(output: Path, expected: Path) -> bool:
    """Returns whether two runs ended in the same states and have the same `metrics.csv`, bit for bit."""
    leaves = [jax.tree.leaves(load_states(run)[2]) for run in (output, expected)]
    bits = [
        [np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf).tobytes() for leaf in own] for own in leaves
    ]
    metrics = [(run / "metrics.csv").read_bytes() for run in (output, expected)]
    finished = json.loads((output / "summary.json").read_text())["finished"]
    return finished and bits[0] == bits[1] and metrics[0] == metrics[1]


def is_key(leaf: Any) -> bool:
    """Returns whether an array holds random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def wait_for_a_row(process: subprocess.Popen, metrics: Path) -> None:
    """Waits until a process writes a row, or ends."""
    size = metrics.stat().st_size if metrics.is_file() else 0
    while process.poll() is None:
        before, size = size, metrics.stat().st_size if metrics.is_file() else 0
        if size > before:
            return
        time.sleep(0.02)


def disturb(output: Path, expected: Path, names: list[str], duration: float, rng: random.Random, every: float) -> list:
    """Runs a run to its end; takes the signals for it off `names`, and returns a line of the table for each.

    A signal that came too late, because the run had ended before, is put back.
    """
    rows, flags, status = [], () if every == 60 else (f"--checkpoint-every={every}",), None
    while names and len(rows) < SIGNALS_PER_RUN and status != 0:
        started, process = time.monotonic(), start(output, *flags)
        if len(rows) % 2 == 0:
            wait_for_a_row(process, output / "metrics.csv")
        try:
            process.wait(rng.uniform(0, duration if len(rows) % 2 else 2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.Signals[names[-1]])
        delay = time.monotonic() - started
        status, seconds, lines = finish(process)
        if status != 0:
            row = {
                "run": output.name,
                "checkpoint_every": every,
                "signal": names.pop(),
                "after_seconds": f"{delay:.1f}",
            }
            row |= {"status": status, "seconds_to_end": f"{seconds:.1f}", "checkpoint": newest(output)}
            rows.append({**row, "tracebacks": sum("Traceback" in line for line in lines)})
    if status != 0:
        status, _, lines = finish(start(output, *flags))
        assert status == 0, lines
    return [{**row, "bit_for_bit": same(output, expected)} for row in rows]


def fill(folder: Path, expected: Path, kibibytes: int) -> dict:
    """Returns the line of the table for a run on a file system of a size, which is made larger when it has ended."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", folder], check=True)
    try:
        status, _, lines = finish(start(folder / "run", "--checkpoint-every=1"))
        there = newest(folder / "run")
        subprocess.run(["mount", "-o", "remount,size=1g", folder], check=True)
        resumed, _, _ = finish(start(folder / "run", "--checkpoint-every=1"))
        is_same = resumed == 0 and same(folder / "run", expected)
    finally:
        subprocess.run(["umount", folder], check=True)
    return {
        "kibibytes": kibibytes,
        "status": status,
        "lines_on_stderr": len(lines),
        "tracebacks": sum("Traceback" in line for line in lines),
        "last_line": lines[-1].replace(str(folder), "DISK")[:200] if lines else "",
        "checkpoint": there,
        "bit_for_bit_with_room": is_same,
    }


def main(argv: list[str]) -> None:
    parser = results_parser(__doc__)
    parser.add_argument("--kills", type=int, default=40, help="how many SIGKILL (default: %(default)s)")
    parser.add_argument("--terms", type=int, default=20, help="how many SIGTERM (default: %(default)s)")
    parser.add_argument(
        "--full-disks", type=int, nargs="*", default=[], help="sizes of file systems in KiB; needs root"
    )
    arguments = parser.parse_args(argv)
    rng = random.Random(SEED)
    names = ["SIGKILL"] * arguments.kills + ["SIGTERM"] * arguments.terms
    rng.shuffle(names)
    with tempfile.TemporaryDirectory() as name:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{name}/cache")
        folder, started = Path(name), time.monotonic()
        finish(start(folder / "first"))  # compiles
        started = time.monotonic()
        assert finish(start(folder / "expected"))[0] == 0
        duration = time.monotonic() - started
        rows, runs = [], 0
        while names:
            found = disturb(folder / f"{runs}", folder / "expected", names, duration, rng, 60 if runs % 2 else 1)
            runs += 1
            rows += found
            if rows:
                write_results(arguments.output / "kills.csv", rows)
            for row in found:
                print(" ".join(f"{key}: {value}" for key, value in row.items()), flush=True)
        disks = arguments.output / "full_disks.csv"
        known: list[dict[str, Any]] = []
        for kibibytes in arguments.full_disks:
            known.append(fill(folder / f"disk{kibibytes}", folder / "expected", kibibytes))
            write_results(disks, known)
            print(known[-1], flush=True)


if __name__ == "__main__":
    run_script(main)
