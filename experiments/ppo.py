"""Train PPO with GAE on a gymnax environment, several seeds at once, and leave a folder with all that came of it.

uv run experiments/ppo.py                                    # CartPole-v1, five seeds, solved in seconds
uv run experiments/ppo.py --env Pendulum-v1 --num-seeds 3 --gae-lambda 0.9
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
from gaejax.training import Experiment, preset, run_experiment


@dataclasses.dataclass
class Arguments:
    """PPO on a gymnax environment. Defaults are those known to work for `--env`."""

    config: Annotated[PPOConfig, tyro.conf.OmitArgPrefixes]
    env: str = "CartPole-v1"
    """Environment, by its gymnax name."""
    total_steps: int = 150_000
    """Environment steps of each seed (rounded up to whole training steps)."""
    num_seeds: int = 5
    """Independent runs, vmapped."""
    seed: int = 0
    """Where the keys of all of them come from."""
    eval_episodes: int = 64
    """Episodes of the final evaluation of each seed."""
    output: Path | None = None
    """Folder of the results; default: runs/<env>-<time>."""
    resume: Path | None = None
    """Folder of a run to continue, with its own configuration (--total-steps may extend it)."""
    time_limit: Literal["truncate", "terminate"] = "truncate"
    """What an environment's time limit means: the successor is real, or worth 0."""
    env_arguments: dict[str, str] = dataclasses.field(default_factory=dict)
    """Constructor arguments and params of the environment: NAME VALUE NAME VALUE ..."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the policy's hidden layers."""
    activation: str = "tanh"
    """tanh, relu, swish, gelu or elu."""
    shared: bool = False
    """Whether actor and critic share the hidden layers."""


def parse(argv: list[str]) -> Arguments:
    """The command line, with defaults that depend on `--env`."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--env", default="CartPole-v1")
    name = finder.parse_known_args(argv)[0].env
    known = preset(make(name))
    limit = known.environment_arguments.get("time_limit", "truncate")
    rest = {key: repr(value) for key, value in known.environment_arguments.items() if key != "time_limit"}
    default = Arguments(
        config=known.config,
        env=name,
        total_steps=known.total_steps,
        time_limit=limit,
        env_arguments=rest,
        **known.policy,
    )
    arguments = tyro.cli(Arguments, default=default, args=argv, description=__doc__)
    if arguments.config.anneal_steps == known.config.anneal_steps:  # annealed over the whole run unless told otherwise
        arguments.config = arguments.config.replace(anneal_steps=float(arguments.total_steps))
    return arguments


def literal(text: str) -> object:
    """A Python literal where it is one, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main(argv: list[str]) -> dict:
    arguments = parse(argv)
    if arguments.resume:
        experiment = Experiment.load(arguments.resume / "config.json")
        if any(argument.startswith("--total-steps") for argument in argv):
            experiment = dataclasses.replace(experiment, total_steps=arguments.total_steps)
        output = arguments.resume
    else:
        environment_arguments = {name: literal(value) for name, value in arguments.env_arguments.items()}
        if arguments.time_limit != "truncate":
            environment_arguments["time_limit"] = arguments.time_limit
        experiment = Experiment(
            environment=arguments.env,
            config=arguments.config,
            total_steps=arguments.total_steps,
            num_seeds=arguments.num_seeds,
            seed=arguments.seed,
            eval_episodes=arguments.eval_episodes,
            environment_arguments=environment_arguments,
            policy={
                "hidden_sizes": arguments.hidden_sizes,
                "activation": arguments.activation,
                "shared": arguments.shared,
            },
        )
        output = arguments.output or Path("runs") / f"{arguments.env}-{time.strftime('%Y%m%d-%H%M%S')}"

    summary = run_experiment(experiment, output, resume=arguments.resume is not None)
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
