"""The policy protocol: a value with three pure functions."""

from typing import Any, NamedTuple, Protocol

import jax

from gaejax.distributions import CategoricalValue, Distribution
from gaejax.environments import Space


class PolicyInit(Protocol):
    """Draws the parameters of a policy."""

    def __call__(self, key: jax.Array, /) -> Any:
        """Returns the parameters, a pytree."""
        ...


class InitialCarry(Protocol):
    """Makes the memory before the first observation."""

    def __call__(self, batch: int, /) -> Any:
        """Returns a pytree with leaves `[N, ...]` for `batch` = N environments; `()` without memory."""
        ...


class PolicyApply(Protocol):
    """Computes action distributions and values."""

    def __call__(
        self, params: Any, carry: Any, observations: Any, resets: jax.Array, /
    ) -> tuple[Any, Distribution, jax.Array | CategoricalValue]:
        """Returns `(carry, distributions, values)`.

        Args:
          params: The parameters.
          carry: The memory before the first of these steps, leaves `[N, ...]`.
          observations: `[T, N, ...]`.
          resets: Booleans `[T, N]`: observation t starts an episode, so the carry is cleared before it is read.

        Returns:
          The memory after the last step; a distribution with leading axes `[T, N]`; and values `[T, N]`.
        """
        ...


class PolicyEncode(Protocol):
    """Computes what the frozen part of a policy makes of observations."""

    def __call__(self, params: Any, carry: Any, observations: Any, resets: jax.Array, /) -> tuple[Any, Any]:
        """Returns `(carry, encoded)`; arguments are as for `PolicyApply`."""
        ...


class Policy(NamedTuple):
    """An actor-critic, with or without memory.

    Applying T steps at once must equal applying them in consecutive chunks (the law of cuts); acting uses T = 1.
    `gaejax.testing.check_policy` tests this.

    Attributes:
      init: `key -> params`.
      initial_carry: `batch size N -> carry`, every leaf `[N, ...]`; `()` for a policy without memory.
      apply: `(params, carry, observations, resets) -> (carry, distributions, values)` over time-major observations
        `[T, N, ...]` and booleans `[T, N]`; `resets[t]` says that observation t starts an episode, so the carry is
        cleared before it is read. `values` is `[T, N]`, or a `CategoricalValue` with these leading axes.
      observation_space: The space that it was made for, if known; `gaejax.testing.check_policy` draws from it.
      encode: `(params, carry, observations, resets) -> (carry, encoded)`, for a policy with a frozen part: the output
        of that part, which `apply` accepts in place of observations. `gaejax.transforms.encode_once` uses it.
    """

    init: PolicyInit
    initial_carry: InitialCarry
    apply: PolicyApply
    observation_space: Space | None = None
    encode: PolicyEncode | None = None


def check_is_policy(policy: Any) -> None:
    """Raises TypeError, with one line, unless the argument is a `gaejax.Policy`."""
    if isinstance(policy, Policy):
        return
    what = "None" if policy is None else f"a {type(policy).__module__}.{type(policy).__qualname__}"
    remedy = "make one with gaejax.mlp_policy(environment) or gaejax.Policy(...)"
    raise TypeError(f"policy must be a gaejax.Policy, got {what.replace('builtins.', '')}: {remedy}")
