"""What a trained state is for: acting."""

from collections.abc import Callable
from typing import Any

import jax

from gaejax.algorithms import Algorithm
from gaejax.environments import rescaled_action


def export(algorithm: Algorithm, state: Any, *, greedy: bool = True) -> Callable:
    """The acting function of a trained state: policy, normalizer and the bounds of the actions in one pure function.

    Args:
      algorithm, state: whose policy acts, as it stands; `state` is that of one seed.
      greedy: whether it takes each distribution's mode, instead of a sample.

    Returns:
      `(carry, observations, resets, key) -> (carry, actions)` for `N` rows: the memory (`algorithm.initial_carry(N)` at
      first), observations `[N, ...]`, which of them start an episode `[N]`, and the randomness of samples. It depends
      on nothing else, so `jax.export.export(jax.jit(act))(...)` writes it to a file.
    """

    def act(carry: Any, observations: Any, resets: jax.Array, key: jax.Array) -> tuple[Any, Any]:
        batch = jax.tree.map(lambda x: x[None], (observations, resets))
        carry, distributions, _ = algorithm.act(state, carry, *batch)
        actions = jax.tree.map(lambda x: x[0], distributions.mode() if greedy else distributions.sample(key))
        return carry, rescaled_action(algorithm.environment.action_space, actions)

    return act
