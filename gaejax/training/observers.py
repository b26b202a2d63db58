"""Observers: what watches a run without being able to disturb it.

A logger of your own is a class with the methods it needs, and an object of it goes into a list:

    class PrintReturns(gaejax.training.Observer):
        def on_row(self, row):
            print(row.update, row.values["episode_return"].mean())

    gaejax.run_experiment(experiment, "runs/mine", observers=[PrintReturns()])

What an observer is told is complete: a row when it has been added up, a checkpoint when it is whole on disk, the
summary when it is written. The arrays are read-only copies on the host. An exception is reported once for each
observer, in one line on stderr, and the run goes on.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from gaejax.training.plots import plot_learning_curve
from gaejax.training.run import Run


class Start(NamedTuple):
    """What is known when a run starts or is resumed.

    Attributes:
      experiment: The run.
      output: Its folder, with `config.json` in it.
      total_updates: Training steps of the whole run.
      updates: Training steps that were taken before; 0 unless the run is resumed.
      env_steps: Environment steps of each seed `[S]` in these.
    """

    experiment: Run
    output: Path
    total_updates: int
    updates: int
    env_steps: np.ndarray


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
      updates: Training steps taken.
      env_steps: Environment steps of each seed `[S]`.
      env_steps_per_second: Of all seeds together, since the start or the resumption, compilation not counted.
      episode_return: Mean return of the episodes that ended last, over all seeds; NaN if none has ended.
    """

    updates: int
    env_steps: np.ndarray
    env_steps_per_second: float
    episode_return: float


class Row(NamedTuple):
    """What is logged every hundredth of a run: a line of `metrics.csv` for each seed.

    Attributes:
      update: Training steps taken.
      env_steps: Environment steps of each seed `[S]`.
      values: By name, the means of each seed `[S]` since the last row: over episodes for `episode_return`,
        `episode_length` and the environment's metrics (NaN if none ended), over training steps for the rest. `episodes`
        is their number.
    """

    update: int
    env_steps: np.ndarray
    values: Mapping[str, np.ndarray]


class Checkpoint(NamedTuple):
    """A checkpoint that has been written: `folder`, for `gaejax.load_checkpoint`, as of `update` training steps."""

    update: int
    folder: Path


class Observer(Protocol):
    """Watches a run. Every method is optional; those here do nothing."""

    def on_start(self, start: Start) -> None:
        """Is called before the first training step is compiled."""

    def on_progress(self, progress: Progress) -> None:
        """Is called after each compiled call, about twice a second."""

    def on_row(self, row: Row) -> None:
        """Is called after each hundredth of the run, and after an interruption for what came since the last row."""

    def on_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Is called after each checkpoint."""

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        """Is called last, with what `summary.json` holds, or with None if an exception ends the run."""


METHODS = ("on_start", "on_progress", "on_row", "on_checkpoint", "on_end")


class Observers:
    """Tells several observers what happens, in order: the default ones, then the user's. What they raise is reported.

    Raises:
      ValueError: if one of them has none of an observer's methods.
    """

    def __init__(self, default: Sequence[Observer], observers: Sequence[Any] = ()):
        if not isinstance(observers, Sequence):
            raise ValueError(f"observers must be a list, got {observers!r}")
        for observer in observers:
            if isinstance(observer, type) or not any(callable(getattr(observer, method, None)) for method in METHODS):
                methods = ", ".join(METHODS)
                raise ValueError(f"observers must be objects with some of the methods {methods}, got {observer!r}")
        self.observers, self.reported = [*default, *observers], set()

    def tell(self, method: str, *arguments: Any) -> None:
        """Calls a method of those that have it."""
        for index, observer in enumerate(self.observers):
            function = getattr(observer, method, None)
            if function is None:
                continue
            try:
                function(*arguments)
            except Exception as error:
                if index not in self.reported:
                    self.reported.add(index)
                    message = " ".join(f"{type(error).__name__}: {error}".split())
                    where = f"observer {type(observer).__name__} failed in {method}"
                    print(f"warning: {where}, the run goes on: {message}", file=sys.stderr)


def read_only(array: np.ndarray) -> np.ndarray:
    """Returns a copy that cannot be written to."""
    array = np.array(array)
    array.flags.writeable = False
    return array


class CsvWriter(Observer):
    """Writes `metrics.csv`: a line for each seed and row. When a run is resumed, lines after its checkpoint go."""

    def on_start(self, start: Start) -> None:
        self.path, self.has_header = start.output / "metrics.csv", False
        kept = []
        if start.updates:
            header, *lines = self.path.read_text().splitlines(keepends=True)
            kept = [header, *(line for line in lines if int(line.split(",")[1]) <= start.updates)]
            self.has_header = True
        self.path.write_text("".join(kept))

    def on_row(self, row: Row) -> None:
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if not self.has_header:
                writer.writerow(["seed", "update", "env_steps", *row.values])
                self.has_header = True
            for seed, env_steps in enumerate(row.env_steps):
                writer.writerow([seed, row.update, env_steps, *(values[seed] for values in row.values.values())])


class LearningCurve(Observer):
    """Draws `curve.png` from `metrics.csv` at the end of a run."""

    def on_start(self, start: Start) -> None:
        self.experiment, self.output = start.experiment, start.output

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        if summary is not None:
            metrics, picture = self.output / "metrics.csv", self.output / "curve.png"
            plot_learning_curve(metrics, picture, self.experiment.title, self.experiment.curves)


class ProgressBar(Observer):
    """Shows how far a run is, the time left, environment steps per second and the current return."""

    def on_start(self, start: Start) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("updates  ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}  return {task.fields[episode_return]}"),
        )
        self.bar = Progress(*columns)
        self.task = self.bar.add_task(
            "", total=start.total_updates, completed=start.updates, speed="compiling", episode_return="-"
        )
        self.bar.start()

    def on_progress(self, progress: Progress) -> None:
        mean = progress.episode_return
        self.bar.update(
            self.task,
            completed=progress.updates,
            speed=f"{progress.env_steps_per_second:,.0f} env steps/s",
            episode_return="-" if np.isnan(mean) else f"{mean:.4g}",
        )

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        self.bar.stop()


class TensorBoard(Observer):
    """Writes each row for TensorBoard: a run for each seed, against its environment steps.

    Args:
      folder: Where to write; default: `tensorboard` in the run's folder.

    Raises:
      ImportError: if tensorboardX is not installed (`uv run --extra tensorboard ...`).
    """

    def __init__(self, folder: Path | str | None = None):
        try:
            import tensorboardX  # pyright: ignore[reportMissingImports]
        except ImportError:
            remedy = "uv run --extra tensorboard ..., or pip install tensorboardX"
            raise ImportError(f"TensorBoard needs the package tensorboardX: {remedy}") from None
        self.folder, self.writer = folder, tensorboardX.SummaryWriter

    def on_start(self, start: Start) -> None:
        folder = Path(self.folder or start.output / "tensorboard")
        self.writers = [
            # What was written after the checkpoint that the run goes on from is hidden.
            self.writer(str(folder / f"seed_{seed}"), purge_step=int(env_steps) + 1 if start.updates else None)
            for seed, env_steps in enumerate(start.env_steps)
        ]

    def on_row(self, row: Row) -> None:
        for seed, writer in enumerate(self.writers):
            for name, values in row.values.items():
                writer.add_scalar(name, float(values[seed]), int(row.env_steps[seed]))
            writer.flush()

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        for writer in self.writers:
            writer.close()
