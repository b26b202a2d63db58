"""The driver: a run on the host, in compiled calls, with checkpoints, observers, and a folder that holds all of it.

Below this module everything is pure; here are the clocks, the signals and the files.
"""

import dataclasses
import errno
import json
import operator
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.algorithms import Algorithm
from gaejax.environments import metric_names
from gaejax.training.checkpoints import (
    Saver,
    load_checkpoint,
    load_newest,
    load_notes,
    set_aside_after,
    whole_checkpoints,
)
from gaejax.training.devices import SEEDS, Layout, agreed, check_same, fetch, is_first, make_layout
from gaejax.training.evaluation import Evaluation, evaluate
from gaejax.training.files import check_output, is_ours, locked, write_whole
from gaejax.training.interruptions import Interrupted, Interruptions, interruptible
from gaejax.training.metrics import EPISODE_MEANS, Aggregate, Counters, env_steps_at, explain_report, flat, read_metrics
from gaejax.training.observers import (
    Checkpoint,
    CsvWriter,
    LearningCurve,
    Observer,
    Observers,
    Progress,
    ProgressBar,
    Row,
    Start,
    read_only,
)
from gaejax.training.results import versions
from gaejax.training.run import Experiment, Run, read_json
from gaejax.training.sizes import check_sizes
from gaejax.training.train import num_updates
from gaejax.training.watch import OnNonfinite, Watch

NUM_ROWS = 100
SECONDS_PER_CALL = 0.5
UPDATES_PER_CALL = 1024
"""At most; the infos of a call are kept until it ends."""
CHECKPOINTS = {"latest": "checkpoint", "best": "best"}
"""The folders of the checkpoints in that of a run."""

AnyRun = TypeVar("AnyRun", bound=Run)
Call = Callable[[Any, int], tuple[Any, Any]]  # (states, size) -> (states, infos)


def initial_states(experiment: Run, algorithm: Algorithm, layout: Layout | None = None) -> Any:
    """Returns the training states of all seeds before the first step, stacked, on the devices of `layout`."""
    keys = jax.random.split(jax.random.key(experiment.seed), experiment.num_seeds)
    source = None
    if experiment.warm_start is not None:
        earlier, _, source = load_states(experiment.warm_start, type(experiment), experiment=experiment, layout=layout)
        if earlier.num_seeds < experiment.num_seeds:
            seeds = f"{experiment.num_seeds} seeds, got the {earlier.num_seeds} of {experiment.warm_start}"
            raise ValueError(f"warm_start must be a run of at least {seeds}")
        source = jax.tree.map(lambda leaf: leaf[: experiment.num_seeds], source)

    def init(key_and_source: tuple) -> Any:
        key, source = key_and_source
        return algorithm.init(key, experiment.config, source)

    # One after another: it takes milliseconds, and compiles in half the time of a vmapped `init`.
    make = lambda keys, source: jax.lax.map(init, (keys, source))
    if layout is None or layout.mesh is None:
        return jax.jit(make)(keys, source)
    # Keys are made inside: those of other processes cannot be given from here.
    split = lambda source: make(jax.random.split(jax.random.key(experiment.seed), experiment.num_seeds), source)
    return jax.jit(split, out_shardings=layout.shardings(layout.states))(source)


def lay_out(
    experiment: Run,
    algorithm: Algorithm,
    *,
    devices: int | None = None,
    row_devices: int = 1,
    available: list[Any] | None = None,
) -> tuple[Layout, Any]:
    """Chooses the devices of a run; see `gaejax.training.devices.make_layout`.

    Returns:
      The layout, and the shapes of the stacked training states, with the places where they are.
    """
    fresh = dataclasses.replace(experiment, warm_start=None)

    def states_of(config: Any) -> Any:
        return initial_states(dataclasses.replace(fresh, config=config), algorithm)

    config, seeds = experiment.config, experiment.num_seeds
    layout = make_layout(states_of, config, seeds, devices=devices, row_devices=row_devices, available=available)
    return layout, layout.placed(jax.eval_shape(lambda: states_of(config)))


