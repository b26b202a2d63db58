"""How true a plan is: memory and time that it predicts, and what is measured then.

    uv run experiments/benchmarks/plan_accuracy.py
    uv run experiments/benchmarks/plan_accuracy.py --from 2 --memory-only    # the first two lines of the table stay

Every case has processes of its own. Memory: what `gaejax.plan` reads from the compiled program, against the largest
resident size (VmHWM) during two training steps less the resident size before the states are made, when everything is
compiled. What a process with a tiny program takes beside this, "fixed", is measured first and taken off. Time: what
`gaejax.plan` makes of its few updates, against as many seconds as the run's updates take right after; only of the cases
whose updates are short. Linux and a CPU only. The load of the machine is in the table.
"""

import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import gaejax
from gaejax.training import Experiment
from gaejax.training.driver import initial_states, lower_training
from gaejax.training.plan import compile_program
from gaejax.training.results import read_results, results_parser, write_results
from gaejax.training.scripts import run_script

UPDATES = 16
LARGE = {"policy": {"hidden_sizes": (256, 256)}}


def case(num_seeds: int, num_envs: int, num_steps: int, environment: str = "CartPole-v1", **own: Any) -> Experiment:
    """Returns a run of some updates."""
    config = gaejax.PPOConfig(num_envs=num_envs, num_steps=num_steps)
    total_steps = UPDATES * num_envs * num_steps
    return Experiment(environment=environment, config=config, num_seeds=num_seeds, total_steps=total_steps, **own)


FIXED = case(1, 4, 4)
CASES = {
    "1 seed, 64 x 128": case(1, 64, 128),
    "16 seeds, 64 x 128": case(16, 64, 128),
    "64 seeds, 64 x 128": case(64, 64, 128),
    "256 seeds, 64 x 128": case(256, 64, 128),
    "16 seeds, 256 x 128, hidden 256": case(16, 256, 128, **LARGE),
    "4 seeds, 2048 x 64, hidden 256": case(4, 2048, 64, **LARGE),
    "16 seeds, Pendulum, 64 x 128": case(16, 64, 128, "Pendulum-v1"),
    "4 seeds, Breakout, 64 x 64, CNN": case(4, 64, 64, "Breakout-MinAtar", policy={"encoder": "cnn"}),
}
TIMED = (0, 1, 2, 6)
"""The cases whose updates are short enough to be timed."""


def status(name: str) -> int:
    """Returns a size in bytes from this process's status."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, name
    return 1024 * int(found.group(1))


def memory(experiment: Experiment) -> dict[str, float]:
    """Returns predicted and measured memory, in MB."""
    algorithm = experiment.build()
    first = partial(initial_states, experiment, algorithm)
    program = compile_program(lower_training(algorithm, jax.eval_shape(first), 1))
    init = jax.jit(first).lower().compile()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident size is counted from now on
    states = init()
    for _ in range(2):
        states, _ = jax.block_until_ready(program.compiled(states, jnp.int32(1)))
    return {"predicted": (program.bytes or 0) / 1e6, "measured": (status("VmHWM") - before) / 1e6}


def seconds(experiment: Experiment) -> dict[str, float]:
    """Returns predicted and measured seconds of all updates."""
    predicted = gaejax.plan(experiment, max_compilations=1).seconds
    algorithm = experiment.build()
    states = initial_states(experiment, algorithm)
    compiled = lower_training(algorithm, states, UPDATES).compile()
    states, _ = jax.block_until_ready(compiled(states, jnp.int32(1)))
    started = time.perf_counter()
    jax.block_until_ready(compiled(states, jnp.int32(UPDATES)))
    return {"predicted": predicted or 0.0, "measured": time.perf_counter() - started}


def in_a_process(what: str, name: str) -> dict[str, float]:
    """Returns what this script says when it is asked for one measurement."""
    command = [sys.executable, __file__, "--measure", what, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{what} of {name} could not be measured: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
    if argv[:1] == ["--measure"]:
        experiment = FIXED if argv[2] == "fixed" else CASES[argv[2]]
        print(json.dumps({"memory": memory, "seconds": seconds}[argv[1]](experiment)))
        return
    parser = results_parser(__doc__)
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first case to measure, from 0")
    parser.add_argument("--memory-only", action="store_true", help="measure no times")
    arguments = parser.parse_args(argv)
    rows: list[dict[str, Any]] = list(read_results(arguments.output / "plan.csv")[: arguments.first])
    fixed = in_a_process("memory", "fixed")
    beside = fixed["measured"] - fixed["predicted"]
    for number, name in list(enumerate(CASES))[arguments.first :]:
        size = in_a_process("memory", name)
        own = size["measured"] - beside
        spent = in_a_process("seconds", name) if number in TIMED and not arguments.memory_only else None
        row = {
            "case": name,
            "predicted_MB": round(size["predicted"], 1),
            "measured_MB": round(size["measured"], 1),
            "fixed_MB": round(beside, 1),
            "memory_error_percent": round(100 * (size["predicted"] / own - 1), 1),
            "predicted_seconds": spent and round(spent["predicted"], 2),
            "measured_seconds": spent and round(spent["measured"], 2),
            "time_error_percent": spent and round(100 * (spent["predicted"] / spent["measured"] - 1), 1),
            "load": round(os.getloadavg()[0], 1),
        }
        rows.append(row)
        print("  ".join(f"{column}: {value}" for column, value in row.items()), flush=True)
        write_results(arguments.output / "plan.csv", rows)


if __name__ == "__main__":
    run_script(main)
