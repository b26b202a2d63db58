"""Population based training against the same agents on their own, in CartPole and Pendulum.

    uv run experiments/benchmarks/populations.py
    uv run experiments/benchmarks/populations.py --environment Pendulum-v1   # the other lines of the table stay

16 agents of PPO, whose learning rate, entropy coefficient and lambda are drawn from wide ranges, train for some
generations. After each, the worst quarter copies the best quarter and perturbs its hyperparameters ("pbt"), half
copies half without perturbing ("halving"), or nobody copies ("alone"). Five repetitions, each with its own population;
the three modes of a repetition start from the same one. Every final agent plays 64 episodes.
"""

import time
from typing import Any

import jax
import numpy as np

import gaejax
from gaejax.training import ancestors, initial_population, plot_lineage, train_population
from gaejax.training.results import read_results, results_parser, write_results
from gaejax.training.scripts import run_script

AGENTS, REPETITIONS, EPISODES, SEED = 16, 5, 64, 2026
BOUNDS = {"learning_rate": (3e-6, 3e-2), "entropy_coefficient": (1e-4, 0.1), "gae_lambda": (0.5, 1.0)}
MODES = {"alone": {"fraction": 0.0}, "pbt": {}, "halving": {"fraction": 0.5, "factor": 1.0}}
TASKS = {
    "CartPole-v1": {"generations": 8, "updates": 15, "config": {"num_envs": 16, "num_steps": 64}},
    "Pendulum-v1": {
        "generations": 6,
        "updates": 15,
        "config": {
            "num_envs": 16,
            "num_steps": 64,
            "discount": 0.95,
            "normalize_observations": True,
            "normalize_rewards": True,
        },
    },
}


def measure(name: str, mode: str) -> tuple[dict[str, Any], Any]:
    """Returns the line of the table, and the lineages of all repetitions."""
    task, environment = TASKS[name], gaejax.make(name)
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment))
    config = gaejax.PPOConfig(**task["config"])

    def run(key: jax.Array) -> tuple[jax.Array, Any]:
        start_key, train_key, play_key = jax.random.split(key, 3)
        states = initial_population(algorithm, start_key, config, BOUNDS, AGENTS)
        sizes = {size: task[size] for size in ("generations", "updates")}
        states, lineage = train_population(algorithm, train_key, states, BOUNDS, **sizes, **MODES[mode])
        play = lambda state, key: gaejax.evaluate(algorithm, state, key, EPISODES).returns.mean()
        return jax.vmap(play)(states, jax.random.split(play_key, AGENTS)), lineage

    keys = jax.random.split(jax.random.key(SEED), REPETITIONS)
    compiled = jax.jit(lambda keys: jax.lax.map(run, keys)).lower(keys).compile()
    started = time.perf_counter()
    returns, lineage = jax.block_until_ready(compiled(keys))
    seconds = time.perf_counter() - started
    means, bests = np.asarray(returns).mean(axis=1), np.asarray(returns).max(axis=1)
    founders = [len(np.unique(np.asarray(ancestors(source))[-1])) for source in lineage.source]
    line = {
        "environment": name,
        "mode": mode,
        "agents": AGENTS,
        "transitions_per_agent": task["generations"] * task["updates"] * config.num_envs * config.num_steps,
        "mean_return": round(float(means.mean()), 1),
        "std_over_repetitions": round(float(means.std()), 1),
        "means": " ".join(f"{value:.1f}" for value in means),
        "best_return": round(float(bests.mean()), 1),
        "founders_alive": " ".join(map(str, founders)),
        "fitness": " ".join(f"{value:.1f}" for value in np.nanmean(np.asarray(lineage.fitness), axis=(0, 2))),
        "seconds": round(seconds, 1),
    }
    return line, lineage


def main(argv: list[str]) -> None:
    parser = results_parser(__doc__)
    parser.add_argument("--environment", choices=list(TASKS), help="measure only this one (default: both)")
    arguments = parser.parse_args(argv)
    names = list(TASKS) if arguments.environment is None else [arguments.environment]
    earlier = read_results(arguments.output / "populations.csv")
    rows: list[dict[str, Any]] = [row for row in earlier if row["environment"] not in names]
    for name in names:
        for mode in MODES:
            line, lineage = measure(name, mode)
            rows.append(line)
            print("  ".join(f"{column}: {value}" for column, value in line.items()), flush=True)
            write_results(arguments.output / "populations.csv", rows)
            if mode == "pbt":
                first = jax.tree.map(lambda leaf: leaf[0], lineage)
                picture = arguments.output / f"populations_{name.partition('-')[0].lower()}.png"
                plot_lineage(first, picture, f"PPO on {name}: {AGENTS} agents, population based training")


if __name__ == "__main__":
    run_script(main)
