"""What the presets reach: five seeds each, 256 episodes of the stochastic policy, against a bar for each environment.

    uv run experiments/benchmarks/learning.py

The same runs, with assertions, are `uv run pytest -m slow tests/test_learning.py`. The seeds are not those that the
presets were chosen on.
"""

import csv
import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from gaejax.training import PRESETS, run_experiment

RESULTS = Path(__file__).parent / "results" / "learning.csv"
SEED, NUM_SEEDS, EPISODES = 2026, 5, 256


def frozen_lake_optimum(horizon: int = 100, success_rate: float = 1 / 3) -> float:
    """The best chance to reach the goal of the slippery 4x4 lake within `horizon` moves, by dynamic programming."""
    lake = "SFFFFHFHFFFHHFFG"
    moves = ((0, -1), (1, 0), (0, 1), (-1, 0))

    def go(cell: int, direction: int) -> int:
        row, column = (np.array(divmod(cell, 4)) + moves[direction % 4]).clip(0, 3)
        return 4 * row + column

    value = np.array([float(cell == "G") for cell in lake])
    for _ in range(horizon):
        following = value.copy()
        for cell, kind in enumerate(lake):
            if kind in "SF":
                following[cell] = max(
                    success_rate * value[go(cell, action)]
                    + (1 - success_rate) / 2 * (value[go(cell, action - 1)] + value[go(cell, action + 1)])
                    for action in range(4)
                )
        value = following
    return value[0]


# (environment, changes to its preset's config): the least mean return
BARS = {
    ("CartPole-v1", ()): 475,
    ("Acrobot-v1", ()): -100,
    ("Pendulum-v1", ()): -200,
    ("Catch-bsuite", ()): 0.95,
    ("DiscountingChain-bsuite", ()): 1.09,
    ("DiscountingChain-bsuite", (("discount", 0.99),)): 0.99,  # and at most 1.01: not worth waiting for
    ("MountainCarContinuous-v0", ()): 85,
    ("Breakout-MinAtar", ()): 10,
    ("FrozenLake-misc", ()): 0.9 * frozen_lake_optimum(),
}


def learn(name: str, changes: tuple = ()) -> dict:
    """Trains a preset on fresh seeds and returns its summary."""
    known = PRESETS[name]
    experiment = dataclasses.replace(
        known, config=known.config.replace(**dict(changes)), num_seeds=NUM_SEEDS, seed=SEED, eval_episodes=EPISODES
    )
    with tempfile.TemporaryDirectory() as folder:
        return run_experiment(experiment, folder)


def main() -> None:
    rows = []
    for (name, changes), bar in BARS.items():
        summary = learn(name, changes)
        returns = summary["episode_return"]
        rows.append(
            {
                "environment": name,
                "changes": " ".join(f"{field}={value}" for field, value in changes),
                "steps": PRESETS[name].total_steps,
                "bar": round(bar, 3),
                "mean": round(returns["mean"], 3),
                "std": round(returns["std"], 3),
                "per_seed": " ".join(f"{value:.3f}" for value in returns["per_seed"]),
                "train_seconds": round(summary["train_seconds"], 1),
                "compile_seconds": round(summary["compile_seconds"], 1),
            }
        )
        print(rows[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
