"""Sweeps: a grid of hyperparameters times seeds, trained at once in chunks that fit, and kept as one labelled file."""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gaejax._arguments import did_you_mean
from gaejax.algorithms import Algorithm
from gaejax.environments import metric_names
from gaejax.training.driver import NUM_ROWS
from gaejax.training.evaluation import evaluate
from gaejax.training.interruptions import interruptible
from gaejax.training.metrics import EPISODE_MEANS, flat
from gaejax.training.plan import Program, compile_program, device_memory, duration, megabytes, seconds_per_update
from gaejax.training.results import versions
from gaejax.training.train import num_updates

MOST_AGENTS = {"cpu": 64}
"""Agents a device in a chunk, at most, where memory allows more: a finished chunk is what an interruption keeps. A CPU
is no faster with more (docs/sweeps.md)."""
MOST_AGENTS_ELSEWHERE = 1024
SHARE_OF_MEMORY = 0.8
"""Of a device's memory, what a chunk may need by the compiler's account."""
AGENTS = jax.P("agents")


class Sweep(NamedTuple):
    """The results of a sweep, by name.

    Attributes:
      axes: The values of each hyperparameter, in the order of the arrays' axes.
      values: Arrays `[*axes, seed]` (the `evaluated_...`, means over the episodes of the final evaluation) and
        `[*axes, seed, row]` (learning curves: what `metrics.csv` has of a run; `env_steps` counts from the start). Row
        r of R is at `(r + 1) / R` of the training. NaN where nothing is known: agents that are not finished, and rows
        in which no episode ended.
      finished: Which agents are finished, bool `[*axes, seed]`.
      about: What was swept: environment, config, total_steps, seeds and so on, as JSON has them.
    """

    axes: dict[str, tuple]
    values: dict[str, np.ndarray]
    finished: np.ndarray
    about: dict[str, Any]

    @property
    def title(self) -> str:
        """The title of pictures."""
        return f"{self.about['algorithm']} on {self.about['environment']}, {self.about['seeds']} seeds"

    def points(self, metric: str = "evaluated_return") -> list[dict[str, Any]]:
        """Returns a line for each point of the grid whose seeds are finished: its hyperparameters, the mean, standard
        deviation, least and largest of a metric `[*axes, seed]` over its seeds, and their number."""
        lines = []
        for index in np.ndindex(*map(len, self.axes.values())):
            if self.finished[index].all():
                own = self.values[metric][index].astype(np.float64)
                place = {name: values[i] for (name, values), i in zip(self.axes.items(), index, strict=True)}
                statistics = {name: float(getattr(own, name)()) for name in ("mean", "std", "min", "max")}
                lines.append({**place, **statistics, "seeds": own.size})
        return lines

    def save(self, path: Path | str) -> None:
        """Writes one file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.unfinished")
        about = json.dumps({"about": self.about, "axes": {name: list(values) for name, values in self.axes.items()}})
        with beside.open("wb") as file:
            arrays: dict[str, Any] = {f"values/{name}": array for name, array in self.values.items()}
            np.savez_compressed(file, about=np.array(about), finished=self.finished, **arrays)
        os.replace(beside, path)

    @classmethod
    def load(cls, path: Path | str) -> "Sweep":
        """Reads what `save` wrote.

        Raises:
          ValueError: if the file is not there or no sweep.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                text = json.loads(str(file["about"]))
                values = {name.removeprefix("values/"): file[name] for name in file.files if name.startswith("values/")}
                axes = {name: tuple(values) for name, values in text["axes"].items()}
                return cls(axes, values, file["finished"], text["about"])
        except FileNotFoundError:
            raise ValueError(f"there is no sweep at {path}") from None
        except Exception as error:  # a file of another kind fails in NumPy, zipfile or json
            raise ValueError(f"{path} is no sweep, or damaged: {type(error).__name__}") from error


class GroupPlan(NamedTuple):
    """What the points of a sweep that share a compiled program need.

    Attributes:
      static: The hyperparameters that the program has built in.
      agents: How many agents there are, seeds included.
      chunk: How many of them are trained at a time.
      updates: Training steps of each.
      bytes_per_device: Memory of a chunk.
      compile_seconds: Of its programs.
      seconds: Of training all chunks, from a few timed updates.
    """

    static: dict[str, Any]
    agents: int
    chunk: int
    updates: int
    bytes_per_device: int
    compile_seconds: float
    seconds: float


