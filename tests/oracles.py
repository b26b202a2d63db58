"""Slow, plain, float64: what the estimators must equal. Give it NumPy arrays, or JAX ones in x64 to differentiate."""

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.testing import successor_value


def forward_view_gae(rewards, values, next_values, terminated, truncated, discount, gae_lambda, mask=None, final=None):
    """GAE as a sum over the future, `sum_k (prod of discount * lambda) * delta`, one step and one row at a time.

    Written from the definition, not from the recurrence: for each kept step it walks forward to the episode's end.
    All arrays `[T, N]`.
    """
    steps, rows = np.shape(rewards)
    differentiable = isinstance(rewards, jax.Array)
    xp = jnp if differentiable else np
    rewards, values, next_values = (xp.asarray(x, xp.float64) for x in (rewards, values, next_values))
    discount, gae_lambda = (xp.broadcast_to(xp.asarray(x, xp.float64), (steps, rows)) for x in (discount, gae_lambda))
    explicit = mask is None  # without a mask the caller's next_values are read everywhere
    mask = np.ones((steps, rows), bool) if mask is None else np.asarray(mask)
    final = np.zeros(rows) if final is None else np.asarray(final, np.float64)
    advantages = [[0.0] * rows for _ in range(steps)]
    for row in range(rows):
        for start in range(steps):
            weight, total, t = 1.0, 0.0, start
            while True:
                if mask[t, row]:
                    successor = successor_value(t, row, values, next_values, terminated, truncated, mask, explicit)
                    total += weight * (rewards[t, row] + discount[t, row] * successor - values[t, row])
                    weight *= discount[t, row] * gae_lambda[t, row]
                if terminated[t, row] or truncated[t, row]:
                    break
                t += 1
                if t == steps:
                    total += weight * final[row]
                    break
            advantages[start][row] = total
    return jnp.asarray(advantages) if differentiable else np.array(advantages)
