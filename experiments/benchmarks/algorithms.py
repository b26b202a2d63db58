"""All algorithms in one table: lines of the file, environment steps to solve CartPole-v1, steps per second.

    uv run experiments/benchmarks/algorithms.py

With the presets for CartPole-v1 and five seeds that they were not chosen on. Solved: the first hundredth of the run in
which the mean training return of all seeds is at least 475. Takes minutes.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

import gaejax
from gaejax.algorithms import ALGORITHMS
from gaejax.training import PRESETS, read_metrics, run_experiment
from gaejax.training.results import results_parser, write_results
from gaejax.training.scripts import run_script

SEED, SOLVED = 2027, 475


def measure(name: str) -> dict:
    """Returns the line of the table for an algorithm."""
    experiment = dataclasses.replace(PRESETS[name, "CartPole-v1"], seed=SEED, eval_episodes=256)
    with tempfile.TemporaryDirectory() as folder:
        summary = run_experiment(experiment, folder)
        rows = read_metrics(Path(folder) / "metrics.csv")
    by_update = {row["update"]: [] for row in rows}
    for row in rows:
        by_update[row["update"]].append((row["env_steps"], row["episode_return"]))
    steps, returns = np.array(list(by_update.values())).mean(axis=1).T
    solved = np.flatnonzero(returns >= SOLVED)
    return {
        "algorithm": name,
        "lines": len((Path(gaejax.__file__).parent / "algorithms" / f"{name}.py").read_text().splitlines()),
        "steps": experiment.total_steps,
        "mean_return": round(summary["episode_return"]["mean"], 1),
        "steps_to_solve": int(steps[solved[0]]) if len(solved) else "",
        "steps_per_second": round(summary["steps_per_second"]),
    }


def main(argv: list[str]) -> None:
    parser = results_parser(__doc__)
    known = [name for name in ALGORITHMS if (name, "CartPole-v1") in PRESETS]
    parser.add_argument("--algorithms", nargs="+", choices=known, default=known)
    arguments = parser.parse_args(argv)
    rows = []
    for name in arguments.algorithms:
        rows.append(measure(name))
        print(rows[-1], flush=True)
    write_results(arguments.output / "algorithms.csv", rows)


if __name__ == "__main__":
    run_script(main)
