"""Experiments: a run on the host, in compiled chunks, with progress, logs, checkpoints and a folder that remembers it.

Below this floor everything is pure; here are the clocks and the files.
"""

import abc
import dataclasses
import json
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.algorithms import ALGORITHMS, Algorithm
from gaejax.environments import make
from gaejax.policies import make_policy
from gaejax.training.checkpoints import load_checkpoint, save_checkpoint
from gaejax.training.evaluation import Evaluation, evaluate
from gaejax.training.logs import Log, explain_report, flat, plot_learning_curve, read_metrics
from gaejax.training.train import num_updates

NUM_LOGS = 100
SECONDS_PER_CALL = 0.5
SECONDS_PER_CHECKPOINT = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(abc.ABC):
    """What `run_experiment` takes: all that it takes to run a training again, as it is written to `config.json`.

    A kind of run is a subclass, a dataclass of more fields, that has a `name` and `build`s its algorithm.

    Attributes:
      config: the algorithm's hyperparameters.
      total_steps: rows to collect for each seed.
      num_seeds: how many runs, vmapped; `seed` is where their keys come from.
      eval_episodes: episodes of the final evaluation of each seed.
      warm_start: the folder of a run whose policies the seeds start from.
    """

    config: Any
    total_steps: int
    num_seeds: int = 1
    seed: int = 0
    eval_episodes: int = 64
    warm_start: str | None = None

    curves: ClassVar[tuple[str, ...]] = ("episode_return",)
    """The columns of `metrics.csv` that `curve.png` shows."""
    is_evaluated: ClassVar[bool] = True
    """Whether episodes are played at the end; false where their returns say nothing and a script has its own way."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What it is called in summaries and pictures."""

    @abc.abstractmethod
    def build(self) -> Algorithm:
        """The algorithm, bound to its environment and policy."""

    def validate(self) -> None:
        """Raises ValueError, naming the field, for what cannot be run."""
        for name in ("total_steps", "num_seeds", "eval_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self.config.validate()

    def save(self, path: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=2, default=lambda number: number.item())
        path.write_text(text + "\n")

    @classmethod
    @abc.abstractmethod
    def parts(cls, fields: dict[str, Any]) -> dict[str, type]:
        """The classes of the fields that are dataclasses themselves."""

    @classmethod
    def load(cls, path: Path) -> "Run":
        """Reads what `save` wrote. Raises ValueError if there is nothing."""
        if not path.is_file():
            raise ValueError(f"{path.parent} holds no run: there is no {path.name} in it")
        fields = json.loads(path.read_text())
        return cls(**{**fields, **{name: kind(**fields[name]) for name, kind in cls.parts(fields).items()}})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Run):
    """Training in an environment, by name.

    Attributes:
      environment: a name that `gaejax.make` takes, and `environment_arguments` for it.
      policy: `gaejax.policies.PolicyOptions`, those that are not its defaults.
      algorithm: one of `gaejax.algorithms.ALGORITHMS`, and `options`, arguments of it that are names: its objective or
        baseline, an estimator, schedules by field.
    """

    environment: str
    num_seeds: int = 5
    environment_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    policy: dict[str, Any] = dataclasses.field(default_factory=dict)
    algorithm: str = "ppo"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.environment

    def build(self) -> Algorithm:
        rung = ALGORITHMS[self.algorithm]
        environment = make(self.environment, **self.environment_arguments)
        policy = make_policy(environment, action_values=rung.action_values, **self.policy)
        try:
            return rung.make(environment, policy, **self.options)
        except TypeError as error:  # an option that this algorithm has not
            raise ValueError(f"options of {self.algorithm} do not fit: {error}") from error

    @classmethod
    def parts(cls, fields: dict[str, Any]) -> dict[str, type]:
        return {"config": ALGORITHMS[fields.get("algorithm", "ppo")].config}


