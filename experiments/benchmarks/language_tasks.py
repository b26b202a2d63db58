"""Measure how many held-out prompts small language models answer exactly, on tasks learned from scratch.

    uv run experiments/benchmarks/language_tasks.py             # all runs: 15 minutes on two cores
    uv run experiments/benchmarks/language_tasks.py reverse     # only runs with this word in their name

Results of other runs are kept. Each seed is a process of its own, as a user would start it, and its seconds are those
of the whole process. Hyperparameters were chosen on other seeds (20 to 29). The same runs, with assertions, are
`uv run pytest -m slow tests/test_language_experiment.py`.
"""

import argparse
import csv
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "language_tasks.csv"
SCRIPT = Path(__file__).parent.parent / "language_tokens.py"


@dataclasses.dataclass(frozen=True)
class Case:
    """A task, and the bounds of the fraction of exact answers."""

    task: str
    least: float
    most: float = 1.0
    num_seeds: int = 1
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join([self.task, *self.flags])


CASES = [
    Case("reverse", 0.95, num_seeds=5),
    Case("translation", 0.95, num_seeds=5),
    Case("question_answering", 0.95, num_seeds=3),
    Case("summary", 0.95, num_seeds=3),
    Case("sort", 0.9),
    Case("addition", 0.9),
    Case("reverse", 0.0, 0.01, flags=("--shuffle-rewards",)),  # the control
]


def learn(case: Case, seed: int) -> dict:
    """Trains one seed; returns its fraction of exact answers, its tokens, and the seconds of the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, SCRIPT, "--task", case.task, *case.flags, "--seed", str(seed), "--output", folder]
        started = time.perf_counter()
        subprocess.run([*command, "--show-every", "0"], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        summary = json.loads((Path(folder) / "summary.json").read_text())
    return {
        "task": case.name,
        "seed": seed,
        "exact": summary["exact"][0],
        "tokens": summary["total_env_steps"],
        "seconds": round(seconds, 1),
        "compile_seconds": round(summary["compile_seconds"], 1),
    }


def main(argv: list[str]) -> None:
    """Runs the cases that were asked for, and rewrites the results after each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="run only the cases whose names contain all these words")
    words = parser.parse_args(argv).words
    results = {}
    if RESULTS.is_file():
        with RESULTS.open(newline="") as file:
            results = {(line["task"], int(line["seed"])): line for line in csv.DictReader(file)}
    known = [(case, seed) for case in CASES for seed in range(case.num_seeds)]
    for case, seed in known:
        if not all(word in case.name for word in words):
            continue
        results[case.name, seed] = line = learn(case, seed)
        print(line, flush=True)
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, line, lineterminator="\n")
            writer.writeheader()
            writer.writerows(results[case.name, seed] for case, seed in known if (case.name, seed) in results)


if __name__ == "__main__":
    main(sys.argv[1:])
