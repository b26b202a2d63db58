"""Train an agent in an environment, several seeds at once, and leave a folder with the results.

examples:
  uv run experiments/train.py                                   # PPO on CartPole-v1, five seeds, solved in seconds
  uv run experiments/train.py --algorithm trpo --env Acrobot-v1
  uv run experiments/train.py --env Pendulum-v1 --num-seeds 3 --gae-lambda 0.9 --options objective=adaptive_kl
  uv run experiments/train.py --env MemoryChain-bsuite --memory gru --explain
  uv run experiments/train.py --env my_package.my_module:make   # an environment of your own
  uv run experiments/train.py --num-seeds 64 --plan              # memory and time of a run that is not started
  uv run experiments/train.py --resume runs/CartPole-v1-...     # continue a run
  uv run experiments/train.py --output runs/one --resume-if-there   # start it, or continue it: for schedulers
"""

import argparse
import ast
import dataclasses
import difflib
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import jax
import tyro

from gaejax._arguments import OTHER_NAMES
from gaejax.algorithms import ALGORITHMS
from gaejax.environments import environment_names, make
from gaejax.policies import PolicyOptions
from gaejax.training import PRESETS, Experiment, Profiler, TensorBoard, plan, preset, run_experiment
from gaejax.training.devices import is_first
from gaejax.training.scripts import Host, host_of, is_resuming, resumed, run_script

Config = TypeVar("Config")

OBSERVERS = {"--tensorboard": TensorBoard, "--profile": Profiler}
"""Flags that may be given beside --resume, and what they add."""

FLAG_NAMES = OTHER_NAMES | {
    "timesteps": "total_steps",
    "total_timesteps": "total_steps",
    "env_id": "env",
    "env_name": "env",
    "seeds": "num_seeds",
    "algo": "algorithm",
}
"""What other frameworks call our flags."""


@dataclasses.dataclass
class Arguments(Generic[Config]):
    """Trains an algorithm. Defaults are settings known to work for `--algorithm` and `--env`."""

    config: Annotated[Config, tyro.conf.OmitArgPrefixes]
    policy: Annotated[PolicyOptions, tyro.conf.OmitArgPrefixes]
    host: Annotated[Host, tyro.conf.OmitArgPrefixes] = dataclasses.field(default_factory=Host)
    algorithm: Annotated[str, tyro.conf.arg(metavar="|".join(ALGORITHMS))] = "ppo"
    """What to train; its hyperparameters are flags too (see `--algorithm NAME --help`)."""
    env: str = "CartPole-v1"
    """The environment: a name (see --list-envs), or MODULE:FUNCTION or FILE.py:FUNCTION, where the function returns a
    gaejax.Environment."""
    options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=VALUE ...]")] = ()
    """Arguments of the algorithm. ppo: objective=clip, clip_higher, kl, adaptive_kl, dpo or unclipped; reinforce:
    baseline=value, time or none; all: estimator=gae, vtrace, upgo, ..."""
    schedules: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=VALUE ...]")] = ()
    """How hyperparameters change over the run: NAME=linear or NAME=cosine (both to 0), or NAME=constant."""
    warm_start: Path | None = None
    """Folder of a run, of any algorithm, whose policies the seeds start from."""
    total_steps: int = 150_000
    """Transitions to collect for each seed: environment steps, and one more for each finished episode."""
    num_seeds: int = 5
    """Independent trainings, vmapped."""
    seed: int = 0
    """The integer that the keys of all of them are made from."""
    eval_episodes: int = 64
    """Episodes of the final evaluation of each seed."""
    output: Path | None = None
    """Folder of the results; default: runs/<env>-<time>, with the algorithm's name in front if it is not ppo."""
    resume: Path | None = None
    """Folder of a run to continue with its own configuration; only --total-steps, --tensorboard, --profile and the
    flags of how it is run (--devices to --distributed) may be given beside it."""
    resume_if_there: tyro.conf.FlagCreatePairsOff[bool] = False
    """Continue the run in --output if it is there, and start it otherwise: a command that can be repeated."""
    time_limit: Literal["truncate", "terminate"] = "truncate"
    """Whether the environment's time limit cuts an episode, whose last state keeps its value, or ends it, at value 0.
    """
    env_arguments: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=VALUE ...]")] = ()
    """Constructor arguments and params of the environment."""
    anneal: bool = True
    """Whether the learning rate falls to 0 over the whole run, unless --anneal-steps says otherwise."""
    tensorboard: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write for TensorBoard too, into the run's folder (uv run --extra tensorboard ...)."""
    profile: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write a trace of a few calls for XProf into the run's folder (profile/)."""
    plan: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what the run needs of its device (memory, time, how many seeds would fit) and exit."""
    topology: str | None = None
    """With --plan: TPUs that need not be here, such as v5e:2x2; needs libtpu."""
    list_envs: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the names of the environments and exit."""


