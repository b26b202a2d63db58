"""Metrics: the infos of training steps as lines of `metrics.csv`, and what is read from them."""

import csv
import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gaejax._arguments import short
from gaejax.algorithms import HEALTHY, TrainingInfo

EPISODE_MEANS = ("episode_return", "episode_length")


def flat(info: TrainingInfo) -> dict[str, Any]:
    """Returns the entries of an info by name, extras included, without those that the algorithm does not have, and
    without the counts of what is not finite."""
    entries = info._asdict()
    extra, _ = entries.pop("extra"), entries.pop("nonfinite")
    return {name: value for name, value in (entries | extra).items() if value is not None}


class Counters:
    """What a run has taken so far.

    Attributes:
      updates: Training steps, those before a resumption included.
      env_steps: Environment steps of each seed `[S]`, those before a resumption included.
      new_env_steps: Environment steps of all seeds since the start or the resumption.
      episode_return: The mean over the episodes that ended in the last call in which one did; NaN before.
      logged: Training steps up to the last whole row.
      row_return: The `episode_return` in that row, as a mean over seeds.
    """

    def __init__(self, updates: int, env_steps: np.ndarray, logged: int = 0, row_return: float = float("nan")):
        self.updates, self.env_steps, self.logged, self.row_return = updates, env_steps, logged, row_return
        self.new_env_steps, self.episode_return = 0, float("nan")

    def add(self, infos: dict[str, np.ndarray]) -> None:
        """Counts the infos `[updates, S]` of one call."""
        self.updates += len(infos["env_steps"])
        self.env_steps = self.env_steps + infos["env_steps"].sum(axis=0)
        self.new_env_steps += int(infos["env_steps"].sum())
        mean = float(_mean_over_episodes(infos["episode_return"].ravel(), infos["episodes"].ravel()))
        self.episode_return = self.episode_return if not infos["episodes"].any() else mean


class Aggregate:
    """The infos since the last line of `metrics.csv`, as sums, and their means.

    The sums are made in float64 and one training step after the other, so that it does not matter how many came in one
    call: a run that is resumed within a line writes the same one.

    Args:
      by_episode: Names of the entries that are means over the episodes that ended in a training step, and are weighted
        by these. Every other entry but the counts is averaged over training steps.
      pending: What `as_fields` returned, to go on from there.
    """

    def __init__(self, by_episode: Collection[str], pending: Mapping[str, Any] | None = None):
        self.by_episode, self.count = frozenset(by_episode), 0
        self.sums: dict[str, np.ndarray] = {}
        self.dtypes: dict[str, np.dtype] = {}
        if pending:
            self.count = pending["count"]
            self.sums = {name: np.array(sums, np.float64) for name, sums in pending["sums"].items()}
            self.dtypes = {name: np.dtype(dtype) for name, dtype in pending["dtypes"].items()}

    def as_fields(self) -> dict[str, Any]:
        """Returns the sums as values that JSON has."""
        return {
            "count": self.count,
            "sums": {name: sums.tolist() for name, sums in self.sums.items()},
            "dtypes": {name: str(dtype) for name, dtype in self.dtypes.items()},
        }

    def add(self, infos: dict[str, np.ndarray]) -> None:
        """Takes in the infos `[updates, S]` of one call."""
        episodes = infos["episodes"]
        self.count += len(episodes)
        for name, values in infos.items():
            if name in self.by_episode:
                values = np.where(episodes > 0, values * episodes, 0.0)
            self.dtypes[name] = infos[name].dtype
            before = self.sums.get(name, np.zeros(values.shape[1:]))
            # Unlike a sum, a cumulative one has an order.
            self.sums[name] = np.concatenate([before[None], values]).cumsum(axis=0)[-1]

    def take(self) -> dict[str, np.ndarray]:
        """Returns the mean of each entry `[S]` (of `episodes` the sum) and starts anew; `{}` if nothing was added.

        A mean over episodes is NaN for a seed in which none ended.
        """
        columns = {name: self._column(name, sums) for name, sums in self.sums.items() if name != "env_steps"}
        self.count, self.sums, self.dtypes = 0, {}, {}
        return columns

    def _column(self, name: str, sums: np.ndarray) -> np.ndarray:
        if name == "episodes":
            return sums.astype(np.int64)
        if name in self.by_episode:
            return _quotient(sums, self.sums["episodes"])
        means = sums / self.count
        return means.astype(self.dtypes[name]) if np.issubdtype(self.dtypes[name], np.floating) else means


