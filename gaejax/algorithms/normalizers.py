"""Normalizers: values in the training state, which are saved, evaluated and exported with the policy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.environments import Box, Dict, Space
from gaejax.recurrence import reverse_linear_recurrence
from gaejax.rollout import Trajectory
from gaejax.statistics import RunningMoments


class ObservationNormalizer(NamedTuple):
    """Shifts and scales observations to running mean 0 and standard deviation 1, and clips them to [-10, 10].

    Update it *after* the policy update that used it. Otherwise the first minibatch sees other inputs than the rollout
    did, and its probability ratio is not 1.

    Attributes:
      moments: of a box; of a dict, those of its parts; None for parts that are not scaled (integers, booleans).
    """

    moments: Any

    @classmethod
    def create(cls, space: Space) -> "ObservationNormalizer":
        """Returns the normalizer of a space, before any observation: it changes nothing."""
        if isinstance(space, Dict):
            return cls({name: cls.create(part).moments for name, part in space.spaces.items()})
        return cls(RunningMoments.empty(space.shape) if isinstance(space, Box) else None)

    def __call__(self, observations: Any) -> Any:
        """Returns normalized observations `[..., *shape]`."""

        def normalize(moments: RunningMoments | None, part: jax.Array) -> jax.Array:
            return part if moments is None else jnp.clip((part - moments.mean) / moments.std(), -10, 10)

        return jax.tree.map(normalize, self.moments, observations, is_leaf=_is_part)

    def update(self, trajectory: Trajectory) -> "ObservationNormalizer":
        """Takes in the observations of a trajectory's unmasked steps."""

        def update(moments: RunningMoments | None, part: jax.Array) -> RunningMoments | None:
            return None if moments is None else moments.update(part, trajectory.mask)

        return ObservationNormalizer(jax.tree.map(update, self.moments, trajectory.observations, is_leaf=_is_part))


def _is_part(moments: Any) -> bool:
    return moments is None or isinstance(moments, RunningMoments)


class RewardNormalizer(NamedTuple):
    """Divides rewards by the running standard deviation of the discounted return so far (Engstrom et al. 2020,
    arXiv:2005.12729). The return restarts with each episode. Update it *before* scaling.

    Attributes:
      moments: of the discounted returns.
      discounted_return: `[N]`, of the current episodes.
    """

    moments: RunningMoments
    discounted_return: jax.Array

    @classmethod
    def create(cls, num_envs: int) -> "RewardNormalizer":
        """Returns the normalizer of `num_envs` environments, before any reward: it changes nothing."""
        return cls(RunningMoments.empty(()), jnp.zeros(num_envs, jnp.float32))

    def __call__(self, rewards: jax.Array) -> jax.Array:
        """Returns scaled rewards."""
        return rewards / self.moments.std()

    def update(self, trajectory: Trajectory, discount: jax.Array) -> "RewardNormalizer":
        """Takes in a rollout's rewards `[T, N]`. Masked steps, and rewards that are not finite, are passed over."""
        mask = trajectory.mask & jnp.isfinite(trajectory.rewards)
        backwards = reverse_linear_recurrence(
            jnp.where(mask, trajectory.rewards, 0)[::-1],
            jnp.where(mask, discount, 1)[::-1],
            self.discounted_return,
            reset=trajectory.resets[::-1],
        )
        return RewardNormalizer(self.moments.update(backwards[::-1], mask), backwards[0])