def initial_states(experiment: Run, algorithm: Algorithm) -> Any:
    """The training states of all seeds, stacked."""
    keys = jax.random.split(jax.random.key(experiment.seed), experiment.num_seeds)
    source = None
    if experiment.warm_start is not None:
        earlier, _, source = load_states(experiment.warm_start, type(experiment))
        if earlier.num_seeds < experiment.num_seeds:
            seeds = f"{experiment.num_seeds} seeds, got the {earlier.num_seeds} of {experiment.warm_start}"
            raise ValueError(f"warm_start must be a run of at least {seeds}")
        source = jax.tree.map(lambda leaf: leaf[: experiment.num_seeds], source)

    def init(key_and_source: tuple) -> Any:
        key, source = key_and_source
        return algorithm.init(key, experiment.config, source)

    # One after another: it takes milliseconds, and compiles in half the time of a vmapped `init`.
    return jax.jit(lambda *seeds: jax.lax.map(init, seeds))(keys, source)


def load_states(run: Path | str, kind: type[Run] = Experiment) -> tuple[Run, Algorithm, Any]:
    """The experiment, of this kind, the algorithm and the stacked states of a run's folder."""
    experiment = dataclasses.replace(kind.load(Path(run) / "config.json"), warm_start=None)
    algorithm = experiment.build()
    like = jax.eval_shape(partial(initial_states, experiment, algorithm))
    return experiment, algorithm, load_checkpoint(Path(run) / "checkpoint", like)


def run_experiment(experiment: Run, output: Path | str, *, resume: bool = False) -> dict:
    """Trains all seeds in one vmapped call at a time and leaves a folder with all that came of it.

    Ctrl-C stops behind the call under way (about half a second) and leaves the same files for what has run so far.

    Args:
      experiment: what to run.
      output: the folder; it must not hold another run.
      resume: continue the run in `output` from its checkpoint, up to `experiment.total_steps`. The result is, bit for
        bit, what the run would have come to without the pause.

    Returns:
      The summary, as written to `summary.json`.

    Raises:
      ValueError: for what cannot be run, before anything is compiled or written.
    """
    started = time.perf_counter()
    output = Path(output)
    experiment.validate()
    updates = num_updates(experiment.config, experiment.total_steps)
    if resume:
        earlier, algorithm, states = load_states(output, type(experiment))
        if (
            dataclasses.replace(earlier, total_steps=experiment.total_steps, warm_start=experiment.warm_start)
            != experiment
        ):
            raise ValueError(f"the run in {output} has another configuration: only its total_steps can be changed")
        if int(states.updates[0]) > updates:
            raise ValueError(f"total_steps must not be less than what the run in {output} has taken")
    else:
        if output.is_file() or (output.exists() and any(output.iterdir())):
            raise ValueError(f"output folder {output} holds another run: choose another one, or --resume {output}")
        algorithm = experiment.build()
        states = initial_states(experiment, algorithm)
        output.mkdir(parents=True, exist_ok=True)
    experiment.save(output / "config.json")

    updates_per_row = -(-updates // NUM_LOGS)
    log = Log(output / "metrics.csv", experiment.num_seeds, done=int(states.updates[0]))
    train_seconds = 0.0
    with _interruptible() as interrupted:
        compiling = time.perf_counter()
        call = _compile_training(algorithm, states, updates_per_row)
        compile_seconds = time.perf_counter() - compiling
        with _progress(updates, log.updates) as show:
            saved, updates_per_call = time.perf_counter(), 1
            while log.updates < updates and not interrupted():
                row_end = min(log.updates - log.updates % updates_per_row + updates_per_row, updates)
                size = min(updates_per_call, row_end - log.updates)
                calling = time.perf_counter()
                states, infos = jax.block_until_ready(call(states, size))
                seconds = time.perf_counter() - calling
                train_seconds += seconds
                updates_per_call = max(1, int(SECONDS_PER_CALL * size / seconds))
                log.add({name: np.asarray(leaf)[:size] for name, leaf in flat(infos).items()})
                if log.updates == row_end:
                    log.write_row()
                show(log, train_seconds)
                if log.updates == row_end and time.perf_counter() - saved > SECONDS_PER_CHECKPOINT:
                    save_checkpoint(output / "checkpoint", states, log.updates)
                    saved = time.perf_counter()
        log.write_row()
        save_checkpoint(output / "checkpoint", states, log.updates)
        evaluated = {}
        if experiment.is_evaluated:
            evaluation, seconds = evaluate_seeds(experiment, algorithm, states)
            compile_seconds += seconds
            evaluated = {
                "episode_return": _episode_return(evaluation),
                "finished_episodes": int(np.asarray(evaluation.finished).sum()),
            }
    summary = {
        "environment": experiment.name,
        **evaluated,
        "env_steps": int(log.env_steps.sum()),
        "env_steps_per_seed": log.env_steps.tolist(),
        "updates": log.updates,
        "finished": log.updates >= updates,
        "steps_per_second": float(log.new_env_steps / train_seconds) if train_seconds else None,
        "train_seconds": train_seconds,
        "compile_seconds": compile_seconds,
        "wall_seconds": time.perf_counter() - started,
        "versions": versions(),
    }
    if experiment.config.explain:
        summary["explain"] = explain_report(read_metrics(output / "metrics.csv"))
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    plot_learning_curve(output / "metrics.csv", output / "curve.png", experiment.name, experiment.curves)
    return summary


def evaluate_seeds(
    experiment: Run,
    algorithm: Algorithm,
    states: Any,
    *,
    num_episodes: int | None = None,
    seed: int = 0,
    greedy: bool = False,
) -> tuple[Evaluation, float]:
    """Plays `num_episodes` episodes of each seed; returns `[seeds, episodes]` results and the seconds of compiling."""
    num_episodes = num_episodes or experiment.eval_episodes
    # Keys apart from those of training, which come from the same seed.
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 0xE7A1), experiment.num_seeds)
    compiling = time.perf_counter()
    play = partial(evaluate, algorithm, num_episodes=num_episodes, greedy=greedy)
    compiled = jax.jit(jax.vmap(play)).lower(states, keys).compile()
    compile_seconds = time.perf_counter() - compiling
    return jax.block_until_ready(compiled(states, keys)), compile_seconds