class SweepPlan(NamedTuple):
    """What a sweep needs.

    Attributes:
      title: Of the sweep.
      agents: How many agents there are, seeds included.
      groups: One for each program.
      memory: Bytes that a device has, if known.
      devices: Over how many devices a chunk is split.
    """

    title: str
    agents: int
    groups: tuple[GroupPlan, ...]
    memory: int | None
    devices: int

    def report(self) -> str:
        """Returns the plan as lines of text."""
        training = sum(group.seconds for group in self.groups)
        compiling = sum(group.compile_seconds for group in self.groups)
        programs = f"{len(self.groups)} program{'s' if len(self.groups) > 1 else ''}"
        lines = [f"{self.title}: {self.agents:,} agents on {self.devices} device{'s' if self.devices > 1 else ''}"]
        for group in self.groups:
            static = ", ".join(f"{name}={value}" for name, value in group.static.items()) or "all"
            chunks = -(-group.agents // group.chunk)
            lines.append(
                f"  {static}: {group.agents:,} agents in {chunks} chunk{'s' if chunks > 1 else ''} of {group.chunk}, "
                f"{group.updates:,} updates, {megabytes(group.bytes_per_device)} a device, {duration(group.seconds)}"
            )
        free = "" if self.memory is None else f", of {megabytes(self.memory)} memory a device"
        return "\n".join(
            [*lines, f"  {programs}, {duration(compiling)} of compiling, {duration(training)} of training{free}"]
        )


def sweep(
    algorithm: Algorithm,
    axes: Mapping[str, Sequence[Any]],
    *,
    config: Any,
    total_steps: int,
    seeds: int = 16,
    seed: int = 0,
    eval_episodes: int = 32,
    output: Path | str | None = None,
    chunk: int | None = None,
    progress: bool = True,
) -> Sweep:
    """Trains an algorithm at every point of a grid of hyperparameters, with several seeds each.

    Floats of the config are traced: all their values are trained by one program. Everything else (`num_envs`,
    `num_epochs`, ...) and None is built into programs, one for each combination. Agents are trained in chunks that fit
    the memory, split over the devices if there are several. Every point has the same seeds (common random numbers), so
    that differences between points are less noisy than the points.

    Args:
      algorithm: What to train, such as `gaejax.ppo(environment, policy)`.
      axes: Values by field of `config`.
      config: The other hyperparameters.
      total_steps: Transitions to collect for each agent.
      seeds: Agents for each point.
      seed: The integer that the keys of all of them are made from.
      eval_episodes: Episodes of the final evaluation of each agent.
      output: A `.npz` file. It is written after each chunk, whole or not at all, and the same call goes on from it:
        the result is, bit for bit, that of a sweep without the pause. `Sweep.load` reads it. None: nothing is written.
      chunk: Agents to train at a time. Default: as many as fit, at most 64 on a CPU and 1024 a device elsewhere.
      progress: Whether to show a progress bar.

    Returns:
      A `Sweep`, whole.

    Raises:
      ValueError: for what cannot be swept, and an `output` that holds another sweep, before anything is compiled.
      KeyboardInterrupt: after Ctrl-C, when the current hundredth of a chunk is done. A second one kills.
    """
    job = _checked(algorithm, axes, config, total_steps, seeds, seed, eval_episodes)
    _check_whole("chunk", 1 if chunk is None else chunk)
    path = None if output is None else _checked_path(output)
    found = _unfinished(job, path)
    with _Bar(job, found, progress) as bar, interruptible() as interruptions:

        def advanced(agents: int) -> None:
            bar.advance(agents)
            if interruptions.count:
                raise KeyboardInterrupt

        for number, group in enumerate(job.groups):
            left = [agent for agent in group.agents if not found.finished.flat[agent]]
            if not left:
                continue
            size = chunk or found.about["chunks"][number]
            programs = _fitting(job, group, size, len(left) if size is None else None)
            found.about["chunks"][number] = programs.size
            for start in range(0, len(left), programs.size):
                agents = np.array(left[start : start + programs.size])
                _keep(found, agents, _run(job, group, programs, agents, advanced))
                if path is not None:
                    found.save(path)
    return found


def plan_sweep(
    algorithm: Algorithm,
    axes: Mapping[str, Sequence[Any]],
    *,
    config: Any,
    total_steps: int,
    seeds: int = 16,
    seed: int = 0,
    eval_episodes: int = 32,
    chunk: int | None = None,
) -> SweepPlan:
    """Returns what a sweep needs, without starting it: its programs are compiled, and each takes a few updates.

    Args and errors are those of `sweep`.
    """
    job = _checked(algorithm, axes, config, total_steps, seeds, seed, eval_episodes)
    _check_whole("chunk", 1 if chunk is None else chunk)
    plans = []
    for group in job.groups:
        programs = _fitting(job, group, chunk, len(group.agents))
        states = _first_states(job, group, programs, np.array(group.agents[: programs.size]))
        call = lambda states, size, own=programs: own.advance.compiled(states, jnp.int32(size))
        seconds = seconds_per_update(call, states) * group.updates * -(-len(group.agents) // programs.size)
        static = {name: getattr(group.config, name) for name in group.static}
        plans.append(
            GroupPlan(
                static, len(group.agents), programs.size, group.updates, programs.bytes, programs.seconds, seconds
            )
        )
    return SweepPlan(_title(job), job.agents, tuple(plans), device_memory(jax.devices()[0]), jax.device_count())


class _Group(NamedTuple):
    """The points of the grid that share a program."""

    config: Any  # the static fields are its own
    static: tuple[str, ...]  # the axes that are built in
    traced: tuple[str, ...]  # the axes that are not
    agents: tuple[int, ...]  # point * seeds + seed
    updates: int


class _Job(NamedTuple):
    """A sweep that can be run."""

    algorithm: Algorithm
    axes: dict[str, tuple]
    config: Any
    total_steps: int
    seeds: int
    seed: int
    eval_episodes: int
    groups: tuple[_Group, ...]
    rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (*map(len, self.axes.values()), self.seeds)

    @property
    def agents(self) -> int:
        return int(np.prod(self.shape))

    def point(self, agent: int) -> dict[str, Any]:
        """The hyperparameters of an agent."""
        index = np.unravel_index(agent, self.shape)
        return {name: values[int(i)] for (name, values), i in zip(self.axes.items(), index[:-1], strict=True)}


class _Programs(NamedTuple):
    """The programs of a group, for chunks of one size."""

    size: int
    advance: Program  # (states, n) -> (states, means over n training steps)
    play: Program  # (states, keys) -> means over episodes

    @property
    def bytes(self) -> int:
        return max(self.advance.bytes or 0, self.play.bytes or 0)

    @property
    def seconds(self) -> float:
        return self.advance.seconds + self.play.seconds


def _checked(
    algorithm: Algorithm,
    axes: Mapping[str, Sequence[Any]],
    config: Any,
    total_steps: int,
    seeds: int,
    seed: int,
    eval_episodes: int,
) -> _Job:
    """Checks every value, and every combination that has a program of its own."""
    for name, value in {"total_steps": total_steps, "seeds": seeds, "eval_episodes": eval_episodes}.items():
        _check_whole(name, value)
    if not callable(getattr(algorithm, "step", None)):
        raise ValueError(f"algorithm must be one such as gaejax.ppo(environment, policy), got {algorithm!r}")
    if not callable(getattr(config, "validate", None)):
        raise ValueError(f"config must be an algorithm's config, such as gaejax.PPOConfig(), got {config!r}")
    config.validate()
    if not axes:
        raise ValueError("axes must name at least one hyperparameter, such as {'gae_lambda': [0.9, 0.95]}")
    own = {name: _checked_axis(config, name, values) for name, values in axes.items()}
    groups = _grouped(own, config, seeds, total_steps)
    for group in groups:
        where = ", ".join(f"{name}={getattr(group.config, name)!r}" for name in group.static)
        try:
            jax.eval_shape(lambda key, config=group.config: algorithm.init(key, config), jax.random.key(0))
        except (ValueError, TypeError) as error:
            raise ValueError(f"at {where}: {error}" if where else str(error)) from error
    rows = min(NUM_ROWS, *(group.updates for group in groups))
    return _Job(algorithm, own, config, total_steps, seeds, seed, eval_episodes, groups, rows)


def _checked_axis(config: Any, name: str, values: Sequence[Any]) -> tuple:
    """Returns the values of an axis as JSON and Python have them."""
    fields = [field.name for field in dataclasses.fields(config)]
    if name not in fields:
        raise ValueError(f"axes: {type(config).__name__} has no field {name!r}{did_you_mean(name, fields)}")
    if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray | jax.Array) or not len(values):
        raise ValueError(f"axes: {name} must be a list of at least one value, got {values!r}")
    own = tuple(value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value for value in values)
    for value in own:
        try:
            config.replace(**{name: value}).validate()
        except (ValueError, TypeError) as error:
            if str(error).startswith(name):
                raise ValueError(f"axes: {error}") from error
            # A combination with another axis may be good: each one is checked later.
    if len(set(own)) < len(own):
        raise ValueError(f"axes: {name} must have different values, got {list(own)}")
    return own


def _grouped(axes: dict[str, tuple], config: Any, seeds: int, total_steps: int) -> tuple[_Group, ...]:
    """Returns the groups of points that differ in floats only, in the order of the grid."""
    kinds = {field.name: field.metadata.get("kind") for field in dataclasses.fields(config)}
    found: dict[tuple, list[int]] = {}
    for index, values in enumerate(itertools.product(*axes.values())):
        point = dict(zip(axes, values, strict=True))
        static = {name: value for name, value in point.items() if kinds[name] != "number" or value is None}
        found.setdefault(tuple(static.items()), []).append(index)
    groups = []
    for static, points in found.items():
        built_in = dict(static)
        traced = tuple(name for name in axes if name not in built_in)
        # A traced field needs some number here: the config may have None there.
        some = {name: next(value for value in axes[name] if value is not None) for name in traced}
        fixed = config.replace(**built_in, **some)
        agents = tuple(point * seeds + seed for point in points for seed in range(seeds))
        groups.append(_Group(fixed, tuple(built_in), traced, agents, num_updates(fixed, total_steps)))
    return tuple(groups)


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _checked_path(output: Path | str) -> Path:
    path = Path(output)
    if path.suffix != ".npz":
        raise ValueError(f"output must be a .npz file, got {str(output)!r}")
    return path


def _title(job: _Job) -> str:
    name = type(job.config).__name__.removesuffix("Config")
    return f"{name} on {job.algorithm.environment.name}"


def _unfinished(job: _Job, path: Path | None) -> Sweep:
    """Returns what the file holds of this sweep, or one in which nothing is finished."""
    about = _about(job)
    if path is not None and path.exists():
        found = Sweep.load(path)
        _check_same(found, job, about, path)
        return found
    return Sweep(job.axes, {}, np.zeros(job.shape, bool), about)


def _about(job: _Job) -> dict[str, Any]:
    """What makes a sweep this one."""
    group = job.groups[0]
    state = jax.eval_shape(lambda key: job.algorithm.init(key, group.config), jax.random.key(0))
    program = jax.jit(job.algorithm.step).lower(state).as_text()
    about = {
        "environment": job.algorithm.environment.name,
        "algorithm": type(job.config).__name__.removesuffix("Config"),
        "config": dataclasses.asdict(job.config),
        "total_steps": job.total_steps,
        "seeds": job.seeds,
        "seed": job.seed,
        "eval_episodes": job.eval_episodes,
        "rows": job.rows,
        "versions": versions(),
        "program": hashlib.sha256(program.encode()).hexdigest(),
        "chunks": [None] * len(job.groups),
    }
    return json.loads(json.dumps(about, default=lambda number: number.item()))


def _check_same(found: Sweep, job: _Job, about: dict[str, Any], path: Path) -> None:
    """Raises ValueError if a file holds another sweep. Its program is compared where the same versions made it."""
    holds = f"{path} holds another sweep: choose another file, or go on with its"
    if json.dumps(found.axes) != json.dumps(job.axes):
        raise ValueError(f"{holds} axes, {json.dumps(found.axes)}")
    for name, value in about.items():
        if name not in ("chunks", "versions", "program") and found.about[name] != value:
            raise ValueError(f"{holds} {name}, {found.about[name]!r}")
    if found.about["versions"] == about["versions"] and found.about["program"] != about["program"]:
        raise ValueError(f"{path} holds a sweep of another algorithm, policy or environment: choose another file")


def _mesh() -> jax.sharding.Mesh | None:
    """All devices, if there are several."""
    return jax.sharding.Mesh(np.array(jax.devices()), ("agents",)) if jax.device_count() > 1 else None


def _mapped(function: Callable, in_specs: tuple) -> Callable:
    """Returns a function of all agents that runs `function` on each device's part of them."""
    mesh = _mesh()
    if mesh is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=AGENTS, check_vma=False)


