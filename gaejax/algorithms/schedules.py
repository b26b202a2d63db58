"""Schedules: factors of a hyperparameter, functions of progress from 0 to 1.

Schedules of optax fit if their `transition_steps` are a share of the run: `optax.linear_schedule(1.0, 0.05, 0.1)` falls
to 0.05 in the first tenth of the run and stays there.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
import optax

from gaejax._arguments import did_you_mean

Schedule = Callable[[jax.Array], jax.typing.ArrayLike]

SCHEDULES: dict[str, Schedule] = {
    "constant": optax.constant_schedule(1.0),
    "linear": lambda progress: 1 - progress,
    "cosine": optax.cosine_decay_schedule(1.0, 1),
}


def resolved_schedules(schedules: Mapping[str, Schedule | str]) -> dict[str, Schedule]:
    """Returns schedules by the field that they scale, with names looked up.

    Raises:
      ValueError: for an unknown name, or a schedule that is not a finite number of at least 0 everywhere in [0, 1].
    """
    resolved = {}
    for field, schedule in schedules.items():
        if not callable(schedule) and schedule not in SCHEDULES:
            known = ", ".join(SCHEDULES)
            raise ValueError(f"schedule of {field} must be {known} or a function of progress, got {schedule!r}")
        resolved[field] = schedule if callable(schedule) else SCHEDULES[schedule]
        with jax.ensure_compile_time_eval():
            for progress in np.linspace(0, 1, 101, dtype=np.float32):
                factor = np.asarray(resolved[field](jnp.asarray(progress)))
                if factor.shape != () or not np.isfinite(factor) or factor < 0:
                    wanted = "finite number of at least 0"
                    raise ValueError(f"schedule of {field} must be a {wanted}, got {factor} at progress {progress:.2f}")
    return resolved


def check_scheduled(config: Any, schedules: Mapping[str, Schedule]) -> None:
    """Raises ValueError if a schedule names a field that is not a float, or would never move because `anneal_steps` is
    None."""
    floats = [name for name, default in vars(type(config)()).items() if isinstance(default, float)]
    for field in schedules:
        if field not in floats:
            hint = did_you_mean(field, floats)
            raise ValueError(f"schedules must be of float fields of {type(config).__name__}, got {field!r}{hint}")
        if config.anneal_steps is None and field != "learning_rate":
            raise ValueError(f"anneal_steps must be the transitions over which {field} is scheduled, got None")