def _mean_over_episodes(means: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """The mean over episodes from means `[updates, ...]` over `episodes` episodes each; NaN if there was none."""
    return _quotient(np.where(episodes > 0, means * episodes, 0.0).sum(axis=0), np.asarray(episodes.sum(axis=0)))


def _quotient(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sums by counts; NaN where there was nothing to count."""
    return np.divide(sums, counts, where=counts > 0, out=np.full(np.shape(sums), np.nan))


def read_metrics(path: Path | str, until: int | None = None) -> list[dict[str, float]]:
    """Returns the lines of a `metrics.csv`, in order: numbers by column. What a kill left half written at the end, a
    line or the lines of some seeds only, is left out.

    Args:
      path: The file.
      until: The update whose lines are the last to be read; a crash may have damaged those after it. Default: all.

    Raises:
      ValueError: if there is no such file, or it is damaged; one line with the path, the line and the column.
    """
    names, lines = _table(path)
    rows = []
    for at, line in enumerate(lines, start=2):
        try:
            row = _numbers(f"{path} is damaged: line {at}", names, line)
        except ValueError:
            if rows and rows[-1]["update"] == until:
                break
            raise
        if until is not None and row["update"] > until:
            break
        rows.append(row)
    num_seeds = 1 + int(max((row["seed"] for row in rows), default=0))
    last = [row for row in rows if row["update"] == rows[-1]["update"]]
    rows = rows[: -len(last)] if until is None and len(last) < num_seeds else rows
    _check_order(path, rows)
    return rows


def _table(path: Path | str) -> tuple[list[str], list[list[str]]]:
    """Returns the columns' names and the other lines that are whole; raises ValueError, with the path, if the file is
    missing or no table of metrics."""
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    try:
        text = Path(path).read_bytes().decode()
        lines = list(csv.reader(text.splitlines()))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: it is no table ({error}); restore it from a copy") from None
    if not text.endswith("\n"):
        lines = lines[:-1]
    if not lines:
        return [], []
    for needed in ("seed", "update", "env_steps"):
        if needed not in lines[0]:
            raise ValueError(f"{path} is damaged: its first line names no column {needed}; restore it from a copy")
    return lines[0], lines[1:]


def _check_order(path: Path | str, rows: list[dict[str, float]]) -> None:
    """Raises ValueError unless every seed has lines of the same updates, in order."""
    by_seed: dict[float, list[dict[str, float]]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(row)
    first = next(iter(by_seed.values()), [])
    for seed, own in by_seed.items():
        updates = [row["update"] for row in own]
        if updates != [row["update"] for row in first] or updates != sorted(set(updates)):
            what = "the updates of the others, in order: lines were removed, repeated or edited"
            raise ValueError(f"{path} is damaged: the lines of seed {seed:.0f} do not have {what}")
        if any(later["env_steps"] < earlier["env_steps"] for earlier, later in itertools.pairwise(own)):
            raise ValueError(f"{path} is damaged: env_steps of seed {seed:.0f} must not fall; restore it from a copy")


def _numbers(where: str, names: list[str], line: list[str]) -> dict[str, float]:
    """Returns a line as numbers by column; raises ValueError, beginning with `where`, if it is damaged."""
    if len(line) != len(names):
        raise ValueError(f"{where} has {len(line)} columns of {len(names)}; remove it, or restore the file from a copy")
    row = {}
    for name, value in zip(names, line, strict=True):
        try:
            row[name] = float(value)
        except ValueError:
            raise ValueError(f"{where}: {name} must be a number, got {short(value)}") from None
        if name in ("seed", "update", "env_steps") and not (row[name] >= 0 and row[name].is_integer()):
            raise ValueError(f"{where}: {name} must be a whole number of at least 0, got {short(value)}")
    return row


def env_steps_at(path: Path, update: int, num_seeds: int) -> np.ndarray:
    """Returns the environment steps of each seed `[S]`, from the lines of an update in a `metrics.csv`; 0 before the
    first one.

    Raises:
      ValueError: if the file is not there or damaged, or has no such lines.
    """
    if update == 0:
        return np.zeros(num_seeds, np.int64)
    rows = [row for row in read_metrics(path, update) if row["update"] == update] if path.is_file() else []
    if [row["seed"] for row in rows] != list(range(num_seeds)):
        wanted = f"a line for each of {num_seeds} seeds at update {update}, where the checkpoint is"
        raise ValueError(f"{path} has no lines up to update {update}: it needs {wanted}; the run cannot go on")
    return np.array([int(row["env_steps"]) for row in rows], np.int64)


NEARLY_CONSTANT = 0.05
"""The spread of the value targets, relative to their size, below which a critic is not judged by it."""
RELATIVE_TO_SPREAD = ("explained_variance", "limit_bias")
"""Diagnostics that are measured in units of that spread."""


def explain_report(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Returns the diagnostics of a run with `explain`: means over the last fifth of its updates, and verdicts.

    Where the value targets are nearly constant (`target_spread`, their standard deviation relative to their root mean
    square, is below `NEARLY_CONSTANT`), as in a solved CartPole, there is nothing for a critic to explain: what is
    measured in units of that spread is not judged.

    Args:
      rows: The lines of `metrics.csv`.

    Returns:
      For each diagnostic that the run has: its `name`, `value`, `healthy` range, and `verdict`.
    """
    last = max((row["update"] for row in rows), default=0)
    late = [row for row in rows if row["update"] > 0.8 * last]
    spread = _finite_mean(late, "target_spread")
    report = []
    for name, healthy in HEALTHY.items():
        value = _finite_mean(late, name)
        if np.isnan(value):
            continue
        verdict = healthy.below if value < healthy.least else healthy.above if value > healthy.most else "healthy"
        if verdict != "healthy" and name in RELATIVE_TO_SPREAD and spread < NEARLY_CONSTANT:
            verdict = f"not judged: the value targets are nearly constant (their spread is {spread:.2g} of their size)"
        report.append({"name": name, "value": value, "healthy": [healthy.least, healthy.most], "verdict": verdict})
    return report


def _finite_mean(rows: list[dict[str, float]], name: str) -> float:
    """The mean of a column where it is a number, NaN if it nowhere is."""
    values = np.array([row[name] for row in rows if name in row and not np.isnan(row[name])])
    return float(values.mean()) if values.size else float("nan")