def load_states(
    run: Path | str,
    kind: type[AnyRun] = Experiment,
    *,
    experiment: Run | None = None,
    which: Literal["latest", "best"] = "latest",
    layout: Layout | None = None,
) -> tuple[AnyRun, Algorithm, Any]:
    """Loads a run from its folder.

    Args:
      run: The folder.
      kind: The class of the run.
      experiment: The experiment that was run, if its folder cannot hold its environment (an `Environment` value).
      which: The newest checkpoint, or the best of those saved, by the `episode_return` of the last row before it, as a
        mean over seeds.
      layout: On whose devices the states are to be, each of which gets all of them. Default: one device.

    Returns:
      The experiment, its algorithm, and the states of all seeds, stacked.

    Raises:
      ValueError: if the folder holds no such run, or its environment is missing.
    """
    if which not in CHECKPOINTS:
        raise ValueError(f"which must be latest or best, got {which!r}")
    loaded = dataclasses.replace(kind.load(Path(run) / "config.json", experiment), warm_start=None)
    algorithm = loaded.build()
    like = jax.eval_shape(partial(initial_states, loaded, algorithm))
    if layout is not None:
        like = layout._replace(states=jax.tree.map(lambda _: jax.P(), like)).placed(like)
    return loaded, algorithm, load_checkpoint(Path(run) / CHECKPOINTS[which], like)


def run_experiment(
    experiment: Run,
    output: Path | str,
    *,
    resume: bool | Literal["if_there"] = False,
    observers: Sequence[Observer] = (),
    checkpoint_every: float = 60.0,
    on_nonfinite: OnNonfinite = "stop",
    devices: int | None = None,
    row_devices: int = 1,
) -> dict[str, Any]:
    """Trains all seeds, vmapped, and leaves a folder with the results.

    The folder holds `config.json`, `metrics.csv` (env_steps: of each seed), `summary.json`, `curve.png`,
    `checkpoint/` and, once episodes have ended, `best/`.

    Ctrl-C, SIGTERM and SIGHUP stop after the current call finishes (about half a second) and leave the same files;
    compiling and evaluating are left at once. After Ctrl-C in training, what has been learned is still evaluated. A
    second Ctrl-C kills.

    Seeds are split over the devices that there are, of all processes that `jax.distributed` knows. Then every process
    makes this call, the folder is one that all of them see, process 0 decides and writes, and observers are told of
    nothing in the others.

    Args:
      experiment: What to run.
      output: The folder; it must not hold another run. One that holds this run before its first checkpoint is started
        anew.
      resume: Whether to continue the run in `output` from its checkpoint, up to `experiment.total_steps`. The result
        is, bit for bit, that of a run without the pause. A run that is already finished is left as it is. With
        `"if_there"` a run that is not there is started.
      observers: Told of what happens, after the default ones (progress bar, `metrics.csv`, `curve.png`); see
        `gaejax.training.Observer`.
      checkpoint_every: Seconds between checkpoints. The first is written after the first call.
      on_nonfinite: What to do when observations, rewards, losses, gradients or parameters are NaN or infinite: "stop"
        (the last checkpoint, from before, stays; the run is not finished), "skip" (go on and warn; the minibatches
        that they are in move nothing) or "ignore" (the same in silence).
      devices: How many devices to use; default: as many as the seeds can be split over evenly. Bits are the same for
        the same number of devices; others differ by rounding.
      row_devices: Over how many of them the environments of each seed are split.

    Returns:
      What `summary.json` holds. `total_env_steps` and `steps_per_second` are of all seeds together; `interrupted_by` is
      the name of the signal that ended the run, or None; `nonfinite` says where numbers were not finite, or is None.

    Raises:
      ValueError: for what cannot be run, before anything is compiled or written.
    """
    started = time.perf_counter()
    output = check_output(output)
    if not isinstance(experiment, Run):
        raise TypeError(f"experiment must be a gaejax.Experiment, got a {type(experiment).__name__}")
    experiment.validate()
    if not checkpoint_every >= 0:
        raise ValueError(f"checkpoint_every must be a number of seconds, got {checkpoint_every!r}")
    if on_nonfinite not in get_args(OnNonfinite):
        raise ValueError(f"on_nonfinite must be stop, skip or ignore, got {on_nonfinite!r}")
    if resume not in (True, False, "if_there"):
        raise ValueError(f"resume must be True, False or 'if_there', got {resume!r}")
    total = num_updates(experiment.config, experiment.total_steps)
    everyone = Observers([CsvWriter(), ProgressBar(), LearningCurve()], observers)
    audience = everyone if is_first() else Observers([])
    if resume == "if_there":
        resume = not _can_be_started(experiment, output)
    if resume:
        finished = _check_resumed(experiment, output, total)
        if finished is not None:
            print(f"nothing to do: the run in {output} has taken its {experiment.total_steps:,} steps")
            return finished
    elif not _can_be_started(experiment, output):
        raise ValueError(f"output folder {output} holds another run: choose another one, or --resume {output}")

    try:
        built = _build(experiment, total, devices, row_devices)
        goes_on = check_same("output", resume and _has_started(output), "a folder that all processes share")
        states = None if goes_on else initial_states(experiment, built.algorithm, built.layout)
        with locked(output) if is_first() else nullcontext():
            job = _begin(experiment, output, audience, built, states, total, checkpoint_every, on_nonfinite)
            summary = _finish(job, started)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_what_is_kept(output)) from None
    if is_first():
        _tell_the_end(summary, job)
    return summary


