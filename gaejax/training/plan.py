"""Planning: what a run needs of a device, before it is started."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.training.devices import SEEDS
from gaejax.training.driver import NUM_ROWS, UPDATES_PER_CALL, initial_states, lay_out, lower_training
from gaejax.training.run import Run
from gaejax.training.train import num_updates

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
GROWTH = 4
"""By how much the number of seeds grows from one compilation to the next, while the compiler accepts it."""
LINEAR_FROM = 16
"""Seeds from which the memory of a CPU or GPU grows in proportion to them (measured: docs/sweeps.md)."""


class Collective(NamedTuple):
    """One kind of communication between devices, as it stands in a program. What stands in a loop counts once.

    Attributes:
      kind: Its name in HLO, such as `"all-reduce"`.
      count: How often it stands there.
      bytes: The size of all its results together.
    """

    kind: str
    count: int
    bytes: int


class Plan(NamedTuple):
    """What a run needs. None: not known, and `report` says why.

    Attributes:
      title: Of the run.
      device: The kind of the devices.
      num_devices: Over how many of them the seeds are split.
      num_seeds: Of the run.
      updates: Training steps of the run.
      bytes_per_device: Memory of the compiled program: arguments, results and temporaries. None if the compiler
        refused it.
      memory: Bytes that a device has free; of a CPU, the host's.
      fits: Whether the program fits. None if `memory` is not known and the compiler gives no verdict.
      seeds_that_fit: The largest number of seeds that is known to fit (TPU), or estimated to (CPU, GPU).
      compile_seconds: Of the run's program, as compiled here; near 0 if it came from the compilation cache.
      seconds: Of training, from a few timed updates; neither compiling nor the final evaluation is in it.
      collectives: The communication between devices.
      compilations: How many compilations the plan took.
    """

    title: str
    device: str
    num_devices: int
    num_seeds: int
    updates: int
    bytes_per_device: int | None
    memory: int | None
    fits: bool | None
    seeds_that_fit: int | None
    compile_seconds: float
    seconds: float | None
    collectives: tuple[Collective, ...]
    compilations: int

    def report(self) -> str:
        """Returns the plan as a table of text, without a line break at the end."""
        verdict = {True: "yes", False: "no", None: "not known: the memory of the device is not"}[self.fits]
        needed = "more than the device has" if self.bytes_per_device is None else megabytes(self.bytes_per_device)
        seeds = "not known" if self.seeds_that_fit is None else f"{self.seeds_that_fit:,}"
        time_ = "not known: the device is not here" if self.seconds is None else duration(self.seconds)
        traffic = ", ".join(f"{each.count} {each.kind} ({each.bytes:,} bytes)" for each in self.collectives)
        lines = {
            "devices": f"{self.num_devices} x {self.device}",
            "seeds": f"{self.num_seeds:,}",
            "updates": f"{self.updates:,}",
            "memory a device": needed + ("" if self.memory is None else f" of {megabytes(self.memory)}"),
            "fits": verdict,
            "seeds that fit": seeds,
            "compiling": duration(self.compile_seconds),
            "training": time_,
            "collectives": traffic or "none",
        }
        return "\n".join([self.title, *(f"  {name:<16}{text}" for name, text in lines.items())])


class Program(NamedTuple):
    """A program for devices, or the compiler's refusal of it.

    Attributes:
      compiled: What JAX compiled; None if it needs more memory than the device has.
      bytes: Memory of it on each device.
      seconds: Of compiling.
      memory: Bytes that the device has, as far as a refusal tells.
    """

    compiled: Any
    bytes: int | None
    seconds: float
    memory: int | None = None


def plan(
    experiment: Run,
    *,
    topology: str | None = None,
    devices: int | None = None,
    row_devices: int = 1,
    max_compilations: int = 8,
) -> Plan:
    """Returns what a run needs of its device: memory, time, how many seeds would fit. It compiles, and starts nothing.

    Memory is what the compiled program says of itself, so it comes without running anything. Time is that of a few
    updates, which are run and forgotten, unless the device is not here.

    Args:
      experiment: The run.
      topology: TPUs that need not be here, such as `"v5e:2x2"`: any that
        `jax.experimental.topologies.get_topology_desc` takes. Default: the devices that are here.
      devices, row_devices: As in `gaejax.run_experiment`.
      max_compilations: How many compilations to spend, at least 1; what is more than one searches for the number of
        seeds that fit. A TPU needs about 8, other devices 2 or 3.

    Raises:
      ValueError: if the run is not valid, or there is no such topology.
      ImportError: if a topology is asked for and libtpu is not installed.
    """
    experiment.validate()
    if max_compilations < 1:
        raise ValueError(f"max_compilations must be at least 1, got {max_compilations}")
    available = jax.devices() if topology is None else tpu_devices(topology)
    experiment = replace(experiment, warm_start=None)
    algorithm, updates = experiment.build(), num_updates(experiment.config, experiment.total_steps)
    place = partial(lay_out, algorithm=algorithm, row_devices=row_devices, available=available)
    layout, _ = place(experiment, devices=devices)
    agents = layout.sizes()[SEEDS]
    num_devices = agents * row_devices
    capacity = min(-(-updates // NUM_ROWS), UPDATES_PER_CALL)

    def program_of(num_seeds: int) -> Program:
        there, shapes = place(replace(experiment, num_seeds=num_seeds), devices=num_devices)
        return compile_program(lower_training(algorithm, shapes, capacity, there))

    own = program_of(experiment.num_seeds)
    device = available[0]
    memory = device_memory(device) or own.memory
    search = _Search(program_of, experiment.num_seeds, own, agents, max_compilations)
    if device.platform == "tpu":
        seeds = search.by_compiling()
        memory = memory or search.memory
    else:
        seeds = search.by_line(memory)
    fits = own.compiled is not None
    seconds = None
    if fits and topology is None:
        call = lambda states, size: own.compiled(states, jnp.int32(size))
        seconds = updates * seconds_per_update(call, initial_states(experiment, algorithm, layout))
    return Plan(
        experiment.title,
        device.device_kind,
        num_devices,
        experiment.num_seeds,
        updates,
        own.bytes,
        memory,
        fits if device.platform == "tpu" or not fits else _is_less(own.bytes, memory),
        seeds,
        own.seconds,
        seconds,
        collectives(own.compiled.as_text()) if fits else (),
        search.compilations,
    )


class _Search:
    """The search for the largest number of seeds that fits."""

    def __init__(self, program_of: Callable[[int], Program], num_seeds: int, own: Program, unit: int, most: int):
        self.program_of, self.num_seeds, self.own, self.unit, self.most = program_of, num_seeds, own, unit, most
        self.compilations, self.memory = 1, own.memory

    def _bytes(self, num_seeds: int) -> int | None:
        self.compilations += 1
        program = self.program_of(num_seeds)
        self.memory = self.memory or program.memory
        return program.bytes

    def by_compiling(self) -> int | None:
        """Grows and bisects with compilations, since the layouts of a TPU are padded and its memory is no line.
        Returns the largest number of seeds that was accepted, to an eighth of it or what `most` allows."""
        good, bad = (self.num_seeds, None) if self.own.bytes is not None else (0, self.num_seeds)
        while self.compilations < self.most and (bad is None or bad - good > max(self.unit, good // 8)):
            middle = GROWTH * good if bad is None else (good + bad) // 2 if good else bad // GROWTH
            tried = max(self.unit, middle // self.unit * self.unit)
            if tried in (good, bad):
                break
            if self._bytes(tried) is None:
                bad = tried
            else:
                good = tried
        return good if good or bad == self.unit else None

    def by_line(self, memory: int | None) -> int | None:
        """Draws a line through two compilations."""
        few = max(self.num_seeds, LINEAR_FROM)
        missing = 1 if few == self.num_seeds else 2
        if memory is None or self.own.bytes is None or self.compilations + missing > self.most:
            return None
        low = self.own.bytes if few == self.num_seeds else self._bytes(few)
        high = self._bytes(2 * few)
        if low is None or high is None or high <= low:
            return None
        return max(0, few + int((memory - low) * few // (high - low)))


def tpu_devices(topology: str) -> list[Any]:
    """Returns the devices of TPUs that need not be here.

    Raises:
      ImportError: if libtpu is not installed.
      ValueError: if there is no such topology.
    """
    from importlib.util import find_spec

    from jax.experimental import topologies

    if find_spec("libtpu") is None:
        raise ImportError(f"topology {topology!r} needs libtpu, the compiler for TPUs: pip install 'jax[tpu]'")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else it asks a metadata server that only a TPU's host has
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # jaxlib raises what it likes
        message = str(error).partition("\n")[0]
        raise ValueError(
            f"topology must be one that libtpu knows, such as 'v5e:2x2', got {topology!r}: {message}"
        ) from error


def compile_program(lowered: Any) -> Program:
    """Compiles what was lowered, and returns its memory too: arguments and results, counted once where they share a
    buffer, and temporaries."""
    started = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found = re.search(r"available \w+ \(([\d.]+)G\)|of ([\d.]+)G hbm", str(error))
        memory = int(float(found.group(1) or found.group(2)) * 2**30) if found else None
        return Program(None, None, time.perf_counter() - started, memory)
    seconds = time.perf_counter() - started
    analysis = compiled.memory_analysis()
    arguments, results = analysis.argument_size_in_bytes, analysis.output_size_in_bytes
    return Program(compiled, arguments + results - analysis.alias_size_in_bytes + analysis.temp_size_in_bytes, seconds)


def device_memory(device: Any) -> int | None:
    """Returns the bytes that programs may use on a device: of a CPU, its share of what the host has free."""
    if device.platform == "cpu":
        free = host_memory()
        return free and free // jax.local_device_count("cpu")
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except Exception:  # a device that is not here has no statistics
        return None


def host_memory() -> int | None:
    """Returns the bytes that the host, or the container that this runs in, has free; None where it is not Linux."""
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if not meminfo.is_file():
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
    free = int(found.group(1)) * 1024 if found else None
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        left = int(limit.read_text()) - int(used.read_text())
        free = left if free is None else min(free, left)
    return free


def seconds_per_update(call: Callable[[Any, int], tuple[Any, Any]], states: Any) -> float:
    """Returns the seconds of a training step: of four, or as many as take a quarter of a second, after two to warm up.

    Args:
      call: `(states, n) -> (states, infos)`, compiled, which takes n training steps. It is called with n = 1.
      states: Where to start; their buffers may be donated to `call`.
    """
    for _ in range(2):
        states = jax.block_until_ready(call(states, 1)[0])
    started, count = time.perf_counter(), 0
    while count < 4 or (time.perf_counter() - started < 0.25):
        states = jax.block_until_ready(call(states, 1)[0])
        count += 1
    return (time.perf_counter() - started) / count


def collectives(text: str) -> tuple[Collective, ...]:
    """Returns the communication between devices in a program's HLO text, by kind."""
    text = re.sub(r"/\*.*?\*/", "", text)  # the numbers of the elements of a tuple
    found: dict[str, list[int]] = {}
    for shape, kind, start in re.findall(rf" = ([^=\n]*?) ({'|'.join(COLLECTIVES)})(-start)?\(", text):
        arrays = [_bytes_of(*array) for array in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape)]
        # The start of most kinds returns its operands too, and the start of some a context; a sum returns results only.
        results = arrays[len(arrays) // 2 :] if start and kind != "all-reduce" and len(arrays) > 1 else arrays
        found.setdefault(kind, []).append(sum(results))
    return tuple(Collective(kind, len(sizes), sum(sizes)) for kind, sizes in sorted(found.items()))


def _bytes_of(dtype: str, shape: str) -> int:
    """The size of an array as HLO writes it: `f32` and `8,128`."""
    bits = 8 if dtype == "pred" else int((re.findall(r"\d+", dtype) or ["8"])[0])
    return bits * int(np.prod([int(size) for size in shape.split(",") if size], dtype=np.int64)) // 8


def _is_less(needed: int | None, memory: int | None) -> bool | None:
    return None if needed is None or memory is None else needed <= memory


def megabytes(count: int) -> str:
    """Returns bytes as a text: MB below one GB, GB above."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """Returns seconds as a text: seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
