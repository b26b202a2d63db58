"""GAE in float64, from its definition. Imports nothing from the package, so that it can be compared with all of it."""

from typing import Any

import numpy as np


def reference_gae(
    *,
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    discount: Any,
    gae_lambda: Any,
    mask: Any = None,
    final_advantage: Any = None,
) -> tuple[Any, Any]:
    """Computes GAE by the forward view: for each step, the weighted sum of the deltas up to the end of its segment
    (Schulman et al. 2016, equation 16). Slow, and without a recurrence that could be wrong.

    Args:
      rewards, values, next_values, terminated, truncated, discount, gae_lambda, mask, final_advantage: As in
        `gaejax.gae`, with arrays `[T, N]`. If `rewards` is a JAX array, the floats may be differentiated (in x64 mode;
        otherwise JAX has no float64).

    Returns:
      `(advantages, value_targets)`, each `[T, N]` in float64. Values at masked steps count for nothing: only kept steps
      are summed, and the successor of a kept step is the next one.
    """
    is_numpy = isinstance(rewards, np.ndarray) or not hasattr(rewards, "__array_namespace__")
    xp: Any = np if is_numpy else rewards.__array_namespace__()
    rewards, values, next_values = (xp.asarray(x, dtype=xp.float64) for x in (rewards, values, next_values))
    steps, rows = rewards.shape
    discount, gae_lambda = (xp.asarray(x, dtype=xp.float64) for x in (discount, gae_lambda))
    discount, gae_lambda = (xp.broadcast_to(x, (steps, rows)) for x in (discount, gae_lambda))
    kept = np.ones((steps, rows), bool) if mask is None else np.asarray(mask)
    terminated, truncated = np.asarray(terminated), np.asarray(truncated)
    final = np.zeros(rows) if final_advantage is None else final_advantage
    advantages: list[list[Any]] = [[0.0] * rows for _ in range(steps)]
    for row in range(rows):
        deltas: list[Any] = [0.0] * steps
        for t in range(steps):
            if kept[t, row]:
                successor = successor_value(t, row, values, next_values, terminated, truncated, kept, mask is None)
                deltas[t] = rewards[t, row] + discount[t, row] * successor - values[t, row]
        for start in range(steps):
            weight: Any = 1.0
            for t in range(start, steps):
                if kept[t, row]:
                    advantages[start][row] += weight * deltas[t]
                    weight = weight * discount[t, row] * gae_lambda[t, row]
                if terminated[t, row] or truncated[t, row]:
                    break
            else:
                advantages[start][row] += weight * final[row]
    result = xp.asarray(advantages, dtype=xp.float64)
    return result, xp.where(kept, result + values, 0)


def successor_value(
    t: int,
    row: int,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    kept: Any,
    explicit: bool,
) -> Any:
    """Returns the value after kept step t: of the next kept step of its segment, or what ends the segment.

    With `explicit` (there is no mask) it is the caller's next value, unless step t terminated.
    """
    while True:
        if terminated[t, row]:
            return 0.0
        if truncated[t, row] or explicit or t == len(values) - 1:
            return next_values[t, row]
        t += 1
        if kept[t, row]:
            return values[t, row]
