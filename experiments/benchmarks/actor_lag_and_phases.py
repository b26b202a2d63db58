"""PPG beside PPO on Breakout-MinAtar, and what V-trace is worth to actors that lag behind on CartPole-v1.

    uv run experiments/benchmarks/actor_lag_and_phases.py phases     # a quarter of an hour on two cores
    uv run experiments/benchmarks/actor_lag_and_phases.py actor_lag  # five minutes

phases: the two presets, 1 000 000 steps. actor_lag: IMPALA's preset, whose actors take over the learner's parameters
every 8 updates, with V-trace and with GAE, over a range of learning rates; without lag (k = 0, where both estimators
are the same) for reference; with advantages as estimated (the preset), the same with lambda 1, and standardized.

A result is the mean return of 128 episodes of the stochastic policy after training. Intervals are Student's, 95 %, over
seeds; of differences, Welch's. The presets, and the learning rates that the table marks as chosen, were chosen on other
seeds (100 to 109).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import gaejax
from gaejax.algorithms import ALGORITHMS
from gaejax.policies import make_policy
from gaejax.training import PRESETS
from gaejax.training.plots import new_figure, save_figure
from gaejax.training.results import read_results, results_parser, write_results
from gaejax.training.scripts import run_script

EPISODES, POINTS = 128, 50
RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
LAG = 8
SETTINGS = {
    "advantages as estimated": dict(advantage_normalization="none"),  # as in the preset
    "as estimated, lambda 1": dict(advantage_normalization="none", gae_lambda=1.0),
    "standardized": dict(advantage_normalization="minibatch"),
}
CHOSEN = {
    "advantages as estimated": {"vtrace": 1.6e-2, "gae": 4e-3},
    "as estimated, lambda 1": {"vtrace": 4e-3, "gae": 4e-3},
    "standardized": {"vtrace": 8e-3, "gae": 8e-3},
}
"""The best learning rate of each lagged arm on seeds 100 to 109."""
BEST = {"vtrace": ("advantages as estimated", 1.6e-2), "gae": ("as estimated, lambda 1", 4e-3)}
"""The best arm of each estimator there."""


def measure(
    algorithm: str, environment: str, seeds: Sequence[int], changes: dict[str, Any], **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Trains a preset with some changes, all seeds and learning rates in one vmapped call.

    Args:
      algorithm, environment: Which preset.
      seeds: One run each, S.
      changes: Fields of its config; `learning_rate` may be an array `[R]`.
      **options: Arguments of the algorithm, such as its estimator.

    Returns:
      Mean returns of episodes after training `[R, S]`, and of those that ended in each 50th of it `[R, S, 50]`. R is 1
      without an array of learning rates.
    """
    preset = PRESETS[algorithm, environment]
    config = preset.config.replace(**changes)
    rates = jnp.atleast_1d(jnp.asarray(config.learning_rate, jnp.float32))
    world = gaejax.make(environment, **preset.environment_arguments)
    made = ALGORITHMS[algorithm].make(world, make_policy(world, **preset.policy), **options)

    def run(rate: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        state, info = gaejax.train(made, key, config.replace(learning_rate=rate), preset.total_steps)
        point = jnp.arange(info.episodes.shape[0]) * POINTS // info.episodes.shape[0]
        totals = jnp.where(info.episodes > 0, info.episodes * info.episode_return, 0)
        count, total = (jax.ops.segment_sum(x, point, POINTS) for x in (info.episodes, totals))
        returns = gaejax.evaluate(made, state, jax.random.fold_in(key, 1), EPISODES).returns
        return returns.mean(), jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)

    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    returns, curves = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(rates, keys)
    return np.asarray(returns), np.asarray(curves)


def summary(returns: np.ndarray) -> dict[str, Any]:
    """Returns mean and 95 % interval over seeds, and the seeds' own returns, as columns of a table."""
    error = stats.t.ppf(0.975, len(returns) - 1) * stats.sem(returns)
    mean, low, high = (round(float(x), 2) for x in (returns.mean(), returns.mean() - error, returns.mean() + error))
    return dict(seeds=len(returns), mean=mean, low=low, high=high, per_seed=" ".join(f"{x:.1f}" for x in returns))


