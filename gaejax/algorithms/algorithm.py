"""What an algorithm is: a value with pure functions, bound to an environment and a policy."""

from typing import Any, NamedTuple, Protocol

import jax

from gaejax.algorithms.state import TrainingInfo, TrainingState
from gaejax.environments import Environment


class InitFn(Protocol):
    """Makes the first training state."""

    def __call__(self, key: jax.Array, config: Any, source: TrainingState | None = None) -> TrainingState:
        """Returns the state before the first training step.

        Args:
          key: the run's randomness.
          config: the algorithm's hyperparameters.
          source: a trained state of any algorithm with the same policy, for a warm start: its parameters and its
            observation statistics are taken over, its optimizer state is not.

        Raises:
          ValueError, TypeError: for a config, key or environment that cannot be trained, naming it.
        """
        ...


class StepFn(Protocol):
    """Takes one training step."""

    def __call__(self, state: TrainingState, /) -> tuple[TrainingState, TrainingInfo]:
        """Returns the state and the diagnostics after one rollout and the updates made from it."""
        ...


class ActFn(Protocol):
    """Applies the policy of a training state."""

    def __call__(
        self, state: TrainingState, carry: Any, observations: Any, resets: jax.Array, /
    ) -> tuple[Any, Any, jax.Array]:
        """Returns `(carry, distributions, values)` for observations `[T, N, ...]`, which it normalizes, and resets
        `[T, N]`."""
        ...


class InitialCarryFn(Protocol):
    """Makes the policy's memory."""

    def __call__(self, batch: int, /) -> Any:
        """Returns the memory of `batch` environments before their first observation, leaves `[batch, ...]`."""
        ...


class Algorithm(NamedTuple):
    """A training algorithm, bound to an environment and a policy, in the manner of optax and blackjax.

    Attributes:
      init: `(key, config, source=None) -> state`. The state is everything that must persist, the config included.
      step: `state -> (state, info)`: one rollout and its updates. The info is small and aggregated.
      act: `(state, carry, observations, resets) -> (carry, distributions, values)`: the policy as it stands, including
        observation normalization, over time-major `[T, N, ...]`.
      initial_carry: `N -> carry`, the policy's memory before the first observation.
      environment: what it trains on, as the caller gave it (without auto-reset).
    """

    init: InitFn
    step: StepFn
    act: ActFn
    initial_carry: InitialCarryFn
    environment: Environment
