"""The policy protocol."""

from collections.abc import Callable
from typing import NamedTuple

from gaejax.environments import Space


class Policy(NamedTuple):
    """An actor-critic that may remember. Cutting time anywhere changes nothing: acting is `T = 1`.

    Attributes:
      init: `key -> params`.
      initial_carry: `batch size N -> carry`, every leaf `[N, ...]`; a policy without memory has none: `()`.
      apply: `(params, carry, observations, resets) -> (carry, distributions, values)` over time-major `[T, N, ...]`
        observations and `[T, N]` booleans; `resets[t]` says that observation t starts an episode, so the carry is
        cleared before it is read. `values` is `[T, N]`, or a `CategoricalValue` over it.
      observation_space: what it was made for, if known; `gaejax.testing.check_policy` draws from it.
      encode: `(params, carry, observations, resets) -> (carry, encoded)`, where a part of the policy is frozen: what
        that part makes of observations, which `apply` takes in their place: `gaejax.transforms.encode_once`.
    """

    init: Callable
    initial_carry: Callable
    apply: Callable
    observation_space: Space | None = None
    encode: Callable | None = None
