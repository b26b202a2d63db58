"""Results: tables whose every line says on what machine and with what it was measured."""

import argparse
import csv
import datetime
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

COLUMNS = ("date", "commit", "versions", "machine")
"""What `write_results` adds to each line that does not have it."""


def versions() -> dict[str, str]:
    """Returns what a result depends on besides its configuration."""
    import jax

    return {
        "gaejax": metadata.version("gaejax"),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def provenance() -> dict[str, str]:
    """Returns date, commit, versions and machine, as texts: the `COLUMNS` of a table."""
    own = versions()
    device = own.pop("device")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "versions": " ".join(f"{name} {version}" for name, version in own.items()),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, {device}",
    }


def _commit() -> str:
    """The commit of this repository, marked if files differ from it; "unknown" outside of one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (" and changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_results(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes a table as CSV, with `provenance()` on each line that does not come with its own.

    Args:
      path: The file; its folder is made if it does not exist.
      rows: Lines by column; the columns of the first are those of all, except `COLUMNS`.
    """
    own = provenance()
    rows = [
        {**{name: value for name, value in row.items() if name not in COLUMNS}, **own, **_given(row)} for row in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _given(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in COLUMNS if row.get(name)}


def read_results(path: Path) -> list[dict[str, str]]:
    """Returns the lines of such a table, `[]` if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def results_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns the command line of a benchmark: its docstring as help, and `--output`, the folder of its results."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs") / "benchmarks",
        help="folder of the results (default: %(default)s); experiments/benchmarks/results renews the committed ones",
    )
    return parser