def difference(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Returns the difference of two means over seeds and its 95 % interval, as columns of a table."""
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    mean, low, high = (round(float(x), 2) for x in (first.mean() - second.mean(), interval.low, interval.high))
    return dict(seeds=len(first), mean=mean, low=low, high=high, per_seed="")


def phases(seeds: Sequence[int], output: Path) -> None:
    """Measures PPO and PPG on Breakout-MinAtar; writes phases.csv, phases_curves.csv and phases.png."""
    environment, names = "Breakout-MinAtar", ("ppo", "ppg")
    found = {}
    for name in names:
        found[name] = measure(name, environment, seeds, {})
        print(name, summary(found[name][0][0]), flush=True)
    returns = {name: own[0][0] for name, own in found.items()}
    rows = [{"algorithm": name, **summary(returns[name])} for name in names]
    rows.append({"algorithm": "ppg - ppo", **difference(returns["ppg"], returns["ppo"])})
    print(rows[-1])
    write_results(output / "phases.csv", rows)
    steps = (np.arange(POINTS) + 1) * PRESETS["ppo", environment].total_steps // POINTS
    curves = [
        {"algorithm": name, "env_steps": step, **summary(own)}
        for name in names
        for step, own in zip(steps, found[name][1][0].T, strict=True)
    ]
    write_results(output / "phases_curves.csv", curves)
    draw_phases(output)


def draw_phases(output: Path) -> None:
    """Draws training returns against steps."""
    curves = read_results(output / "phases_curves.csv")
    figure, panels = new_figure()
    axes = panels[0, 0]
    for name, color in (("ppo", "tab:gray"), ("ppg", "tab:blue")):
        own = [row for row in curves if row["algorithm"] == name]
        steps, mean, low, high = (
            np.array([float(row[column]) for row in own]) for column in ("env_steps", "mean", "low", "high")
        )
        axes.plot(steps, mean, color=color, label=f"{name.upper()}, mean of {own[0]['seeds']} seeds")
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel="environment steps", ylabel="return of training episodes", title="Breakout-MinAtar")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False, loc="upper left", title="bands: 95 % intervals")
    save_figure(figure, output / "phases.png")


def actor_lag(seeds: Sequence[int], output: Path) -> None:
    """Measures lagged actors on CartPole-v1; writes actor_lag.csv and actor_lag.png."""
    rows, returns = [], {}

    def add(setting: str, estimator: str, lag: int, rate: str, chosen: bool, figures: dict[str, Any]) -> None:
        columns = dict(setting=setting, estimator=estimator, actor_lag=lag, learning_rate=rate, chosen=chosen)
        rows.append(columns | figures)
        print(columns | {name: figures[name] for name in ("mean", "low", "high")}, flush=True)

    for setting, changes in SETTINGS.items():
        for estimator, lag in (("vtrace", LAG), ("gae", LAG), ("vtrace", 0)):
            changed = dict(**changes, actor_lag=lag, learning_rate=np.array(RATES))
            found, _ = measure("impala", "CartPole-v1", seeds, changed, estimator=estimator)
            for rate, own in zip(RATES, found, strict=True):
                returns[setting, estimator, lag, rate] = own
                chosen = lag == LAG and CHOSEN[setting][estimator] == rate
                add(setting, estimator, lag, f"{rate:g}", chosen, summary(own))

    def compare(setting: str, text: str, vtrace: tuple[str, float], gae: tuple[str, float], chosen: bool) -> None:
        first, second = (returns[arm[0], name, LAG, arm[1]] for name, arm in (("vtrace", vtrace), ("gae", gae)))
        add(setting, "vtrace - gae", LAG, text, chosen, difference(first, second))

    for setting in SETTINGS:
        for rate in RATES:
            compare(setting, f"{rate:g}", (setting, rate), (setting, rate), chosen=False)
        compare(setting, "best of each", *((setting, CHOSEN[setting][name]) for name in ("vtrace", "gae")), chosen=True)
    compare("best of each", "best of each", BEST["vtrace"], BEST["gae"], chosen=True)
    write_results(output / "actor_lag.csv", rows)
    draw_actor_lag(output)


def draw_actor_lag(output: Path) -> None:
    """Draws returns against learning rates."""
    rows = read_results(output / "actor_lag.csv")
    figure, panels = new_figure(1, len(SETTINGS), width=11.0)
    arms = (
        ("vtrace", LAG, "tab:blue", f"V-trace, k = {LAG}"),
        ("gae", LAG, "tab:orange", f"GAE, k = {LAG}"),
        ("vtrace", 0, "tab:gray", "no lag"),
    )
    for axes, setting in zip(panels[0], SETTINGS, strict=True):
        for place, (estimator, lag, color, label) in enumerate(arms):
            arm = (setting, estimator, str(lag))
            own = [row for row in rows if (row["setting"], row["estimator"], row["actor_lag"]) == arm]
            rate, mean, low, high = (
                np.array([float(row[name]) for row in own]) for name in ("learning_rate", "mean", "low", "high")
            )
            rate = rate * 1.06 ** (place - 1)  # beside each other
            axes.errorbar(rate, mean, (mean - low, high - mean), color=color, label=label, capsize=3, marker=".")
        axes.set(xscale="log", xlabel="learning rate", title=setting, ylim=(0, 560))
        axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
        axes.set_xticks([], minor=True)
    panels[0, 0].set(ylabel=f"return, mean of {rows[0]['seeds']} seeds, 95 % interval")
    panels[0, 0].legend(frameon=False, loc="lower left")
    figure.suptitle("IMPALA on CartPole-v1 after 200 000 steps")
    save_figure(figure, output / "actor_lag.png")


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    made = results_parser(__doc__)
    made.add_argument("part", choices=("phases", "actor_lag"), help="what to measure")
    made.add_argument(
        "--seeds", nargs="+", type=int, default=list(range(10)), help="one run each, at least two (default: 0 to 9)"
    )
    made.add_argument("--draw", action="store_true", help="only draw the picture of the tables that are there")
    return made


def main(argv: list[str]) -> None:
    arguments = parser().parse_args(argv)
    if len(arguments.seeds) < 2:
        raise ValueError(f"--seeds must be at least two, for an interval, got {len(arguments.seeds)}")
    if arguments.draw:
        {"phases": draw_phases, "actor_lag": draw_actor_lag}[arguments.part](arguments.output)
    else:
        {"phases": phases, "actor_lag": actor_lag}[arguments.part](arguments.seeds, arguments.output)


if __name__ == "__main__":
    run_script(main)