def _episode_return(evaluation: Evaluation) -> dict:
    per_seed = np.asarray(evaluation.returns, np.float64).mean(axis=1)
    return {"mean": float(per_seed.mean()), "std": float(per_seed.std()), "per_seed": per_seed.tolist()}


def versions() -> dict:
    """What a result depends on besides its configuration."""
    return {
        "gaejax": metadata.version("gaejax"),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _compile_training(algorithm: Algorithm, states: Any, capacity: int) -> Any:
    """A compiled `(states, n) -> (states, infos)` that takes n training steps, n up to `capacity` and not static, so
    that one program serves calls of any size; `infos` leaves are `[capacity, seeds]`."""
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

    compiled = jax.jit(call, donate_argnums=0).lower(states, jnp.int32(0)).compile()
    return lambda states, size: compiled(states, jnp.int32(size))


@contextmanager
def _interruptible() -> Iterator[Any]:
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


@contextmanager
def _progress(total: int, done: int) -> Iterator[Any]:
    """A progress bar with ETA, environment steps per second and the current return."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("updates  ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]}  return {task.fields[episode_return]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("", total=total, completed=done, speed="", episode_return="-")

        def show(log: Log, seconds: float) -> None:
            progress.update(
                task,
                completed=log.updates,
                speed=f"{log.new_env_steps / seconds:,.0f} env steps/s",
                episode_return="-" if np.isnan(log.episode_return) else f"{log.episode_return:.4g}",
            )

        yield show
