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
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from gaejax.training.files import replacing
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
      logged: Training steps up to the last whole row; what came after it is in the next one.
    """

    experiment: Run
    output: Path
    total_updates: int
    updates: int
    env_steps: np.ndarray
    logged: int = 0


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
        """Is called after each hundredth of the run, and after an interruption for what came since the last row; these
        updates are in the first row of the resumed run again."""

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
    """Writes `metrics.csv`: a line for each seed and row. What cannot be written, on a full disk, is tried again with
    the next row. When a run is resumed, lines after the last whole row before its checkpoint go, and cut ones."""

    def on_start(self, start: Start) -> None:
        self.path = start.output / "metrics.csv"
        (self.written, last), self.waiting = kept_lines(self.path, start.logged), ""
        if last != start.logged:
            print(
                f"warning: {self.path} lacks rows up to update {start.logged}: they are not made again", file=sys.stderr
            )
        self._write()

    def on_row(self, row: Row) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self.written and not self.waiting:
            writer.writerow(["seed", "update", "env_steps", *row.values])
        for seed, env_steps in enumerate(row.env_steps):
            writer.writerow([seed, row.update, env_steps, *(values[seed] for values in row.values.values())])
        self.waiting += text.getvalue()
        self._write()

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        if self.waiting:
            self._write()

    def _write(self) -> None:
        """Appends what waits, in the place of what an earlier try may have left."""
        with self.path.open("ab") as file:
            file.truncate(self.written)
            file.write(self.waiting.encode())
        self.written, self.waiting = self.written + len(self.waiting.encode()), ""


def kept_lines(path: Path, logged: int) -> tuple[int, int]:
    """Returns how many bytes of a `metrics.csv` are whole lines up to an update, and the update of the last of them."""
    size = last = 0
    lines = path.read_bytes().splitlines(keepends=True) if logged and path.is_file() else []
    for index, line in enumerate(lines):
        update = line.split(b",")[1:2]
        if not line.endswith(b"\n") or (index and not (update and update[0].isdigit() and int(update[0]) <= logged)):
            break
        size, last = size + len(line), int(update[0]) if index else 0
    return size, last


class LearningCurve(Observer):
    """Draws `curve.png` from `metrics.csv` at the end of a run."""

    def on_start(self, start: Start) -> None:
        self.experiment, self.output = start.experiment, start.output

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        if summary is not None:
            metrics, picture = self.output / "metrics.csv", self.output / "curve.png"
            with replacing(picture) as part:
                plot_learning_curve(metrics, part, self.experiment.title, self.experiment.curves)


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


class Profiler(Observer):
    """Writes a trace of a few compiled calls for XProf, TensorBoard's profiler, after the first ones.

    Args:
      folder: Where to write; default: `profile` in the run's folder.
      skip: Calls before the trace.
      calls: Calls in it, of about half a second each.
    """

    def __init__(self, folder: Path | str | None = None, skip: int = 3, calls: int = 3):
        self.folder, self.skip, self.calls, self.count, self.is_tracing = folder, skip, calls, 0, False

    def on_start(self, start: Start) -> None:
        self.folder = Path(self.folder or start.output / "profile")

    def on_progress(self, progress: Progress) -> None:
        self.count += 1
        if self.count == self.skip:
            jax.profiler.start_trace(str(self.folder))
            self.is_tracing = True
        elif self.count == self.skip + self.calls:
            self._stop()

    def on_end(self, summary: Mapping[str, Any] | None) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.is_tracing:
            self.is_tracing = False
            jax.profiler.stop_trace()


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
