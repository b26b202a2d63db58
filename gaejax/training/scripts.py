"""What the scripts in experiments/ share: how a run is resumed, and errors in one line."""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gaejax.training.run import Run

AnyRun = TypeVar("AnyRun", bound=Run)


def is_resuming(argv: list[str]) -> bool:
    """Returns whether a command line asks for a run to be continued."""
    return any(argument.split("=")[0] == "--resume" for argument in argv)


def resumed(argv: list[str], kind: type[AnyRun]) -> tuple[AnyRun, Path]:
    """Returns the run, of this kind, and the folder that `--resume RUN [--total-steps N]` names.

    Raises:
      ValueError: for any other argument, and for a folder that holds no run.
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
    """Calls `main` with the arguments of the shell (or `argv`); an error becomes one line and the exit status."""
    try:
        main(sys.argv[1:] if argv is None else argv)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted before there was anything to keep")