def _tell_the_end(summary: dict[str, Any], job: "_Job") -> None:
    """Says on stderr what went wrong with a run, and how it can go on."""
    if job.stops_now():
        print(f"the run in {job.output} has stopped: {job.watch.message()}", file=sys.stderr)
        return
    if job.watch.first is not None and job.on_nonfinite == "skip":
        print(f"warning: the run in {job.output} went on: {job.watch.message()}", file=sys.stderr)
    if not summary["finished"]:
        how = f"interrupted by {summary['interrupted_by']}" if summary["interrupted_by"] else "not finished"
        saved = "" if job.checkpoints.updates == summary["updates"] else ", the last of them not saved"
        after = f"after {summary['updates']:,} of {job.total:,} updates{saved}"
        print(f"{how} {after}: --resume {job.output} continues the run", file=sys.stderr)


def _can_be_started(experiment: Run, output: Path) -> bool:
    """Whether a folder holds nothing, or this very run before its first checkpoint."""
    if not output.exists() or all(is_ours(path) for path in output.iterdir()):
        return True
    if _has_started(output):
        return False
    try:
        return type(experiment).load(output / "config.json", experiment) == _as_loaded(experiment)
    except (ValueError, TypeError, KeyError):  # no run
        return False


def _has_started(output: Path) -> bool:
    """Whether the run in a folder has left something to go on from, or results."""
    return bool(whole_checkpoints(output / CHECKPOINTS["latest"])) or bool(_summary(output).get("finished"))


def _as_loaded(experiment: Run) -> Run:
    """The run as it is read from a file, where a tuple is a list."""
    return type(experiment).from_fields(json.loads(experiment.as_text()), experiment)


def _summary(output: Path) -> dict[str, Any]:
    path = output / "summary.json"
    return read_json(path) if path.is_file() else {}


def _check_resumed(experiment: Run, output: Path, total: int) -> dict[str, Any] | None:
    """Checks that `experiment` is the run in `output`, and returns the summary if that is finished."""
    earlier, now = type(experiment).load(output / "config.json", experiment), _as_loaded(experiment)
    if dataclasses.replace(earlier, total_steps=now.total_steps, warm_start=now.warm_start) != now:
        raise ValueError(f"the run in {output} has another configuration: only its total_steps can be changed")
    summary = _summary(output)
    return summary if summary.get("finished") and summary.get("updates") == total else None