def _fitting(job: _Job, group: _Group, size: int | None, agents: int | None) -> _Programs:
    """Returns the programs of a group, for chunks that fit the memory.

    Args:
      size: Of the chunks, if it is known.
      agents: How many there are, otherwise.

    Raises:
      ValueError: if chunks of `size`, or a single agent, do not fit.
    """
    devices, memory = jax.device_count(), device_memory(jax.devices()[0])
    most = MOST_AGENTS.get(jax.default_backend(), MOST_AGENTS_ELSEWHERE) * devices
    tried = _rounded(size or _even(agents or 1, most), devices)
    while True:
        programs = _compiled(job, group, tried)
        refused = programs.advance.bytes is None or programs.play.bytes is None
        if not refused and (memory is None or programs.bytes <= SHARE_OF_MEMORY * memory):
            return programs
        needed = "more than a device has" if refused else f"{megabytes(programs.bytes)} of {megabytes(memory or 0)}"
        if size is not None:
            raise ValueError(f"chunk = {size} agents need {needed}: choose a smaller one")
        if tried <= devices:
            raise ValueError(f"a single agent needs {needed}: reduce num_envs or num_steps")
        fits = tried // 2 if refused else int(0.9 * tried * SHARE_OF_MEMORY * (memory or 0) / programs.bytes)
        tried = _rounded(max(1, min(_even(agents or 1, max(1, fits)), tried - devices)), devices)


