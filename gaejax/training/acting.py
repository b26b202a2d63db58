"""What a trained state is for: acting, and starting another training."""

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


def warm_start(state: Any, source: Any) -> Any:
    """A fresh state whose policy and observation statistics are those of another run; its optimizer starts anew.

    Args:
      state: of `algorithm.init`, or several stacked.
      source: a trained state of the same policy, of any algorithm, or as many stacked.

    Raises:
      ValueError: naming the first parameter that does not fit.
    """
    parts = ("params", "observation_normalizer")
    ours, theirs = (
        dict(jax.tree_util.tree_leaves_with_path({part: getattr(each, part) for part in parts}))
        for each in (state, source)
    )
    for path in [*ours, *(path for path in theirs if path not in ours)]:
        shapes = [getattr(leaves.get(path), "shape", "none") for leaves in (ours, theirs)]
        if shapes[0] != shapes[1]:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"source must have the policy of the state: {name} is {shapes[1]} there, {shapes[0]} here")
    return state._replace(**{part: getattr(source, part) for part in parts})
