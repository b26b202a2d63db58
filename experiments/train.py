"""Train on a gymnax environment, several seeds at once, and leave a folder with all that came of it.

uv run experiments/train.py                                    # PPO on CartPole-v1, five seeds, solved in seconds
uv run experiments/train.py --algorithm trpo --env Acrobot-v1
uv run experiments/train.py --env Pendulum-v1 --num-seeds 3 --gae-lambda 0.9 --options objective=adaptive_kl
uv run experiments/train.py --env MemoryChain-bsuite --memory gru --explain
uv run experiments/train.py --resume runs/CartPole-v1-...      # go on where it stopped
"""

import argparse
import ast
import dataclasses
import time
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import tyro

from gaejax.algorithms import ALGORITHMS
from gaejax.environments import make
from gaejax.policies import PolicyOptions
from gaejax.training import Experiment, preset, run_experiment
from gaejax.training.scripts import is_resuming, resumed, run_script

Config = TypeVar("Config")


@dataclasses.dataclass
class Arguments(Generic[Config]):
    """An algorithm on a gymnax environment. Defaults are those known to work for `--algorithm` and `--env`."""

    config: Annotated[Config, tyro.conf.OmitArgPrefixes]
    policy: Annotated[PolicyOptions, tyro.conf.OmitArgPrefixes]
    algorithm: Literal["reinforce", "a2c", "ppo", "trpo", "pqn"] = "ppo"
    """What trains; its hyperparameters are flags too (see `--algorithm NAME --help`)."""
    env: str = "CartPole-v1"
    """Environment, by its gymnax name."""
    options: tuple[str, ...] = ()
    """Arguments of the algorithm that are names: NAME=VALUE ..., of ppo objective=clip, clip_higher, kl, adaptive_kl,
    dpo or unclipped; of reinforce baseline=value, time or none; of all estimator=gae, vtrace, upgo, ..."""
    schedules: tuple[str, ...] = ()
    """How a hyperparameter changes over the run: NAME=linear, cosine (both to 0) or constant ..."""
    warm_start: Path | None = None
    """Folder of a run, of any algorithm, whose policies the seeds start from."""
    total_steps: int = 150_000
    """Rows to collect for each seed (environment steps, with one row more for each finished episode)."""
    num_seeds: int = 5
    """Independent runs, vmapped."""
    seed: int = 0
    """Where the keys of all of them come from."""
    eval_episodes: int = 64
    """Episodes of the final evaluation of each seed."""
    output: Path | None = None
    """Folder of the results; default: runs/<env>-<time>, with the algorithm's name before it if that is not ppo."""
    resume: Path | None = None
    """Folder of a run to continue with its own configuration; only --total-steps may be given beside it."""
    time_limit: Literal["truncate", "terminate"] = "truncate"
    """What an environment's time limit means: the successor is real, or worth 0."""
    env_arguments: tuple[str, ...] = ()
    """Constructor arguments and params of the environment: NAME=VALUE NAME=VALUE ..."""
    anneal: bool = True
    """Whether the learning rate falls to 0 over the whole run, unless --anneal-steps says otherwise."""


def parse(argv: list[str]) -> Arguments:
    """The command line, with defaults that depend on `--algorithm` and `--env`."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--env", default="CartPole-v1")
    finder.add_argument("--algorithm", default="ppo")
    found = finder.parse_known_args(argv)[0]
    known = preset(make(found.env), found.algorithm)
    default = Arguments(
        config=known.config.replace(anneal_steps=None),
        algorithm=found.algorithm,
        env=found.env,
        total_steps=known.total_steps,
        time_limit=known.environment_arguments.get("time_limit", "truncate"),
        env_arguments=tuple(
            f"{key}={value}" for key, value in known.environment_arguments.items() if key != "time_limit"
        ),
        anneal=known.config.anneal_steps is not None,
        policy=PolicyOptions(**known.policy),
    )
    kind = Arguments[ALGORITHMS[found.algorithm].config]
    arguments = tyro.cli(kind, default=default, args=argv, description=__doc__)
    if arguments.anneal and arguments.config.anneal_steps is None:
        arguments.config = arguments.config.replace(anneal_steps=float(arguments.total_steps))
    return arguments


def assignments(name: str, texts: tuple[str, ...]) -> dict:
    """NAME=VALUE texts as a dict, the values Python literals where they are such."""
    chosen = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{name} must be of the form NAME=VALUE, got {text!r}")
        try:
            chosen[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            chosen[key] = value
    return chosen


def environment_arguments(arguments: Arguments) -> dict:
    """What `make` is given beside the name."""
    chosen = {} if arguments.time_limit == "truncate" else {"time_limit": arguments.time_limit}
    return chosen | assignments("env_arguments", arguments.env_arguments)


def algorithm_options(arguments: Arguments) -> dict:
    """What the algorithm is given beside environment and policy."""
    chosen = assignments("options", arguments.options)
    schedules = assignments("schedules", arguments.schedules)
    return chosen | ({"schedules": schedules} if schedules else {})


def main(argv: list[str]) -> dict:
    resuming = is_resuming(argv)
    if resuming:
        experiment, output = resumed(argv, Experiment)
    else:
        arguments = parse(argv)
        experiment = Experiment(
            environment=arguments.env,
            config=arguments.config,
            total_steps=arguments.total_steps,
            num_seeds=arguments.num_seeds,
            seed=arguments.seed,
            eval_episodes=arguments.eval_episodes,
            environment_arguments=environment_arguments(arguments),
            policy=dataclasses.asdict(arguments.policy),
            algorithm=arguments.algorithm,
            options=algorithm_options(arguments),
            warm_start=arguments.warm_start and str(arguments.warm_start),
        )
        prefix = "" if arguments.algorithm == "ppo" else f"{arguments.algorithm}-"
        output = arguments.output or Path("runs") / f"{prefix}{arguments.env}-{time.strftime('%Y%m%d-%H%M%S')}"

    summary = run_experiment(experiment, output, resume=resuming)
    result = summary["episode_return"]
    speed = summary["steps_per_second"]
    print(
        f"{summary['environment']}: return {result['mean']:.4g} ± {result['std']:.2g} over "
        f"{len(result['per_seed'])} seeds after {summary['env_steps']:,} env steps"
        + (f" at {speed:,.0f} a second" if speed else "")
        + f" ({summary['compile_seconds']:.1f} s of compiling, {summary['wall_seconds']:.1f} s in all)\n{output}"
    )
    if "explain" in summary:
        print_report(summary["explain"])
    return summary


def print_report(report: list[dict]) -> None:
    """The diagnostics of a run with `--explain`, beside their healthy ranges."""
    from rich.console import Console
    from rich.table import Table

    table = Table("diagnostic", "value", "healthy", "verdict")
    for row in report:
        low, high = row["healthy"]
        table.add_row(row["name"], f"{row['value']:.3g}", f"{low:g} to {high:g}", row["verdict"])
    Console().print(table)


if __name__ == "__main__":
    run_script(main)
