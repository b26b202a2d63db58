"""A first check of a run's size: what it needs at least, against the memory that is there. Nothing is compiled."""

import math
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gaejax.algorithms import Algorithm, training_environment
from gaejax.rollout import rollout
from gaejax.training.run import Run
from gaejax.training.train import num_updates

MOST_UPDATES = 2**31 - 1
"""Training steps are counted in an int32."""
MOST_STEPS = 2**31 - 1
"""Transitions of a rollout are numbered in an int32."""


class Sizes(NamedTuple):
    """What a run needs at least, in bytes, all seeds together.

    Attributes:
      state: The training state.
      rollout: The trajectory of one rollout.
      evaluation: The environments of the final evaluation; 0 if there is none.
    """

    state: int
    rollout: int
    evaluation: int


def check_counts(run: Run) -> None:
    """Raises ValueError if a run's counters would overflow; one line that names the field."""
    config = run.config
    for name in ("num_envs", "num_steps"):
        if getattr(config, name) > MOST_STEPS:
            raise ValueError(f"{name} must be at most {MOST_STEPS}, got {getattr(config, name)}")
    if (transitions := config.num_envs * config.num_steps) > MOST_STEPS:
        raise ValueError(f"num_envs * num_steps must be at most {MOST_STEPS}, got {transitions}: lower num_envs")
    for name in ("num_seeds", "eval_episodes"):
        if getattr(run, name) > MOST_STEPS:
            raise ValueError(f"{name} must be at most {MOST_STEPS}, got {getattr(run, name)}")
    if (updates := num_updates(config, run.total_steps)) > MOST_UPDATES:
        most = MOST_UPDATES * transitions
        raise ValueError(
            f"total_steps must be at most {most} ({MOST_UPDATES} updates), got {run.total_steps}: {updates}"
        )


def least_sizes(run: Run, algorithm: Algorithm) -> Sizes:
    """Returns what a run needs at least, from the shapes of its state and of one rollout.

    Args:
      run: The run, whose counts `check_counts` has passed.
      algorithm: What `run.build()` returned.
    """
    environment = training_environment(algorithm.environment)
    state = jax.eval_shape(partial(_init, algorithm, run.config), jax.random.key(0))

    def collected(state: Any) -> Any:
        act = partial(algorithm.act, state)
        key, params = jax.random.key(0), state.environment_params
        return rollout(key, environment, params, act, state.rollout, run.config.num_steps)[1]

    def first(key: jax.Array) -> Any:
        return algorithm.environment.reset(key, algorithm.environment.params), algorithm.initial_carry(1)

    episode = _bytes(jax.eval_shape(first, jax.random.key(0)))
    return Sizes(
        state=run.num_seeds * _bytes(state),
        rollout=run.num_seeds * _bytes(jax.eval_shape(collected, state)),
        evaluation=run.num_seeds * run.eval_episodes * episode if run.is_evaluated else 0,
    )


def check_sizes(run: Run, algorithm: Algorithm, memory: int | None = None) -> None:
    """Refuses a run that cannot fit into the memory of the devices, before anything is compiled or written.

    It compares what the run needs at least: one that passes may still be too large.

    Args:
      run: The run.
      algorithm: What `run.build()` returned.
      memory: Bytes; default: those of all devices, `device_memory()`.

    Raises:
      ValueError: in one line, with the need, the memory, and the field to lower.
    """
    check_counts(run)
    memory = device_memory() if memory is None else memory
    needs = least_sizes(run, algorithm)
    seeds = f"{run.num_seeds} seeds" if run.num_seeds > 1 else "one seed"
    parts = {
        "num_envs": (needs.state + needs.rollout, f"the state and one rollout of {seeds}"),
        "eval_episodes": (needs.evaluation, f"{run.eval_episodes:,} episodes of {seeds}"),
    }
    for name, (need, what) in parts.items():
        if need > memory:
            lowered = "num_seeds" if need // run.num_seeds <= memory else name
            raise ValueError(
                f"{lowered} must be lowered: {what} need at least {_gib(need)}, and there are {_gib(memory)}"
            )


def check_episodes(run: Run, algorithm: Algorithm, name: str, episodes: int) -> None:
    """Raises ValueError, naming the argument, if so many episodes of each seed cannot be played at once."""
    if episodes > MOST_STEPS:
        raise ValueError(f"{name} must be at most {MOST_STEPS}, got {episodes}")
    environment = algorithm.environment
    one = jax.eval_shape(lambda key: environment.reset(key, environment.params), jax.random.key(0))
    need, memory = run.num_seeds * episodes * _bytes(one), device_memory()
    if need > memory:
        raise ValueError(f"{name} must be lowered: {episodes:,} need at least {_gib(need)}, there are {_gib(memory)}")


def device_memory() -> int:
    """Returns the bytes of memory that a run can be split over: of all accelerators, or the machine's (of the control
    group, if that has less)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] * jax.device_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(memory, int(text)) if text.isdigit() else memory


def _init(algorithm: Algorithm, config: Any, key: jax.Array) -> Any:
    return algorithm.init(key, config)


def _bytes(tree: Any) -> int:
    """Returns the bytes of all arrays of a tree, of keys those of their data."""
    return sum(math.prod(leaf.shape) * _itemsize(leaf) for leaf in jax.tree.leaves(tree))


def _itemsize(leaf: Any) -> int:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return math.prod(jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), leaf.dtype)).shape) * 4
    return np.dtype(leaf.dtype).itemsize


def _gib(number: int) -> str:
    return f"{number / 2**30:,.3g} GiB"
