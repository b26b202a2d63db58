"""The driver: a run on the host, in compiled calls, with checkpoints, observers, and a folder that holds all of it.

Below this module everything is pure; here are the clocks, the signals and the files.
"""

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.algorithms import Algorithm
from gaejax.environments import metric_names
from gaejax.training.checkpoints import load_checkpoint, save_checkpoint
from gaejax.training.evaluation import Evaluation, evaluate
from gaejax.training.metrics import (
    EPISODE_MEANS,
    Aggregate,
    Counters,
    env_steps_at,
    explain_report,
    flat,
    read_metrics,
)
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

NUM_ROWS = 100
SECONDS_PER_CALL = 0.5
SECONDS_PER_CHECKPOINT = 60

AnyRun = TypeVar("AnyRun", bound=Run)
Call = Callable[[Any, int], tuple[Any, Any]]  # (states, size) -> (states, infos)


def initial_states(experiment: Run, algorithm: Algorithm) -> Any:
    """Returns the training states of all seeds before the first step, stacked."""
    keys = jax.random.split(jax.random.key(experiment.seed), experiment.num_seeds)
    source = None
    if experiment.warm_start is not None:
        earlier, _, source = load_states(experiment.warm_start, type(experiment), experiment=experiment)
        if earlier.num_seeds < experiment.num_seeds:
            seeds = f"{experiment.num_seeds} seeds, got the {earlier.num_seeds} of {experiment.warm_start}"
            raise ValueError(f"warm_start must be a run of at least {seeds}")
        source = jax.tree.map(lambda leaf: leaf[: experiment.num_seeds], source)

    def init(key_and_source: tuple) -> Any:
        key, source = key_and_source
        return algorithm.init(key, experiment.config, source)

    # One after another: it takes milliseconds, and compiles in half the time of a vmapped `init`.
    return jax.jit(lambda *seeds: jax.lax.map(init, seeds))(keys, source)


def load_states(
    run: Path | str, kind: type[AnyRun] = Experiment, *, experiment: Run | None = None
) -> tuple[AnyRun, Algorithm, Any]:
    """Loads a run from its folder.

    Args:
      run: The folder.
      kind: The class of the run.
      experiment: The experiment that was run, if its folder cannot hold its environment (an `Environment` value).

    Returns:
      The experiment, its algorithm, and the states of all seeds, stacked.

    Raises:
      ValueError: if the folder holds no such run, or its environment is missing.
    """
    loaded = dataclasses.replace(kind.load(Path(run) / "config.json", experiment), warm_start=None)
    algorithm = loaded.build()
    like = jax.eval_shape(partial(initial_states, loaded, algorithm))
    return loaded, algorithm, load_checkpoint(Path(run) / "checkpoint", like)


