"""Training as one pure function."""

import numbers
from typing import Any

import jax

from gaejax._arguments import short
from gaejax.algorithms import Algorithm


def num_updates(config: Any, total_steps: int) -> int:
    """Returns how many training steps collect at least `total_steps` transitions, `num_envs * num_steps` each."""
    if isinstance(total_steps, bool) or not isinstance(total_steps, numbers.Real) or not total_steps >= 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps!r}")
    return -(-int(total_steps) // (config.num_envs * config.num_steps))


def train(algorithm: Algorithm, key: jax.Array, config: Any, total_steps: int) -> tuple[Any, Any]:
    """Trains from scratch. A pure function: `jit` it, and `vmap` it over keys and over any float of the config.

    Args:
      algorithm: What to train, for example `gaejax.ppo(environment, policy)`.
      key: The run's randomness.
      config: The algorithm's hyperparameters.
      total_steps: Transitions to collect, static; rounded up to whole training steps.

    Returns:
      The last state, and the infos of all training steps, leaves `[num_updates, ...]`.

    Raises:
      ValueError: if `total_steps` is less than 1 or the config cannot be trained.
    """
    if not isinstance(algorithm, Algorithm):
        raise TypeError(
            f"algorithm must be an Algorithm, such as gaejax.ppo(environment, policy), got {short(algorithm)}"
        )
    state = algorithm.init(key, config)
    return jax.lax.scan(lambda state, _: algorithm.step(state), state, length=num_updates(config, total_steps))
