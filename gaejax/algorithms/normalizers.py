"""Normalizers are values: they live in the training state, and are saved, evaluated and exported with the policy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.environments import Box, Dict, Space
from gaejax.recurrence import reverse_linear_recurrence
from gaejax.rollout import Trajectory
from gaejax.statistics import RunningMoments


class Identity(NamedTuple):
    """The normalizer that does nothing."""

    def __call__(self, values: Any) -> Any:
        return values

    def update(self, *_: Any) -> "Identity":
        return self


class ObservationNormalizer(NamedTuple):
    """Shifts and scales observations to running mean 0 and standard deviation 1, and clips them to [-10, 10].

    Update it *after* the policy update that used it: else the first minibatch sees other inputs than the rollout did,
    and its probability ratio is not 1.

    Attributes:
      moments: of a box; of a dict, those of its parts; None for what is left as it is (integers, booleans).
    """

    moments: Any

    @classmethod
    def create(cls, space: Space) -> "ObservationNormalizer":
        """For observations of `space`."""
        if isinstance(space, Dict):
            return cls({name: cls.create(part).moments for name, part in space.spaces.items()})
        return cls(RunningMoments.empty(space.shape) if isinstance(space, Box) else None)

    def __call__(self, observations: Any) -> Any:
        def normalize(moments: RunningMoments | None, part: jax.Array) -> jax.Array:
            return part if moments is None else jnp.clip((part - moments.mean) / moments.std(), -10, 10)

        return jax.tree.map(normalize, self.moments, observations, is_leaf=_is_part)

    def update(self, trajectory: Trajectory) -> "ObservationNormalizer":
        """Takes in the observations that the policy acted on."""

        def update(moments: RunningMoments | None, part: jax.Array) -> RunningMoments | None:
            return None if moments is None else moments.update(part, trajectory.mask)

        return ObservationNormalizer(jax.tree.map(update, self.moments, trajectory.observations, is_leaf=_is_part))


def _is_part(moments: Any) -> bool:
    return moments is None or isinstance(moments, RunningMoments)


class RewardNormalizer(NamedTuple):
    """Divides rewards by the running standard deviation of the discounted return so far (Engstrom et al. 2020).

    The sum starts anew with each episode, after the last reward of the one before it. Update it *before* scaling.
    """

    moments: RunningMoments
    discounted_return: jax.Array

    @classmethod
    def create(cls, num_rows: int) -> "RewardNormalizer":
        return cls(RunningMoments.empty(()), jnp.zeros(num_rows, jnp.float32))

    def __call__(self, rewards: jax.Array) -> jax.Array:
        return rewards / self.moments.std()

    def update(self, trajectory: Trajectory, discount: jax.Array) -> "RewardNormalizer":
        """Takes in a rollout's rewards `[T, N]`; a masked step is passed over."""
        mask = trajectory.mask
        backwards = reverse_linear_recurrence(
            jnp.where(mask, trajectory.rewards, 0)[::-1],
            jnp.where(mask, discount, 1)[::-1],
            self.discounted_return,
            reset=trajectory.resets[::-1],
        )
        return RewardNormalizer(self.moments.update(backwards[::-1], mask), backwards[0])
