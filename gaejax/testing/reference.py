"""GAE in float64, from its definition."""

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
) -> tuple[np.ndarray, np.ndarray]:
    """GAE in float64 by the forward view: for each step, the weighted sum of the deltas up to its segment's end
    (Schulman et al. 2016, equation 16). Slow, and without a recurrence that could be wrong. Arrays `[T, N]`.

    With `mask`, masked steps are deleted: only kept steps are summed, and a kept step's successor is the next one.
    """
    rewards, values, next_values = (np.asarray(x, np.float64) for x in (rewards, values, next_values))
    steps, rows = rewards.shape
    discount, gae_lambda = (np.broadcast_to(np.asarray(x, np.float64), (steps, rows)) for x in (discount, gae_lambda))
    kept = np.ones((steps, rows), bool) if mask is None else np.asarray(mask)
    advantages = np.zeros((steps, rows))
    for row in range(rows):
        deltas = np.zeros(steps)
        for t in range(steps):
            if kept[t, row]:
                successor = successor_value(t, row, values, next_values, terminated, truncated, kept, mask is None)
                deltas[t] = rewards[t, row] + discount[t, row] * successor - values[t, row]
        for start in range(steps):
            weight = 1.0
            for t in range(start, steps):
                if kept[t, row]:
                    advantages[start, row] += weight * deltas[t]
                    weight *= discount[t, row] * gae_lambda[t, row]
                if terminated[t, row] or truncated[t, row]:
                    break
    return advantages, np.where(kept, advantages + values, 0)


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
    """The value behind kept step t: of the next kept step of its segment, or what stands at the segment's end. With
    `explicit` (there is no mask) the caller's next value."""
    while True:
        if terminated[t, row]:
            return 0.0
        if truncated[t, row] or explicit or t == len(values) - 1:
            return next_values[t, row]
        t += 1
        if kept[t, row]:
            return values[t, row]


# What people get wrong, each as the GAE that one obtains by it: the cause named is the one that gives what was got.
