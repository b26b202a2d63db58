"""Transforms of trajectories that any algorithm may be given."""

from typing import Any

import jax.numpy as jnp

from gaejax.rollout import Trajectory, Transform


def first_episodes() -> Transform:
    """Only the first episode of each row counts: with `fresh_rows`, `num_envs` whole trajectories an update, as papers
    have it that collect trajectories instead of steps (`num_steps` must hold the longest)."""

    def apply(nothing: tuple, trajectory: Trajectory, state: Any) -> tuple[tuple, Trajectory, dict]:
        first = jnp.cumsum(trajectory.resets, axis=0) <= 1
        return nothing, trajectory._replace(mask=trajectory.mask & first), {}

    return Transform(lambda params: (), apply)
