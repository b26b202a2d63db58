"""Transforms of a trajectory between the rollout and its advantages: scores, penalties, what counts."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from gaejax.policies import Policy
from gaejax.rollout import Trajectory, with_last


class TransformInit(Protocol):
    """Makes a transform's first state."""

    def __call__(self, params: Any, /) -> Any:
        """Returns the state, from the policy's parameters before training (a reference keeps a copy of them)."""
        ...


class TransformApply(Protocol):
    """Changes a trajectory."""

    def __call__(self, state: Any, trajectory: Trajectory, training_state: Any, /) -> tuple[Any, Trajectory, dict]:
        """Returns the transform's next state, the new trajectory, and a dict of diagnostics, scalars by name."""
        ...


class Transform(NamedTuple):
    """A change of trajectories that any algorithm can be given.

    Attributes:
      init: `params -> state`.
      apply: `(state, trajectory, training_state) -> (state, trajectory, info)`.
    """

    init: TransformInit
    apply: TransformApply


def first_episodes() -> Transform:
    """Masks all but the first episode of each environment: with `fresh_rows`, `num_envs` whole trajectories per update,
    as in papers that collect trajectories instead of steps. `num_steps` must be at least the longest episode."""

    def apply(nothing: tuple, trajectory: Trajectory, training_state: Any) -> tuple[tuple, Trajectory, dict]:
        first = jnp.cumsum(trajectory.resets, axis=0) <= 1
        return nothing, trajectory._replace(mask=trajectory.mask & first), {}

    return Transform(lambda params: (), apply)


def encode_once(policy: Policy) -> Transform:
    """Replaces observations by what the policy's frozen part makes of them, so that its work is done once per rollout
    and not again for every epoch. Transforms that read the observations themselves must come before it.

    Raises:
      ValueError: if the policy has no frozen part, or observations are normalized (their scale changes).
    """
    encode = policy.encode
    if encode is None:
        raise ValueError("policy of encode_once must have a frozen part, its `encode`; got one that has none")

    def apply(nothing: tuple, trajectory: Trajectory, training_state: Any) -> tuple[tuple, Trajectory, dict]:
        if training_state.config.normalize_observations:
            raise ValueError("normalize_observations must be False with encode_once: what is frozen sees one scale")
        carry, inputs = trajectory.initial_carry, with_last(trajectory)
        encoded = encode(training_state.params, carry, *inputs)[1]
        steps, last = (jax.tree.map(lambda x, part=part: x[part], encoded) for part in (slice(-1), -1))
        return nothing, trajectory._replace(observations=steps, last_observation=last), {}

    return Transform(lambda params: (), apply)
