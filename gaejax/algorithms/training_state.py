"""What on-policy training steps take, keep and return: values, apart from what is done with them."""

from typing import Any, NamedTuple

import jax
from flax import struct

from gaejax.algorithms.core import check_config
from gaejax.normalizers import Identity, ObservationNormalizer, RewardNormalizer
from gaejax.rollout import EpisodeStatistics, RolloutState, Trajectory


@struct.dataclass
class OnPolicyConfig:
    """The hyperparameters of every on-policy algorithm. Floats are pytree leaves (traced: sweep them with `vmap`), all
    else is static. (A base class only of fields, so that each algorithm's config is one flat list of flags.)"""

    num_envs: int = struct.field(default=16, pytree_node=False)
    """Rows of a rollout, N."""
    num_steps: int = struct.field(default=128, pytree_node=False)
    """Steps of a rollout, T."""
    anneal_steps: float | None = None
    """Rows collected (T * N an update) until the schedules have run their course; None keeps them at their start."""
    discount: float = 0.99
    """Gamma: what a reward is worth one step earlier."""
    gae_lambda: float = 0.95
    """Lambda of the estimator: 0 trusts the critic, 1 the rewards that were seen."""
    fresh_rows: bool = struct.field(default=False, pytree_node=False)
    """Whether every rollout starts new episodes; else rows go on where they stand, memory included."""
    burn_in_steps: int = struct.field(default=0, pytree_node=False)
    """Steps at a rollout's start that bear no loss in rows that go on: their memory is that of older parameters."""
    normalize_observations: bool = struct.field(default=False, pytree_node=False)
    """Whether running statistics scale the observations."""
    normalize_rewards: bool = struct.field(default=False, pytree_node=False)
    """Whether the running spread of the discounted return scales the rewards."""
    explain: bool = struct.field(default=False, pytree_node=False)
    """Whether the info says why a run may be bad (see `gaejax.algorithms.explain`); costs a gradient of the rollout."""

    def validate(self) -> None:
        """Raises ValueError, with one line that names the field, for a config that cannot be trained."""
        check_config(self, unit_interval=("discount", "gae_lambda"), positive=("anneal_steps",))
        if self.burn_in_steps >= self.num_steps:
            raise ValueError(f"burn_in_steps must be less than num_steps = {self.num_steps}, got {self.burn_in_steps}")


class TrainingState(NamedTuple):
    """Everything that must persist between two training steps."""

    params: Any
    optimizer: Any
    rollout: RolloutState
    environment_params: Any
    observation_normalizer: ObservationNormalizer | Identity
    reward_normalizer: RewardNormalizer | Identity
    transforms: tuple
    key: jax.Array
    updates: jax.Array
    config: Any


class TrainingInfo(NamedTuple):
    """Diagnostics of one training step, scalars; losses are means over its minibatches. None: not of this algorithm.

    Attributes:
      env_steps: steps taken in the environment (rows that show a final observation do not count).
      episodes: how many ended in this rollout.
      episode_return, episode_length: their means, undiscounted and unscaled; NaN where none ended.
      explained_variance: of the value targets by the values they were made with.
      policy_loss, value_loss, entropy: the three terms of the loss, unweighted.
      learning_rate: of this update.
      gradient_norm: the global norm before clipping.
      approx_kl: KL(old || new), and its `clip_fraction`, the share of ratios outside the clip range.
      first_log_ratio: the largest |log ratio| on the first minibatch of the first epoch: 0 but for rounding, or the
        update does not see what the rollout saw.
      extra: what else the algorithm, its transforms or `explain` have to say, by name.
    """

    env_steps: jax.Array
    episodes: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    explained_variance: jax.Array
    policy_loss: jax.Array | None = None
    value_loss: jax.Array | None = None
    entropy: jax.Array | None = None
    learning_rate: jax.Array | None = None
    gradient_norm: jax.Array | None = None
    approx_kl: jax.Array | None = None
    clip_fraction: jax.Array | None = None
    first_log_ratio: jax.Array | None = None
    extra: dict = {}  # noqa: RUF012 (never written to)


class Experience(NamedTuple):
    """A rollout, and what belongs to the training step that made it: its scheduled config, its key, what persists."""

    config: Any
    key: jax.Array
    trajectory: Trajectory
    episodes: EpisodeStatistics
    persisting: dict
    info: dict
