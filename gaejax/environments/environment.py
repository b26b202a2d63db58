"""The environment protocol: a value with two pure functions."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from gaejax.environments.spaces import Space


class ResetFn(Protocol):
    """Starts an episode of one environment."""

    def __call__(self, key: jax.Array, params: Any, /) -> tuple[Any, Any]:
        """Returns `(state, observation)`.

        Args:
          key: Randomness of the start.
          params: The environment's params.
        """
        ...


class StepFn(Protocol):
    """Takes one step in one environment, without resetting it."""

    def __call__(
        self, key: jax.Array, state: Any, action: Any, params: Any, /
    ) -> tuple[Any, Any, Any, Any, Any, Mapping[str, Any]]:
        """Returns `(state, observation, reward, terminated, truncated, info)`; see `Environment`.

        Args:
          key: Randomness of the step.
          state: As `reset` or the step before returned it.
          action: An element of the action space.
          params: The environment's params.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Environment:
    """An environment is a value. Both functions are pure, act on one environment (callers `vmap` them), and do not
    reset it. `gaejax.environments.check_environment` tests that one keeps to this protocol.

    Attributes:
      name: What it is called in messages and files.
      reset: `(key, params) -> (state, observation)`. The state is a pytree of arrays.
      step: `(key, state, action, params) -> (state, observation, reward, terminated, truncated, info)`. `reward` is a
        scalar. `terminated`: the value of the next state is 0. `truncated`: the episode was cut, and the next state has
        a value; where both are set, termination wins. `info` is a dict; two of its entries have a meaning.
        `info["trainable"]`, a boolean: whether the action was the policy's own (false: a forced action, kept out of
        every loss and statistic). `info["metrics"]`, a dict of scalars: averaged over episodes at their last steps.
      observation_space: `Discrete`, `Box`, `MultiDiscrete`, `MultiBinary`, or a `Dict` of these.
      action_space: `Discrete`, `MultiDiscrete`, or a `Box` with one axis.
      params: A pytree passed to both functions; its array and number leaves can be vmapped.
    """

    name: str
    reset: ResetFn
    step: StepFn
    observation_space: Space
    action_space: Space
    params: Any = ()

    def replace(self, **changes: Any) -> "Environment":
        """Returns a copy with other fields."""
        return dataclasses.replace(self, **changes)
