"""What small language models learn from scratch on tasks that can be checked: held-out prompts answered exactly.

    uv run experiments/benchmarks/language_tasks.py                  # all: 15 minutes on two cores
    uv run experiments/benchmarks/language_tasks.py reverse          # those with this word, the others are kept

Each seed is a process of its own, as a user would start it: its seconds are from the command to the prompt's return.
The setting was chosen on other seeds (20 to 29). The same runs, with assertions, are `uv run pytest -m slow
tests/test_language_experiment.py`.
"""

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
class Run:
    """A task, and between what its share of exact answers must lie."""

    task: str
    least: float
    most: float = 1.0
    num_seeds: int = 1
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join([self.task, *self.flags])


RUNS = [
    Run("reverse", 0.95, num_seeds=5),
    Run("translation", 0.95, num_seeds=5),
    Run("question_answering", 0.95, num_seeds=3),
    Run("summary", 0.95, num_seeds=3),
    Run("sort", 0.9),
    Run("addition", 0.9),
    Run("reverse", 0.0, 0.01, flags=("--shuffle-rewards",)),  # the control
]


def learn(run: Run, seed: int) -> dict:
    """A seed's share of exact answers, the tokens it took, and the seconds of the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, SCRIPT, "--task", run.task, *run.flags, "--seed", str(seed), "--output", folder]
        started = time.perf_counter()
        subprocess.run([*command, "--show-every", "0"], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        summary = json.loads((Path(folder) / "summary.json").read_text())
    return {
        "task": run.name,
        "seed": seed,
        "exact": summary["exact"][0],
        "tokens": summary["total_env_steps"],
        "seconds": round(seconds, 1),
        "compile_seconds": round(summary["compile_seconds"], 1),
    }


def main(words: list[str]) -> None:
    rows = {}
    if RESULTS.is_file():
        with RESULTS.open(newline="") as file:
            rows = {(row["task"], int(row["seed"])): row for row in csv.DictReader(file)}
    known = [(run, seed) for run in RUNS for seed in range(run.num_seeds)]
    for run, seed in known:
        if not all(word in run.name for word in words):
            continue
        rows[run.name, seed] = row = learn(run, seed)
        print(row, flush=True)
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[run.name, seed] for run, seed in known if (run.name, seed) in rows)


if __name__ == "__main__":
    main(sys.argv[1:])
