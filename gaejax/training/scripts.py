"""What the scripts in experiments/ share: flags of the host, how a run is resumed, and errors in one line."""

import argparse
import dataclasses
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

from gaejax.training.devices import is_one_of_several, join_processes
from gaejax.training.files import check_output
from gaejax.training.run import Run
from gaejax.training.watch import OnNonfinite

AnyRun = TypeVar("AnyRun", bound=Run)


@dataclasses.dataclass
class Host:
    """How a run is run. It is not part of what is run, and may be another when the run is resumed."""

    devices: int | None = None
    """How many devices to use; default: as many as the seeds can be split over evenly."""
    row_devices: int = 1
    """Over how many of them the environments of each seed are split."""
    on_nonfinite: OnNonfinite = "stop"
    """What to do about NaN or infinite rewards, observations, losses, gradients or parameters: stop, skip (go on and
    warn; the minibatches that they are in move nothing) or ignore (the same in silence)."""
    checkpoint_every: float = 60.0
    """Seconds between checkpoints; the first is written at once."""
    distributed: bool | None = None
    """Whether this is one of several processes that train together (jax.distributed); default: if the environment of a
    launcher says so."""

    def join(self) -> None:
        """Joins the other processes, if there are any. It must come before anything that computes.

        Raises:
          ValueError: if the processes cannot find each other.
        """
        if self.distributed or (self.distributed is None and is_one_of_several()):
            join_processes()

    def keywords(self) -> dict[str, Any]:
        """Returns the arguments of `run_experiment`."""
        fields = dataclasses.asdict(self)
        del fields["distributed"]
        return fields


def host_of(argv: list[str]) -> tuple[Host, list[str]]:
    """Returns what a command line says of the host, and the rest of it."""
    import tyro

    return tyro.cli(Host, args=argv, return_unknown_args=True, add_help=False)


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
    after Ctrl-C; it is 130 after a Ctrl-C that kills. It is 1 if numbers that are not finite ended the run.
    """
    try:
        result = main(sys.argv[1:] if argv is None else argv)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        _leave(1)
    except Exception:
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        _leave(1)
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted before there was anything to keep", file=sys.stderr)
        _leave(128 + signal.SIGINT)
    else:
        if isinstance(result, dict) and result.get("interrupted_by"):
            _leave(128 + signal.Signals[result["interrupted_by"]] if was_terminated(result) else 0)
        if isinstance(result, dict) and result.get("nonfinite") and not result["finished"]:
            sys.exit(1)


def _leave(status: int) -> None:
    """Ends the process without waiting for a thread that compiles or evaluates, which cannot be stopped, or for other
    processes, which notice within `HEARTBEAT_SECONDS` and end too."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