def parse(argv: list[str]) -> Arguments:
    """Returns the command line, with defaults that depend on `--algorithm` and `--env`."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--env", default="CartPole-v1")
    finder.add_argument("--algorithm", default="ppo")
    found = finder.parse_known_args(argv)[0]
    # What is known by name needs no environment yet: importing one takes seconds, which --help need not wait for.
    known = PRESETS.get((found.algorithm, found.env)) or preset(make(found.env), found.algorithm)
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
    check_names(argv, default)
    kind = Arguments[ALGORITHMS[found.algorithm].config]
    arguments = tyro.cli(kind, default=default, args=argv, description=__doc__)
    if arguments.anneal and arguments.config.anneal_steps is None:
        arguments.config = arguments.config.replace(anneal_steps=float(arguments.total_steps))
    return arguments


def check_names(argv: list[str], default: Arguments) -> None:
    """Raises ValueError for a flag that does not exist, with the one that was probably meant."""
    parts = (default, default.config, default.policy, default.host)
    fields = {field.name for part in parts for field in dataclasses.fields(part)} - {"config", "policy", "host"}
    for argument in argv:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        if not argument.startswith("--") or name in fields | {"help", ""} or name.removeprefix("no_") in fields:
            continue
        flags = [f"--{near.replace('_', '-')}" for near in near_names(name, fields)]
        hint = f"did you mean {' or '.join(flags)}?" if flags else "--help lists the flags"
        raise ValueError(f"there is no flag {argument.partition('=')[0]} with --algorithm {default.algorithm}: {hint}")


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Returns the names, if any, that `name` was probably meant to be."""
    names = sorted(names)
    if FLAG_NAMES.get(name) in names:
        return [FLAG_NAMES[name]]
    return difflib.get_close_matches(name, names, n=2, cutoff=0.6)


def assignments(name: str, texts: tuple[str, ...]) -> dict[str, Any]:
    """Returns NAME=VALUE texts as a dict. A value that is not a Python literal stays a text."""
    chosen = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{name} must be of the form NAME=VALUE, got {text!r}")
        try:
            chosen[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            chosen[key] = value
    return chosen


def environment_arguments(arguments: Arguments) -> dict[str, Any]:
    """Returns what `make` is given beside the name."""
    chosen = {} if arguments.time_limit == "truncate" else {"time_limit": arguments.time_limit}
    return chosen | assignments("env_arguments", arguments.env_arguments)


def algorithm_options(arguments: Arguments) -> dict[str, Any]:
    """Returns what the algorithm is given beside environment and policy."""
    chosen = assignments("options", arguments.options)
    schedules = assignments("schedules", arguments.schedules)
    fields = [field.name for field in dataclasses.fields(arguments.config)]
    for name in schedules:
        if name not in fields and near_names(name, fields):
            hint = f"did you mean {' or '.join(near_names(name, fields))}?"
            raise ValueError(f"schedules: {type(arguments.config).__name__} has no field {name!r}: {hint}")
    return chosen | ({"schedules": schedules} if schedules else {})


def default_output(algorithm: str, env: str) -> Path:
    """Returns runs/<env>-<time>; an environment of your own is called by its module or file and function."""
    name = "-".join(re.findall(r"[\w.-]+", env.rpartition("/")[2]))
    prefix = "" if algorithm == "ppo" else f"{algorithm}-"
    return Path("runs") / f"{prefix}{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def described(arguments: Arguments) -> Experiment:
    """Returns the run that a command line describes."""
    return Experiment(
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


def main(argv: list[str]) -> dict[str, Any]:
    if "--list-envs" in argv or "--list_envs" in argv:
        print("\n".join(environment_names()))
        return {}
    host, rest = host_of(argv)
    host.join()
    resume = is_resuming(argv)
    if resume:
        experiment, output = resumed([argument for argument in rest if argument not in OBSERVERS], Experiment)
    else:
        arguments = parse(argv)
        experiment = described(arguments)
        if arguments.topology and not arguments.plan:
            raise ValueError("--topology is for planning: add --plan")
        if arguments.plan:
            devices = {"devices": host.devices, "row_devices": host.row_devices}
            print(plan(experiment, topology=arguments.topology, **devices).report())
            return {}
        if arguments.output is None and jax.process_count() > 1:
            raise ValueError("output must be given where several processes train together: add --output RUN")
        output = arguments.output or default_output(arguments.algorithm, arguments.env)
        resume = "if_there" if arguments.resume_if_there else False
        if resume and arguments.output is None:
            raise ValueError("resume_if_there needs the folder of the run: add --output RUN")

    observers = [make() for flag, make in OBSERVERS.items() if flag in argv]
    summary = run_experiment(experiment, output, resume=resume, observers=observers, **host.keywords())
    if is_first():
        print_summary(summary, output)
    return summary


def print_summary(summary: dict[str, Any], output: Path) -> None:
    """Prints what a run came to."""
    speed = summary["steps_per_second"]
    print(
        f"{summary['environment']}: {returns(summary)} after {summary['total_env_steps']:,} env steps"
        + (f" at {speed:,.0f} a second" if speed else "")
        + f" ({summary['compile_seconds']:.1f} s of compiling, {summary['wall_seconds']:.1f} s in all)"
    )
    for name, metric in summary.get("metrics", {}).items():
        print(f"{name}: {metric['mean']:.4g} at the end of an episode")
    if "explain" in summary:
        print_report(summary["explain"])
    print(output)


def returns(summary: dict[str, Any]) -> str:
    """Returns what the final evaluation came to, in words."""
    if "episode_return" not in summary:
        return "not evaluated"
    result = summary["episode_return"]
    seeds = len(result["per_seed"])
    return f"return {result['mean']:.4g}" + (
        f" ± {result['std']:.2g} over {seeds} seeds" if seeds > 1 else " with one seed"
    )


def print_report(report: list[dict[str, Any]]) -> None:
    """Prints the diagnostics of a run with `--explain`, beside their healthy ranges."""
    from rich.console import Console
    from rich.table import Table

    table = Table("diagnostic", "value", "healthy", "verdict")
    for row in report:
        low, high = row["healthy"]
        table.add_row(row["name"], f"{row['value']:.3g}", f"{low:g} to {high:g}", row["verdict"])
    Console().print(table)


if __name__ == "__main__":
    run_script(main)
