"""Export: the acting function of a trained state."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from gaejax.algorithms import Algorithm
from gaejax.environments import rescaled_action


class ActingFn(Protocol):
    """Acts in N environments at once; the type of what `export` returns."""

    def __call__(self, carry: Any, observations: Any, resets: jax.Array, key: jax.Array) -> tuple[Any, Any]:
        """Returns the next memory and the actions.

        Args:
          carry: The policy's memory; `algorithm.initial_carry(N)` at first.
          observations: `[N, ...]`.
          resets: Which of them start an episode, bool `[N]`.
          key: Randomness of the actions; not used by a greedy policy.

        Returns:
          The carry and the actions `[N, ...]`, in the environment's own units.
        """
        ...


def export(algorithm: Algorithm, state: Any, *, greedy: bool = True) -> ActingFn:
    """Returns the acting function of a trained state: policy, normalizer and action bounds in one pure function.

    It depends on nothing else, so `jax.export.export(jax.jit(act))(...)` can write it to a file (this needs the package
    flatbuffers).

    Args:
      algorithm: The algorithm that `state` was trained with.
      state: The training state of one seed; `vmap` over more.
      greedy: Whether to take each distribution's mode instead of a sample.

    Raises:
      ValueError: if `state` is of several seeds.
    """
    check_single(state)

    def act(carry: Any, observations: Any, resets: jax.Array, key: jax.Array) -> tuple[Any, Any]:
        batch = jax.tree.map(lambda x: x[None], (observations, resets))
        carry, distributions, _ = algorithm.act(state, carry, *batch)
        actions = jax.tree.map(lambda x: x[0], distributions.mode() if greedy else distributions.sample(key))
        return carry, rescaled_action(algorithm.environment.action_space, actions)

    return act


def check_single(state: Any) -> None:
    """Raises ValueError if a training state is of several seeds."""
    seeds = jnp.shape(getattr(state, "updates", 0))
    if seeds:
        raise ValueError(f"state is of {' x '.join(map(str, seeds))} seeds: vmap over it, or take one of them")
