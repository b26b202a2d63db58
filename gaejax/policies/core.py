"""The policy protocol: a value with three pure functions."""

from collections.abc import Callable
from typing import NamedTuple


class Policy(NamedTuple):
    """An actor-critic that may remember. Cutting time anywhere changes nothing: acting is `T = 1`.

    Attributes:
      init: `key -> params`.
      initial_carry: `batch size N -> carry`, every leaf `[N, ...]`; a policy without memory has none: `()`.
      apply: `(params, carry, observations, resets) -> (carry, distributions, values)` over time-major `[T, N, ...]`
        observations and `[T, N]` booleans; `resets[t]` says that observation t starts an episode, so the carry is
        cleared before it is read. `values` is `[T, N]`.
    """

    init: Callable
    initial_carry: Callable
    apply: Callable
