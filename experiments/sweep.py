"""Train an algorithm at every point of a grid of hyperparameters, several seeds each, and show which point is best.

examples:
  uv run experiments/sweep.py --sweep gae_lambda=0,0.5,0.9,0.95,1 --sweep discount=0.9,0.99 --num-seeds 8
  uv run experiments/sweep.py --env Acrobot-v1 --algorithm a2c --sweep learning_rate=1e-4,1e-3,1e-2 --plan
  uv run experiments/sweep.py --sweep num_epochs=2,4,8 --set num_envs=32 --output runs/epochs
  uv run experiments/sweep.py --env MemoryChain-bsuite --policy memory=gru --sweep gae_lambda=0.9,0.95,1

The folder of the results holds sweep.npz (all arrays; gaejax.Sweep.load reads it), sweep.csv (a line for each point)
and sweep.png (a heat-map of the first two hyperparameters, or a curve of one). The same command goes on where it was
interrupted.
"""

import argparse
import ast
from pathlib import Path
from typing import Any

from gaejax._arguments import did_you_mean
from gaejax.algorithms import ALGORITHMS
from gaejax.environments import make
from gaejax.policies import make_policy
from gaejax.training import PRESETS, Sweep, plan_sweep, plot_sweep, preset, sweep
from gaejax.training.results import write_results
from gaejax.training.scripts import run_script

LINES = 10


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    flag = made.add_argument
    flag("--env", default="CartPole-v1", help="the environment, as train.py takes it (default: %(default)s)")
    flag("--algorithm", default="ppo", metavar="|".join(ALGORITHMS), help="what to train (default: %(default)s)")
    flag(
        "--sweep",
        action="append",
        default=[],
        metavar="NAME=V1,V2,...",
        help="a hyperparameter and its values; once for each axis of the grid",
    )
    flag(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="other hyperparameters; those not named are the preset's of --env",
    )
    flag("--policy", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="options of the policy")
    flag("--options", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="arguments of the algorithm")
    flag("--total-steps", type=int, help="transitions to collect for each agent (default: the preset's)")
    flag("--num-seeds", type=int, default=8, help="agents for each point of the grid (default: %(default)s)")
    flag("--seed", type=int, default=0, help="the integer that the keys of all of them are made from")
    flag("--eval-episodes", type=int, default=32, help="episodes of each agent's evaluation (default: %(default)s)")
    flag("--chunk", type=int, help="agents to train at a time (default: as many as fit; at most 64 on a CPU)")
    flag("--output", type=Path, help="folder of the results (default: runs/sweep-<algorithm>-<env>)")
    flag("--plan", action="store_true", help="print agents, memory and time, and exit")
    return made


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the command line; a flag that does not exist is answered with the one that was probably meant."""
    own = parser()
    flags = [flag for action in own._actions for flag in action.option_strings if flag.startswith("--")]
    for argument in argv:
        name = argument.partition("=")[0]
        if name.startswith("--") and name not in flags:
            raise ValueError(f"there is no flag {name}{did_you_mean(name, flags)}")
    arguments, rest = own.parse_known_args(argv)
    if rest:
        raise ValueError(f"{rest[0]} belongs to no flag: --help shows how they are written")
    if not arguments.sweep:
        raise ValueError("--sweep must name a hyperparameter and its values, such as --sweep gae_lambda=0.9,0.95,1")
    return arguments


def value(text: str) -> Any:
    """Returns a number, True, False or None, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def assignments(flag: str, texts: list[str]) -> dict[str, str]:
    """Returns what NAME=... texts say, by name."""
    found = {}
    for text in texts:
        name, equals, given = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not given:
            raise ValueError(f"{flag} must be NAME=VALUE, got {text!r}")
        if name in found:
            raise ValueError(f"{flag} names {name} twice: give all its values at once")
        found[name] = given
    return found


def grid(texts: list[str]) -> dict[str, list[Any]]:
    """Returns the axes that --sweep names."""
    return {name: [value(part) for part in given.split(",")] for name, given in assignments("--sweep", texts).items()}


def sweep_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments that `sweep` and `plan_sweep` share."""
    if arguments.algorithm not in ALGORITHMS:
        raise ValueError(
            f"--algorithm: there is no {arguments.algorithm!r}{did_you_mean(arguments.algorithm, ALGORITHMS)}"
        )
    spec = ALGORITHMS[arguments.algorithm]
    known = PRESETS.get((arguments.algorithm, arguments.env)) or preset(make(arguments.env), arguments.algorithm)
    environment = make(arguments.env, **known.environment_arguments)
    values = lambda flag, texts: {name: value(text) for name, text in assignments(flag, texts).items()}
    chosen = {**known.policy, **values("--policy", arguments.policy)}
    policy = make_policy(environment, action_values=spec.action_values, **chosen)
    total_steps = known.total_steps if arguments.total_steps is None else arguments.total_steps
    config = (
        known.config if known.config.anneal_steps is None else known.config.replace(anneal_steps=float(total_steps))
    )
    changes = values("--set", arguments.set)
    for name in changes:
        if not hasattr(config, name):
            fields = list(vars(config))
            raise ValueError(f"--set: {type(config).__name__} has no field {name!r}{did_you_mean(name, fields)}")
    return {
        "algorithm": spec.make(environment, policy, **values("--options", arguments.options)),
        "axes": grid(arguments.sweep),
        "config": config.replace(**changes),
        "total_steps": total_steps,
        "seeds": arguments.num_seeds,
        "seed": arguments.seed,
        "eval_episodes": arguments.eval_episodes,
        "chunk": arguments.chunk,
    }


def print_best(found: Sweep) -> None:
    """Prints the best points, best first."""
    from rich.console import Console
    from rich.table import Table

    points = sorted(found.points(), key=lambda point: -point["mean"])
    title = f"{found.title}: the best {LINES} of {len(points)} points" if len(points) > LINES else found.title
    table = Table(*found.axes, "return ± std", "least to largest", title=title)
    for point in points[:LINES]:
        own = [str(point[name]) for name in found.axes]
        table.add_row(*own, f"{point['mean']:.4g} ± {point['std']:.2g}", f"{point['min']:.4g} to {point['max']:.4g}")
    Console().print(table)


def main(argv: list[str]) -> Sweep | None:
    arguments = parse(argv)
    shared = sweep_arguments(arguments)
    if arguments.plan:
        print(plan_sweep(**shared).report())
        return None
    output = arguments.output or Path("runs") / f"sweep-{arguments.algorithm}-{arguments.env}"
    file = output / "sweep.npz"
    try:
        found = sweep(**shared, output=file)
    except KeyboardInterrupt:
        if not file.exists():
            raise
        done = Sweep.load(file).finished
        kept = f"{int(done.sum()):,} of {done.size:,} agents are kept in {file}"
        raise SystemExit(f"interrupted: {kept}; the same command goes on") from None
    write_results(output / "sweep.csv", found.points())
    plot_sweep(found, output / "sweep.png")
    print_best(found)
    print(output)
    return found


if __name__ == "__main__":
    run_script(main)
