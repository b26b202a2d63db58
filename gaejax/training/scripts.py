"""What the scripts in experiments/ share: how a run is resumed, and errors in one line."""

import argparse
import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gaejax.training.files import check_output
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
    run = kind.load(check_output(parsed.resume) / "config.json")
    total_steps = parsed.total_steps or run.total_steps
    anneal_steps = run.config.anneal_steps
    if anneal_steps is not None and total_steps > anneal_steps:
        print(f"note: the learning rate stays at 0 after {anneal_steps:,.0f} steps, where the run's schedule ends")
    return dataclasses.replace(run, total_steps=total_steps), parsed.resume


def was_terminated(summary: dict[str, Any]) -> bool:
    """Returns whether SIGTERM or SIGHUP ended the run: there may be no time for anything else."""
    return summary.get("interrupted_by") not in (None, "SIGINT")


def run_script(main: Callable[[list[str]], object], argv: list[str] | None = None) -> None:
    """Calls `main` with the arguments of the shell (or `argv`); an error becomes one line and the exit status.

    If `main` returns the summary of a run that a signal ended, the status is 143 after SIGTERM, 129 after SIGHUP and 0
    after Ctrl-C; it is 130 after a Ctrl-C that kills.
    """
    try:
        result = main(sys.argv[1:] if argv is None else argv)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted before there was anything to keep", file=sys.stderr)
        _leave(128 + signal.SIGINT)
    else:
        if isinstance(result, dict) and result.get("interrupted_by"):
            _leave(128 + signal.Signals[result["interrupted_by"]] if was_terminated(result) else 0)


def _leave(status: int) -> None:
    """Ends the process without waiting for a thread that compiles or evaluates, which cannot be stopped."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
