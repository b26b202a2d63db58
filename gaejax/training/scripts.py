"""What the scripts in experiments/ have in common: how a run is resumed, and what goes wrong is said in one line."""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

from gaejax.training.experiment import Run


def is_resuming(argv: list[str]) -> bool:
    """Whether a command line asks for a run to be continued."""
    return any(argument.split("=")[0] == "--resume" for argument in argv)


def resumed(argv: list[str], kind: type[Run]) -> tuple[Run, Path]:
    """The run, of this kind, and its folder of `--resume RUN [--total-steps N]`.

    Raises:
      ValueError: in one line, for other arguments beside them, and for a folder that holds no run.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--total-steps", "--total_steps", type=int)
    parsed, rest = parser.parse_known_args(argv)
    if rest:
        raise ValueError(f"a run is resumed with its own configuration: only --total-steps can be given, not {rest[0]}")
    run = kind.load(parsed.resume / "config.json")
    total_steps = parsed.total_steps or run.total_steps
    anneal_steps = run.config.anneal_steps
    if anneal_steps is not None and total_steps > anneal_steps:
        print(f"note: the learning rate stays at 0 after {anneal_steps:,.0f} steps, where the run's schedule ends")
    return dataclasses.replace(run, total_steps=total_steps), parsed.resume


def run_script(main: Callable[[list[str]], object], argv: list[str] | None = None) -> None:
    """`main` with the arguments of the shell (or `argv`): what went wrong in one line, and the exit status."""
    try:
        main(sys.argv[1:] if argv is None else argv)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted before there was anything to keep")