def _even(agents: int, most: int) -> int:
    """Returns the size of the fewest chunks of at most `most` agents, so that the last one is not nearly empty."""
    return -(-agents // -(-agents // most))


def _rounded(size: int, devices: int) -> int:
    return -(-size // devices) * devices


def _compiled(job: _Job, group: _Group, size: int) -> _Programs:
    """Compiles the programs of a group for chunks of a size."""
    mesh = _mesh()
    place = None if mesh is None else jax.sharding.NamedSharding(mesh, AGENTS)
    shaped = partial(jax.tree.map, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
    states = shaped(jax.eval_shape(partial(_init, job), keys, _configs(job, group, np.full(size, group.agents[0]))))
    advance = jax.jit(_mapped(partial(_advance, job), (AGENTS, jax.P())), donate_argnums=0)
    play = jax.jit(_mapped(jax.vmap(partial(_play, job)), (AGENTS, AGENTS)))
    return _Programs(
        size,
        compile_program(advance.lower(states, jax.ShapeDtypeStruct((), jnp.int32))),
        compile_program(play.lower(states, shaped(keys))),
    )


def _init(job: _Job, keys: jax.Array, configs: Any) -> Any:
    """The first states of a chunk. One after another: it takes milliseconds, and compiles faster than vmapped."""
    return jax.lax.map(lambda agent: job.algorithm.init(*agent), (keys, configs))


def _advance(job: _Job, states: Any, size: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
    """Takes `size` training steps. Returns the states and the means over them: over episodes of what is measured at
    their ends, NaN if none ended, otherwise over training steps; of counts the sums."""

    @jax.vmap
    def step(state: Any) -> tuple[Any, dict[str, jax.Array]]:
        state, info = job.algorithm.step(state)
        return state, flat(info)

    by_episode = (*EPISODE_MEANS, *metric_names(job.algorithm.environment))
    counts = ("env_steps", "episodes")
    zeros = jax.tree.map(lambda info: jnp.zeros(info.shape, info.dtype), jax.eval_shape(step, states)[1])

    def body(_: jax.Array, loop: tuple) -> tuple:
        states, sums = loop
        states, infos = step(states)
        episodes = infos["episodes"]
        added = {
            name: jnp.where(episodes > 0, info * episodes, 0).astype(info.dtype) if name in by_episode else info
            for name, info in infos.items()
        }
        return states, jax.tree.map(jnp.add, sums, added)

    states, sums = jax.lax.fori_loop(0, size, body, (states, zeros))
    episodes = sums["episodes"]
    by = {name: episodes if name in by_episode else 1 if name in counts else size for name in sums}
    means = {name: value if name in counts else value / by[name] for name, value in sums.items()}
    return states, means


def _play(job: _Job, state: Any, key: jax.Array) -> dict[str, jax.Array]:
    """The means over the episodes of an agent's evaluation."""
    evaluation = evaluate(job.algorithm, state, key, job.eval_episodes)
    means = {"return": evaluation.returns, "length": evaluation.lengths, **evaluation.metrics}
    return {f"evaluated_{name}": values.astype(jnp.float32).mean() for name, values in means.items()}


def _configs(job: _Job, group: _Group, agents: np.ndarray) -> Any:
    """The hyperparameters of agents, leaves `[agents]`."""
    points = [job.point(int(agent)) for agent in agents]
    shared = jax.tree.map(lambda leaf: jnp.full(len(agents), leaf, jnp.float32), group.config)
    return shared.replace(**{name: jnp.array([point[name] for point in points], jnp.float32) for name in group.traced})


def _first_states(job: _Job, group: _Group, programs: _Programs, agents: np.ndarray) -> Any:
    """The states of a chunk before the first step. A short chunk is filled up with its last agent."""
    agents = _filled(agents, programs.size)
    keys = jax.random.split(jax.random.key(job.seed), job.seeds)[agents % job.seeds]
    init = jax.jit(_mapped(partial(_init, job), (AGENTS, AGENTS)))
    return init(keys, _configs(job, group, agents))


def _filled(agents: np.ndarray, size: int) -> np.ndarray:
    return np.pad(agents, (0, size - len(agents)), mode="edge")


def _run(
    job: _Job, group: _Group, programs: _Programs, agents: np.ndarray, advanced: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Trains and evaluates a chunk. Returns `[agents]` and `[agents, row]`."""
    states = _first_states(job, group, programs, agents)
    rows: list[dict[str, np.ndarray]] = []
    taken = 0
    for row in range(job.rows):
        end = (row + 1) * group.updates // job.rows
        states, means = programs.advance.compiled(states, jnp.int32(end - taken))
        rows.append({name: np.asarray(value)[: len(agents)] for name, value in means.items()})
        taken = end
        advanced(len(agents))
    # Keys apart from those of training, which come from the same seed.
    keys = jax.random.split(jax.random.fold_in(jax.random.key(job.seed), 0xE7A1), job.seeds)
    mesh = _mesh()
    own = keys[_filled(agents, programs.size) % job.seeds]
    own = own if mesh is None else jax.device_put(own, jax.sharding.NamedSharding(mesh, AGENTS))
    played = programs.play.compiled(states, own)
    curves = {name: np.stack([row[name] for row in rows], axis=-1) for name in rows[0]}
    curves["env_steps"] = curves["env_steps"].cumsum(axis=-1)
    return {**{name: np.asarray(value)[: len(agents)] for name, value in played.items()}, **curves}


def _keep(found: Sweep, agents: np.ndarray, results: dict[str, np.ndarray]) -> None:
    """Enters the results of a chunk."""
    for name, values in results.items():
        shape = (*found.finished.shape, *values.shape[1:])
        array = found.values.setdefault(name, np.full(shape, np.nan, np.float32))
        array.reshape(-1, *values.shape[1:])[agents] = values
    found.finished.reshape(-1)[agents] = True


class _Bar:
    """Shows how far a sweep is: agents, and the time left."""

    def __init__(self, job: _Job, found: Sweep, shown: bool):
        self.total = job.agents * job.rows
        self.done, self.rows, self.shown = int(found.finished.sum()) * job.rows, job.rows, shown

    def __enter__(self) -> "_Bar":
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("sweeping"), BarColumn(), TextColumn("{task.fields[agents]}  ETA"), TimeRemainingColumn())
        self.bar = Progress(*columns, disable=not self.shown)
        self.task = self.bar.add_task("", total=self.total, completed=self.done, agents=self._agents())
        self.bar.start()
        return self

    def _agents(self) -> str:
        return f"{self.done // self.rows:,}/{self.total // self.rows:,} agents"

    def advance(self, agents: int) -> None:
        """Tells that so many agents have trained one more row."""
        self.done += agents
        self.bar.update(self.task, completed=self.done, agents=self._agents())

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