def run_experiment(
    experiment: Run, output: Path | str, *, resume: bool = False, observers: Sequence[Observer] = ()
) -> dict[str, Any]:
    """Trains all seeds, vmapped, and leaves a folder with the results.

    The folder holds `config.json`, `metrics.csv` (env_steps: of each seed), `summary.json`, `curve.png` and
    `checkpoint/`. Ctrl-C stops after the current call finishes (about half a second) and leaves the same files.

    Args:
      experiment: What to run.
      output: The folder; it must not hold another run.
      resume: Whether to continue the run in `output` from its checkpoint, up to `experiment.total_steps`. The result
        is, bit for bit, that of a run without the pause. A run that is already finished is left as it is.
      observers: Told of what happens, after the default ones (progress bar, `metrics.csv`, `curve.png`); see
        `gaejax.training.Observer`.

    Returns:
      What `summary.json` holds. `total_env_steps` and `steps_per_second` are of all seeds together.

    Raises:
      ValueError: for what cannot be run, before anything is compiled or written.
    """
    started = time.perf_counter()
    output = Path(output)
    experiment.validate()
    total = num_updates(experiment.config, experiment.total_steps)
    audience = Observers([CsvWriter(), ProgressBar(), LearningCurve()], observers)
    if resume:
        finished = _check_resumed(experiment, output, total)
        if finished is not None:
            print(f"nothing to do: the run in {output} has taken its {experiment.total_steps:,} steps")
            return finished
    elif output.is_file() or (output.exists() and any(output.iterdir())):
        raise ValueError(f"output folder {output} holds another run: choose another one, or --resume {output}")

    job = _prepare(experiment, output, total, resume, audience)
    experiment.save(output / "config.json")
    try:
        summary = _run(job, started)
        (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    except BaseException:
        audience.tell("on_end", None)
        raise
    audience.tell("on_end", MappingProxyType(summary))
    return summary


class _Job(NamedTuple):
    """A run that can be run: what `_prepare` returns."""

    experiment: Run
    output: Path
    audience: Observers
    algorithm: Algorithm
    lowered: Any
    states: Any
    counters: Counters
    total: int
    updates_per_row: int


def _prepare(experiment: Run, output: Path, total: int, resume: bool, audience: Observers) -> _Job:
    """Builds a run and makes its folder, or loads what is in it."""
    algorithm = experiment.build()
    check_sizes(experiment, algorithm)
    updates_per_row = -(-total // NUM_ROWS)
    # Tracing refuses what does not fit together, before anything is compiled or written.
    like = jax.eval_shape(partial(initial_states, dataclasses.replace(experiment, warm_start=None), algorithm))
    lowered = _lower_training(algorithm, like, updates_per_row)
    if resume:
        states = load_checkpoint(output / "checkpoint", like)
        updates = int(states.updates[0])
        if updates > total:
            raise ValueError(f"total_steps must not be less than what the run in {output} has taken")
        counters = Counters(updates, env_steps_at(output / "metrics.csv", updates, experiment.num_seeds))
    else:
        states = initial_states(experiment, algorithm)
        counters = Counters(0, np.zeros(experiment.num_seeds, np.int64))
        output.mkdir(parents=True, exist_ok=True)
    return _Job(experiment, output, audience, algorithm, lowered, states, counters, total, updates_per_row)


def _run(job: _Job, started: float) -> dict[str, Any]:
    """Compiles, trains and evaluates; returns the summary."""
    experiment, counters = job.experiment, job.counters
    start = Start(experiment, job.output, job.total, counters.updates, read_only(counters.env_steps))
    with _interruptible() as interrupted:
        job.audience.tell("on_start", start)
        compiling = time.perf_counter()
        compiled = job.lowered.compile()
        compile_seconds = time.perf_counter() - compiling
        states, train_seconds = _train(job, lambda states, size: compiled(states, jnp.int32(size)), interrupted)
        evaluated = {}
        if experiment.is_evaluated:
            evaluation, seconds = evaluate_seeds(experiment, job.algorithm, states)
            compile_seconds += seconds
            evaluated = _evaluated(evaluation)
    summary = {
        "environment": experiment.name,
        **evaluated,
        "total_env_steps": int(counters.env_steps.sum()),
        "env_steps_per_seed": counters.env_steps.tolist(),
        "updates": counters.updates,
        "finished": counters.updates >= job.total,
        "steps_per_second": float(counters.new_env_steps / train_seconds) if train_seconds else None,
        "train_seconds": train_seconds,
        "compile_seconds": compile_seconds,
        "wall_seconds": time.perf_counter() - started,
        "versions": versions(),
    }
    if experiment.config.explain:
        metrics = job.output / "metrics.csv"
        summary["explain"] = explain_report(read_metrics(metrics) if metrics.is_file() else [])
    return summary


def _check_resumed(experiment: Run, output: Path, total: int) -> dict[str, Any] | None:
    """Checks that `experiment` is the run in `output`, and returns the summary if that is finished."""
    earlier = type(experiment).load(output / "config.json", experiment)
    now = type(experiment).from_fields(json.loads(experiment.as_text()), experiment)  # a tuple is a list in a file
    if dataclasses.replace(earlier, total_steps=now.total_steps, warm_start=now.warm_start) != now:
        raise ValueError(f"the run in {output} has another configuration: only its total_steps can be changed")
    path = output / "summary.json"
    summary = read_json(path) if path.is_file() else {}
    return summary if summary.get("finished") and summary.get("updates") == total else None


def _train(job: _Job, call: Call, interrupted: Callable[[], bool]) -> tuple[Any, float]:
    """Trains to the end or to an interruption. Returns the states and the seconds spent in `call`."""
    states, counters, total = job.states, job.counters, job.total
    aggregate = Aggregate((*EPISODE_MEANS, *metric_names(job.algorithm.environment)))
    train_seconds, updates_per_call = 0.0, 1
    saved_update, saved_at = counters.updates, time.perf_counter()
    while counters.updates < total and not interrupted():
        row_end = min(counters.updates - counters.updates % job.updates_per_row + job.updates_per_row, total)
        size = min(updates_per_call, row_end - counters.updates)
        calling = time.perf_counter()
        states, infos = jax.block_until_ready(call(states, size))
        seconds = time.perf_counter() - calling
        train_seconds += seconds
        updates_per_call = max(1, int(SECONDS_PER_CALL * size / seconds))
        infos = {name: np.asarray(leaf)[:size] for name, leaf in flat(infos).items()}
        counters.add(infos)
        aggregate.add(infos)
        if counters.updates == row_end:
            _log(job, aggregate)
        speed = counters.new_env_steps / train_seconds
        progress = Progress(counters.updates, read_only(counters.env_steps), speed, counters.episode_return)
        job.audience.tell("on_progress", progress)
        if counters.updates == row_end and time.perf_counter() - saved_at > SECONDS_PER_CHECKPOINT:
            _save(job, states)
            saved_update, saved_at = counters.updates, time.perf_counter()
    _log(job, aggregate)
    if counters.updates != saved_update or not (job.output / "checkpoint").exists():
        _save(job, states)
    return states, train_seconds


def _log(job: _Job, aggregate: Aggregate) -> None:
    """Tells of what came since the last row, if anything did."""
    values = aggregate.take()
    if values:
        frozen = MappingProxyType({name: read_only(column) for name, column in values.items()})
        job.audience.tell("on_row", Row(job.counters.updates, read_only(job.counters.env_steps), frozen))


def _save(job: _Job, states: Any) -> None:
    """Writes a checkpoint, and tells of it when it is whole."""
    folder = job.output / "checkpoint"
    save_checkpoint(folder, states, job.counters.updates)
    job.audience.tell("on_checkpoint", Checkpoint(job.counters.updates, folder))


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
    num_episodes = num_episodes or experiment.eval_episodes
    # Keys apart from those of training, which come from the same seed.
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 0xE7A1), experiment.num_seeds)
    compiling = time.perf_counter()
    play = partial(evaluate, algorithm, num_episodes=num_episodes, greedy=greedy)
    compiled = jax.jit(jax.vmap(play)).lower(states, keys).compile()
    compile_seconds = time.perf_counter() - compiling
    return jax.block_until_ready(compiled(states, keys)), compile_seconds


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


def _lower_training(algorithm: Algorithm, states: Any, capacity: int) -> Any:
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

    return jax.jit(call, donate_argnums=0).lower(states, jax.ShapeDtypeStruct((), jnp.int32))


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a flag, so that it never hits between two halves of a state; a second one kills."""
    flag = []

    def on_interrupt(signum: int, frame: Any) -> None:
        flag.append(True)
        signal.signal(signal.SIGINT, previous)

    try:
        previous = signal.signal(signal.SIGINT, on_interrupt)
    except ValueError:  # not in the main thread, where signals do not arrive
        yield lambda: False
        return
    try:
        yield lambda: bool(flag)
    finally:
        signal.signal(signal.SIGINT, previous)
