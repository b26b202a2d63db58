"""Transforms of trajectories that any algorithm may be given."""

from typing import Any

import jax
import jax.numpy as jnp

from gaejax.policies import Policy
from gaejax.rollout import Trajectory, Transform, with_last


def first_episodes() -> Transform:
    """Only the first episode of each row counts: with `fresh_rows`, `num_envs` whole trajectories an update, as papers
    have it that collect trajectories instead of steps (`num_steps` must hold the longest)."""

    def apply(nothing: tuple, trajectory: Trajectory, state: Any) -> tuple[tuple, Trajectory, dict]:
        first = jnp.cumsum(trajectory.resets, axis=0) <= 1
        return nothing, trajectory._replace(mask=trajectory.mask & first), {}

    return Transform(lambda params: (), apply)


def encode_once(policy: Policy) -> Transform:
    """Observations become what the policy's frozen part makes of them, so that its work is done once a rollout and not
    once more for every pass over it. What reads the observations themselves goes before it in the list.

    Raises:
      ValueError: for a policy without a frozen part, or where observations are normalized (their scale changes).
    """
    if policy.encode is None:
        raise ValueError("policy of encode_once must have a frozen part, its `encode`; got one that has none")

    def apply(nothing: tuple, trajectory: Trajectory, state: Any) -> tuple[tuple, Trajectory, dict]:
        if state.config.normalize_observations:
            raise ValueError("normalize_observations must be False with encode_once: what is frozen sees one scale")
        carry, inputs = trajectory.initial_carry, with_last(trajectory)
        encoded = policy.encode(state.params, carry, *inputs)[1]
        steps, last = (jax.tree.map(lambda x, part=part: x[part], encoded) for part in (slice(-1), -1))
        return nothing, trajectory._replace(observations=steps, last_observation=last), {}

    return Transform(lambda params: (), apply)
