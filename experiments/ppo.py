"""Train PPO with GAE on a gymnax environment, several seeds at once, and leave a folder with all that came of it.

uv run experiments/ppo.py                                    # CartPole-v1, five seeds, solved in seconds
uv run experiments/ppo.py --env Pendulum-v1 --num-seeds 3 --gae-lambda 0.9
uv run experiments/ppo.py --env MemoryChain-bsuite --memory gru
uv run experiments/ppo.py --resume runs/CartPole-v1-...      # go on where it stopped
"""

import argparse
import ast
import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gaejax.algorithms import PPOConfig
from gaejax.environments import make
from gaejax.policies import PolicyOptions
from gaejax.training import Experiment, preset, run_experiment


@dataclasses.dataclass
class Arguments:
    """PPO on a gymnax environment. Defaults are those known to work for `--env`."""

    config: Annotated[PPOConfig, tyro.conf.OmitArgPrefixes]
    policy: Annotated[PolicyOptions, tyro.conf.OmitArgPrefixes]
    env: str = "CartPole-v1"
    """Environment, by its gymnax name."""
    total_steps: int = 150_000
    """Rows to collect for each seed (environment steps, with one row more for each finished episode)."""
    num_seeds: int = 5
    """Independent runs, vmapped."""
    seed: int = 0
    """Where the keys of all of them come from."""
    eval_episodes: int = 64
    """Episodes of the final evaluation of each seed."""
    output: Path | None = None
    """Folder of the results; default: runs/<env>-<time>."""
    resume: Path | None = None
    """Folder of a run to continue with its own configuration; only --total-steps may be given beside it."""
    time_limit: Literal["truncate", "terminate"] = "truncate"
    """What an environment's time limit means: the successor is real, or worth 0."""
    env_arguments: tuple[str, ...] = ()
    """Constructor arguments and params of the environment: NAME=VALUE NAME=VALUE ..."""
    anneal: bool = True
    """Whether the learning rate falls to 0 over the whole run, unless --anneal-steps says otherwise."""


def parse(argv: list[str]) -> Arguments:
    """The command line, with defaults that depend on `--env`."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--env", default="CartPole-v1")
    name = finder.parse_known_args(argv)[0].env
    known = preset(make(name))
    default = Arguments(
        config=known.config.replace(anneal_steps=None),
        env=name,
        total_steps=known.total_steps,
        time_limit=known.environment_arguments.get("time_limit", "truncate"),
        env_arguments=tuple(
            f"{key}={value}" for key, value in known.environment_arguments.items() if key != "time_limit"
        ),
        anneal=known.config.anneal_steps is not None,
        policy=PolicyOptions(**known.policy),
    )
    arguments = tyro.cli(Arguments, default=default, args=argv, description=__doc__)
    if arguments.anneal and arguments.config.anneal_steps is None:
        arguments.config = arguments.config.replace(anneal_steps=float(arguments.total_steps))
    return arguments


def environment_arguments(arguments: Arguments) -> dict:
    """What `make` is given beside the name: Python literals where the texts are such."""
    chosen = {} if arguments.time_limit == "truncate" else {"time_limit": arguments.time_limit}
    for text in arguments.env_arguments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"env_arguments must be of the form NAME=VALUE, got {text!r}")
        try:
            chosen[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            chosen[name] = value
    return chosen


def resumed(argv: list[str]) -> tuple[Path, Experiment]:
    """The folder and the experiment of `--resume RUN [--total-steps N]`."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--total-steps", "--total_steps", type=int)
    parsed, rest = parser.parse_known_args(argv)
    if rest:
        raise ValueError(f"a run is resumed with its own configuration: only --total-steps can be given, not {rest[0]}")
    experiment = Experiment.load(parsed.resume / "config.json")
    total_steps = parsed.total_steps or experiment.total_steps
    anneal_steps = experiment.config.anneal_steps
    if anneal_steps is not None and total_steps > anneal_steps:
        print(f"note: the learning rate stays at 0 after {anneal_steps:,.0f} steps, where the run's schedule ends")
    return parsed.resume, dataclasses.replace(experiment, total_steps=total_steps)


def main(argv: list[str]) -> dict:
    resuming = any(argument.split("=")[0] == "--resume" for argument in argv)
    if resuming:
        output, experiment = resumed(argv)
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
        )
        output = arguments.output or Path("runs") / f"{arguments.env}-{time.strftime('%Y%m%d-%H%M%S')}"

    summary = run_experiment(experiment, output, resume=resuming)
    result = summary["episode_return"]
    speed = summary["steps_per_second"]
    print(
        f"{summary['environment']}: return {result['mean']:.4g} ± {result['std']:.2g} over "
        f"{len(result['per_seed'])} seeds after {summary['env_steps']:,} env steps"
        + (f" at {speed:,.0f} a second" if speed else "")
        + f" ({summary['compile_seconds']:.1f} s of compiling, {summary['wall_seconds']:.1f} s in all)\n{output}"
    )
    return summary


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted before there was anything to keep")
