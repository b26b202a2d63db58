"""The returns that the presets reach, beside a bar for each: five seeds, 256 episodes of the stochastic policy.

    uv run experiments/benchmarks/learning.py                          # all: about an hour
    uv run experiments/benchmarks/learning.py MemoryChain transformer  # those with these words; other lines are kept

The same runs, with assertions, are `uv run pytest -m slow tests/test_learning.py`. The seeds are not those that the
presets were chosen on.
"""

import dataclasses
import tempfile

import numpy as np

from gaejax.training import PRESETS, Experiment, run_experiment
from gaejax.training.results import read_results, results_parser, write_results
from gaejax.training.scripts import run_script

SEED, NUM_SEEDS, EPISODES = 2026, 5, 256


def frozen_lake_optimum(horizon: int = 100, success_rate: float = 1 / 3) -> float:
    """Returns the best chance to reach the goal of the slippery 4x4 lake in `horizon` moves, by dynamic programming."""
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


@dataclasses.dataclass(frozen=True)
class Case:
    """A preset, changes to it, and the bounds of its mean return."""

    environment: str
    least: float
    most: float = float("inf")
    config: tuple = ()
    policy: tuple = ()
    arguments: tuple = ()
    total_steps: int | None = None
    num_seeds: int = 5
    algorithm: str = "ppo"
    options: tuple = ()

    @property
    def changes(self) -> str:
        """The changes as a text."""
        changes = [*self.options, *self.arguments, *self.policy, *self.config]
        return " ".join(f"{name}={value}" for name, value in changes)

    def experiment(self) -> Experiment:
        """Returns the preset with the changes, on fresh seeds."""
        known = PRESETS[self.algorithm, self.environment]
        total_steps = self.total_steps or known.total_steps
        config = known.config.replace(anneal_steps=float(total_steps)).replace(**dict(self.config))
        return dataclasses.replace(
            known,
            config=config,
            total_steps=total_steps,
            policy={**known.policy, **dict(self.policy)},
            environment_arguments={**known.environment_arguments, **dict(self.arguments)},
            num_seeds=self.num_seeds,
            options=dict(self.options),
            seed=SEED,
            eval_episodes=EPISODES,
        )


def memory_chain(length: int, memory: str, total_steps: int, least: float = 0.95, most: float = 1.0) -> Case:
    arguments, policy = (("memory_length", length),), (("memory", memory),)
    return Case("MemoryChain-bsuite", least, most, (), policy, arguments, total_steps, num_seeds=3)


def pendulum(objective: str, least: float, most: float = 0.0, **config: float) -> Case:
    """Returns a case for one of PPO's objectives, all at equal work (as table 1 of its paper, on a smaller task)."""
    known = {"num_minibatches": 32, "discount": 0.95, "anneal_steps": None, "max_grad_norm": 0.5} | config
    options = (("objective", objective),)
    return Case("Pendulum-v1", least, most, tuple(known.items()), (), (), 150_000, 3, options=options)


def cart_pole(memory: str, total_steps: int, learning_rate: float) -> Case:
    policy = (("memory", memory), ("hidden_sizes", (64,)), ("context", 32))
    return Case("CartPole-v1", 475, config=(("learning_rate", learning_rate),), policy=policy, total_steps=total_steps)


# DPO holds the policy less tightly than clipping does: it needs short rollouts and fewer epochs.
DRIFT = (("num_steps", 8), ("num_minibatches", 2), ("num_epochs", 2), ("learning_rate", 2.5e-3))
DRIFT += (("entropy_coefficient", 0.0),)

RUNS = [
    Case("CartPole-v1", 475),
    Case("Acrobot-v1", -100),
    Case("Pendulum-v1", -200),
    Case("Catch-bsuite", 0.95),
    Case("DiscountingChain-bsuite", 1.09),
    Case("DiscountingChain-bsuite", 0.99, 1.01, config=(("discount", 0.99),)),  # not worth waiting for
    Case("MountainCarContinuous-v0", 85),
    Case("Breakout-MinAtar", 10),
    Case("FrozenLake-misc", 0.9 * frozen_lake_optimum()),
    memory_chain(5, "gru", 100_000),
    memory_chain(15, "gru", 300_000),
    memory_chain(30, "linear_recurrent", 500_000),
    memory_chain(30, "transformer", 500_000),
    memory_chain(5, "none", 100_000, least=-0.15, most=0.15),
    Case("BernoulliBandit-misc", 80, 90),
    Case(
        "Breakout-MinAtar",
        10,  # and no less than the MLP's
        config=(("learning_rate", 3e-3),),
        policy=(("encoder", "cnn"), ("hidden_sizes", (128,)), ("shared", True)),
    ),
    Case("Pendulum-v1", -200, policy=(("squash", True),)),
    cart_pole("gru", 150_000, 3e-3),
    cart_pole("linear_recurrent", 150_000, 1e-3),
    cart_pole("transformer", 300_000, 1e-3),
    Case("CartPole-v1", 400, algorithm="reinforce"),
    Case("CartPole-v1", 475, algorithm="a2c"),
    Case("CartPole-v1", 475, algorithm="trpo"),
    Case("CartPole-v1", 475, algorithm="pqn"),
    Case("Acrobot-v1", -100, algorithm="trpo"),
    pendulum("unclipped", -10_000, -800),
    pendulum("clip", -250),
    pendulum("kl", -250, kl_coefficient=3.0),
    pendulum("adaptive_kl", -250),
    pendulum("dpo", -250),
    Case("SpaceInvaders-MinAtar", 30, num_seeds=3),
    Case("Breakout-MinAtar", 0, num_seeds=3, options=(("objective", "dpo"),)),
    Case("SpaceInvaders-MinAtar", 0, config=DRIFT, num_seeds=3, options=(("objective", "dpo"),)),
    Case("Breakout-MinAtar", 0, num_seeds=3, algorithm="pqn"),
    Case("SpaceInvaders-MinAtar", 0, num_seeds=3, algorithm="pqn"),
]


def learn(run: Case) -> dict:
    """Trains on fresh seeds and returns the summary."""
    with tempfile.TemporaryDirectory() as folder:
        return run_experiment(run.experiment(), folder)


def main(argv: list[str]) -> None:
    parser = results_parser(__doc__)
    parser.add_argument("words", nargs="*", help="run only what has all of these words in its name")
    arguments = parser.parse_args(argv)
    table = arguments.output / "learning.csv"
    rows: dict = {(row["algorithm"], row["environment"], row["changes"]): row for row in read_results(table)}
    known = [(run.algorithm, run.environment, run.changes) for run in RUNS]
    for name, run in zip(known, RUNS, strict=True):
        if not all(word in " ".join(name) for word in arguments.words):
            continue
        summary = learn(run)
        returns = summary["episode_return"]
        rows[name] = {
            "algorithm": run.algorithm,
            "environment": run.environment,
            "changes": run.changes,
            "steps": run.experiment().total_steps,
            "least": round(float(run.least), 3),
            "mean": round(returns["mean"], 3),
            "std": round(returns["std"], 3),
            "per_seed": " ".join(f"{value:.3f}" for value in returns["per_seed"]),
            "train_seconds": round(summary["train_seconds"], 1),
            "compile_seconds": round(summary["compile_seconds"], 1),
        }
        print(rows[name], flush=True)
        write_results(table, [rows[name] for name in known if name in rows])


if __name__ == "__main__":
    run_script(main)
