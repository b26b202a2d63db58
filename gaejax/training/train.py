"""Training as one pure function."""

from typing import Any

import jax

from gaejax.algorithms import Algorithm


def num_updates(config: Any, total_steps: int) -> int:
    """How many training steps collect at least `total_steps` rows, `num_envs * num_steps` each."""
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    return -(-int(total_steps) // (config.num_envs * config.num_steps))


def train(algorithm: Algorithm, key: jax.Array, config: Any, total_steps: int) -> tuple[Any, Any]:
    """Trains from scratch: a pure function to `jit`, and to `vmap` over keys and over any float of the config.

    Args:
      algorithm: what to train, for example `gaejax.ppo(environment, policy)`.
      key: the run's randomness.
      config: the algorithm's hyperparameters.
      total_steps: rows to collect, a static number; rounded up to whole training steps.

    Returns:
      The last state, and the infos of all training steps, leaves `[num_updates, ...]`.
    """
    state = algorithm.init(key, config)
    return jax.lax.scan(lambda state, _: algorithm.step(state), state, length=num_updates(config, total_steps))