class _Built(NamedTuple):
    """A run as a program: what `_build` returns."""

    algorithm: Algorithm
    layout: Layout
    like: Any
    lowered: Any
    updates_per_row: int
    capacity: int


def _build(experiment: Run, total: int, devices: int | None, row_devices: int) -> _Built:
    """Builds a run and traces it, which refuses what does not fit together before anything is compiled or written."""
    algorithm = experiment.build()
    updates_per_row = -(-total // NUM_ROWS)
    capacity = min(updates_per_row, UPDATES_PER_CALL)
    check_sizes(experiment, algorithm)
    layout, like = lay_out(experiment, algorithm, devices=devices, row_devices=row_devices)
    lowered = lower_training(algorithm, like, capacity, layout)
    return _Built(algorithm, layout, like, lowered, updates_per_row, capacity)


class _Job(NamedTuple):
    """A run that can be run: what `_begin` returns."""

    experiment: Run
    output: Path
    audience: Observers
    built: _Built
    states: Any
    counters: Counters
    aggregate: Aggregate
    checkpoints: "_Checkpoints"
    watch: Watch
    on_nonfinite: OnNonfinite
    total: int

    def stops_now(self) -> bool:
        """Whether numbers that are not finite end the run."""
        return self.watch.first is not None and self.on_nonfinite == "stop"


def _begin(
    experiment: Run,
    output: Path,
    audience: Observers,
    built: _Built,
    states: Any,
    total: int,
    checkpoint_every: float,
    on_nonfinite: OnNonfinite,
) -> _Job:
    """Writes `config.json`, and loads what is in the folder unless there are `states` to start from."""
    means = (*EPISODE_MEANS, *metric_names(built.algorithm.environment))
    counters, aggregate = Counters(0, np.zeros(experiment.num_seeds, np.int64)), Aggregate(means)
    is_resumed = states is None
    if is_resumed:
        states, checkpoint = load_newest(output / CHECKPOINTS["latest"], built.like)
        updates, notes = int(fetch(states.updates)[0]), load_notes(checkpoint)
        if updates > total:
            raise ValueError(f"total_steps must not be less than what the run in {output} has taken")
        if is_first():
            set_aside_after(checkpoint)
        env_steps_at(output / "metrics.csv", notes["logged"], experiment.num_seeds)  # refuses a damaged table
        counters = Counters(updates, np.array(notes["env_steps"], np.int64), notes["logged"], notes["row_return"])
        aggregate = Aggregate(means, notes["pending"])
    elif _has_started(output):
        raise ValueError(f"another process has started a run in {output} in the meantime: choose another folder")
    if is_first():
        write_whole(output / "config.json", experiment.as_text())
    checkpoints = _Checkpoints(output, audience, checkpoint_every, counters.updates if is_resumed else None)
    watch = Watch(experiment.num_seeds)
    return _Job(
        experiment, output, audience, built, states, counters, aggregate, checkpoints, watch, on_nonfinite, total
    )


def _finish(job: _Job, started: float) -> dict[str, Any]:
    """Runs a job, and writes and returns the summary."""
    try:
        summary = _run(job, started)
        if is_first():
            write_whole(job.output / "summary.json", json.dumps(without_nan(summary), indent=2) + "\n")
    except BaseException:
        job.audience.tell("on_end", None)
        raise
    job.audience.tell("on_end", MappingProxyType(summary))
    return summary


def _run(job: _Job, started: float) -> dict[str, Any]:
    """Compiles, trains and evaluates; returns the summary."""
    experiment, counters = job.experiment, job.counters
    env_steps = read_only(counters.env_steps)
    start = Start(experiment, job.output, job.total, counters.updates, env_steps, counters.logged)
    with interruptible() as interruptions:
        job.audience.tell("on_start", start)
        start_seconds = time.perf_counter() - started
        call, compile_seconds = _compile(job, interruptions)
        states, train_seconds = _train(job, call, interruptions)
        is_done = counters.updates >= job.total and job.checkpoints.updates == counters.updates and not job.stops_now()
        evaluating = time.perf_counter()
        evaluated, seconds = _evaluate(job, states, interruptions)
        evaluate_seconds = time.perf_counter() - evaluating - seconds
    summary = {
        "environment": experiment.name,
        **evaluated,
        "total_env_steps": int(counters.env_steps.sum()),
        "env_steps_per_seed": counters.env_steps.tolist(),
        "updates": counters.updates,
        "finished": is_done and bool(evaluated or not experiment.is_evaluated),
        "interrupted_by": interruptions.name,
        "nonfinite": job.watch.as_fields(),
        "steps_per_second": float(counters.new_env_steps / train_seconds) if train_seconds else None,
        "train_seconds": train_seconds,
        "start_seconds": start_seconds,
        "compile_seconds": compile_seconds + seconds,
        "checkpoint_seconds": job.checkpoints.seconds,
        "evaluate_seconds": evaluate_seconds,
        "wall_seconds": time.perf_counter() - started,
        "devices": job.built.layout.sizes(),
        "versions": versions(),
    }
    if experiment.config.explain:
        metrics = job.output / "metrics.csv"
        summary["explain"] = explain_report(read_metrics(metrics) if is_first() and metrics.is_file() else [])
    return summary


def _compile(job: _Job, interruptions: Interruptions) -> tuple[Call | None, float]:
    """Returns the compiled call, or None if there is nothing to train or a signal came, and the seconds it took."""
    started = time.perf_counter()
    if job.counters.updates >= job.total:
        return None, 0.0
    try:
        compiled = interruptions.attend(job.built.lowered.compile)
    except Interrupted:
        return None, time.perf_counter() - started
    return lambda states, size: compiled(states, jnp.int32(size)), time.perf_counter() - started


def _train(job: _Job, call: Call | None, interruptions: Interruptions) -> tuple[Any, float]:
    """Trains to the end or to an interruption. Returns the states and the seconds spent in `call`."""
    states, counters = job.states, job.counters
    train_seconds, updates_per_call = 0.0, 1
    # What depends on a clock or a signal is decided once for all processes: they must make the same calls.
    while counters.updates < job.total and not (call is None or interruptions.shared() or job.stops_now()):
        row_end = min((counters.updates // job.built.updates_per_row + 1) * job.built.updates_per_row, job.total)
        size = int(agreed(min(updates_per_call, row_end - counters.updates, job.built.capacity)))
        calling = time.perf_counter()
        states, infos = jax.block_until_ready(call(states, size))
        seconds = time.perf_counter() - calling
        train_seconds += seconds
        updates_per_call = max(1, int(SECONDS_PER_CALL * size / seconds))
        infos = jax.tree.map(operator.itemgetter(slice(size)), fetch(infos))
        job.watch.add(infos.nonfinite, counters.updates)
        infos = flat(infos)
        counters.add(infos)
        job.aggregate.add(infos)
        if counters.updates == row_end:
            _log(job)
        speed = counters.new_env_steps / train_seconds
        progress = Progress(counters.updates, read_only(counters.env_steps), speed, counters.episode_return)
        job.audience.tell("on_progress", progress)
        if not job.stops_now():
            job.checkpoints.look(states, counters, job.aggregate)
    if job.stops_now():
        job.checkpoints.settle()  # the last one is from before
    else:
        job.checkpoints.end(states, counters, job.aggregate)
    _log(job, is_whole=False)
    return states, train_seconds


def _log(job: _Job, *, is_whole: bool = True) -> None:
    """Tells of what came since the last row, if anything did."""
    values = job.aggregate.take()
    if not values:
        return
    if is_whole:
        job.counters.logged, job.counters.row_return = job.counters.updates, float(values["episode_return"].mean())
    frozen = MappingProxyType({name: read_only(column) for name, column in values.items()})
    job.audience.tell("on_row", Row(job.counters.updates, read_only(job.counters.env_steps), frozen))


class _Checkpoints:
    """Decides when the states of a run are saved, and tells of it.

    Attributes:
      updates: Training steps in the newest checkpoint that is whole; None before the first.
    """

    def __init__(self, output: Path, audience: Observers, every: float, updates: int | None):
        self.output, self.audience, self.every, self.updates = output, audience, every, updates
        self.saver = Saver(output / CHECKPOINTS["latest"])
        self.best_folder = output / CHECKPOINTS["best"]
        there = whole_checkpoints(self.best_folder) if updates is not None else []
        self.best = load_notes(there[-1])["row_return"] if there else -np.inf
        self.begun: tuple[int, float] | None = None  # training steps and return of what is being written
        self.seconds = 0.0  # that the training waited for checkpoints
        self.last = -np.inf if updates is None else time.perf_counter()

    def look(self, states: Any, counters: Counters, aggregate: Aggregate) -> None:
        """Is called after each call: saves if it is time to, or if the policies are the best so far."""
        started = time.perf_counter()
        self._look(states, counters, aggregate)
        self.seconds += time.perf_counter() - started

    def _look(self, states: Any, counters: Counters, aggregate: Aggregate) -> None:
        if not agreed(self.saver.is_done()):
            return
        self.settle()
        since = time.perf_counter() - self.last
        # A tenth: runs become better with nearly every row at first.
        if agreed(since >= self.every or (since >= self.every / 10 and counters.row_return > self.best)):
            self._save(states, counters, aggregate)

    def end(self, states: Any, counters: Counters, aggregate: Aggregate) -> None:
        """Saves the last states, unless they are saved already, and waits until they are written."""
        started = time.perf_counter()
        self.settle()
        if agreed(self.updates != counters.updates):
            self._save(states, counters, aggregate)
            self.settle()
        self.seconds += time.perf_counter() - started

    def _save(self, states: Any, counters: Counters, aggregate: Aggregate) -> None:
        notes = {
            "env_steps": counters.env_steps.tolist(),
            "logged": counters.logged,
            "row_return": counters.row_return,
            "pending": aggregate.as_fields(),
        }
        is_best = counters.row_return > self.best
        self.begun, self.last = (counters.updates, counters.row_return), time.perf_counter()
        try:
            self.saver.save(states, counters.updates, notes, self.best_folder if is_best else None)
        except Exception as error:
            self._warn(error)

    def settle(self) -> None:
        """Waits for what is being written, and tells of it."""
        if self.begun is None:
            return
        try:
            self.saver.wait()
        except Exception as error:
            self._warn(error)
            return
        (self.updates, row_return), self.begun = self.begun, None
        self.best = row_return if row_return > self.best else self.best  # NaN is not greater
        self.audience.tell("on_checkpoint", Checkpoint(self.updates, self.saver.folder))

    def _warn(self, error: Exception) -> None:
        (updates, _), self.begun = self.begun or (None, None), None
        what = f"the checkpoint of update {updates} could not be written to {self.saver.folder}"
        print(f"warning: {what}, the run goes on: {_reason(error)}", file=sys.stderr)


def _reason(error: Exception) -> str:
    """What went wrong, in few words: libraries say it with all of their settings."""
    full = os.strerror(errno.ENOSPC)
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return full if full in said else said[:200]


def _what_is_kept(output: Path) -> str:
    """What is left after a kill."""
    if whole_checkpoints(output / CHECKPOINTS["latest"]):
        return f"killed: {output} holds the run up to its last checkpoint, --resume {output} continues it"
    return "interrupted before there was anything to keep"


def _evaluate(job: _Job, states: Any, interruptions: Interruptions) -> tuple[dict[str, Any], float]:
    """Returns what the summary says of the final episodes, and the seconds of compilation; nothing if a signal came."""
    answered, is_new = interruptions.count, job.counters.new_env_steps > 0
    is_left = answered and not (is_new and interruptions.name == "SIGINT")
    if is_left or job.stops_now() or not job.experiment.is_evaluated:
        return {}, 0.0
    experiment, built = job.experiment, job.built
    play = _evaluation(experiment, built.algorithm, states, experiment.eval_episodes, 0, False, built.layout)
    try:
        evaluation, seconds = interruptions.attend(play, allowed=answered)
    except Interrupted:
        return {}, 0.0
    return _evaluated(evaluation), seconds


def evaluate_seeds(
    experiment: Run,
    algorithm: Algorithm,
    states: Any,
    *,
    num_episodes: int | None = None,
    seed: int = 0,
    greedy: bool = False,
) -> tuple[Evaluation, float]:
    """Plays episodes with the policy of each seed.

    Args:
      experiment, algorithm, states: As `load_states` returns them.
      num_episodes: Episodes of each seed, E; default: the experiment's.
      seed: The integer that the keys are made from.
      greedy: Whether to take each distribution's mode instead of a sample.

    Returns:
      The results `[S, E]`, and the seconds of compilation.
    """
    return _evaluation(experiment, algorithm, states, num_episodes or experiment.eval_episodes, seed, greedy)()


def _evaluation(
    experiment: Run,
    algorithm: Algorithm,
    states: Any,
    num_episodes: int,
    seed: int,
    greedy: bool,
    layout: Layout | None = None,
) -> Callable[[], tuple[Evaluation, float]]:
    """Traces an evaluation; what is returned compiles it and plays."""
    started = time.perf_counter()
    play = jax.vmap(partial(evaluate, algorithm, num_episodes=num_episodes, greedy=greedy))
    if layout is not None:
        play = layout.mapped(play, (layout.states, jax.P(SEEDS)), jax.P(SEEDS))

    def play_all(states: Any) -> Evaluation:
        # Keys apart from those of training, which come from the same seed.
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 0xE7A1), experiment.num_seeds)
        return play(states, keys)

    lowered = jax.jit(play_all).lower(states)

    def compile_and_play() -> tuple[Evaluation, float]:
        compiled = lowered.compile()
        seconds = time.perf_counter() - started
        return fetch(compiled(states)), seconds

    return compile_and_play


def _evaluated(evaluation: Evaluation) -> dict[str, Any]:
    """What the summary says of an evaluation `[S, E]`."""
    metrics = {name: _over_seeds(values) for name, values in evaluation.metrics.items()}
    return {
        "episode_return": _over_seeds(evaluation.returns),
        **({"metrics": metrics} if metrics else {}),
        "finished_episodes": int(np.asarray(evaluation.finished).sum()),
    }


def _over_seeds(values: Any) -> dict[str, Any]:
    per_seed = np.asarray(values, np.float64).mean(axis=1)
    return {"mean": float(per_seed.mean()), "std": float(per_seed.std()), "per_seed": per_seed.tolist()}


def lower_training(algorithm: Algorithm, states: Any, capacity: int, layout: Layout) -> Any:
    """Traces `(states, n) -> (states, infos)`, which takes n training steps. n is at most `capacity` and not static, so
    that one program serves calls of any size; leaves of `infos` are `[capacity, S]`."""
    step = jax.vmap(algorithm.step)

    def call(states: Any, size: jax.Array) -> tuple[Any, Any]:
        infos = jax.tree.map(
            lambda info: jnp.zeros((capacity, *info.shape), info.dtype), jax.eval_shape(step, states)[1]
        )

        def body(index: jax.Array, loop: tuple) -> tuple:
            states, infos = loop
            states, info = step(states)
            return states, jax.tree.map(lambda all_, one: all_.at[index].set(one), infos, info)

        return jax.lax.fori_loop(0, size, body, (states, infos))

    call = layout.mapped(call, (layout.states, jax.P()), (layout.states, jax.P(None, SEEDS)))
    return jax.jit(call, donate_argnums=0).lower(states, jax.ShapeDtypeStruct((), jnp.int32))


def without_nan(tree: Any) -> Any:
    """Returns what JSON can hold, with None for NaN, which it has no word for."""
    if isinstance(tree, dict):
        return {name: without_nan(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [without_nan(value) for value in tree]
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree
