"""Schedules: what a hyperparameter is multiplied by as training goes on, functions of progress from 0 to 1.

Those of optax serve, stretched over one transition step: `optax.linear_schedule(1.0, 0.05, 0.1)` falls to a twentieth
in the first tenth of the run and stays there.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Schedule = Callable[[jax.Array], jax.Array]

SCHEDULES: dict[str, Schedule] = {
    "constant": optax.constant_schedule(1.0),
    "linear": lambda progress: 1 - progress,
    "cosine": optax.cosine_decay_schedule(1.0, 1),
}


def check_schedules(schedules: Mapping[str, Schedule | str]) -> dict[str, Schedule]:
    """Schedules by the field that they scale, those given by name looked up.

    Raises:
      ValueError: for an unknown name, or a schedule that is not a finite number of at least 0 everywhere in [0, 1].
    """
    checked = {}
    for field, schedule in schedules.items():
        if not callable(schedule) and schedule not in SCHEDULES:
            known = ", ".join(SCHEDULES)
            raise ValueError(f"schedule of {field} must be {known} or a function of progress, got {schedule!r}")
        checked[field] = schedule if callable(schedule) else SCHEDULES[schedule]
        with jax.ensure_compile_time_eval():
            for progress in np.linspace(0, 1, 101, dtype=np.float32):
                factor = np.asarray(checked[field](jnp.asarray(progress)))
                if factor.shape != () or not np.isfinite(factor) or factor < 0:
                    wanted = "finite number of at least 0"
                    raise ValueError(f"schedule of {field} must be a {wanted}, got {factor} at progress {progress:.2f}")
    return checked


def check_scheduled(config: Any, schedules: Mapping[str, Schedule]) -> None:
    """Raises ValueError for a schedule of what is no float of the config, or one that would never move."""
    for field in schedules:
        if not isinstance(getattr(type(config)(), field, None), float):
            raise ValueError(f"schedules must be of float fields of {type(config).__name__}, got {field!r}")
        if config.anneal_steps is None and field != "learning_rate":
            raise ValueError(f"anneal_steps must say over how many rows the schedule of {field} runs, got None")


def scheduled(config: Any, schedules: Mapping[str, Schedule], updates: jax.Array) -> Any:
    """The config behind `updates` training steps: each scheduled field multiplied by its schedule.

    Progress is the share of `anneal_steps` that has been collected, at most 1; without `anneal_steps` it stays 0.
    """
    progress = jnp.zeros(())
    if config.anneal_steps is not None:  # no product that overflows an int32
        remaining = 1 - updates * (config.num_envs * config.num_steps / config.anneal_steps)
        progress = 1 - jnp.clip(remaining, 0, 1)
    factors = {field: schedule(progress) for field, schedule in schedules.items()}
    return config.replace(**{field: getattr(config, field) * factor for field, factor in factors.items()})
