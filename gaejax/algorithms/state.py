"""What a training step takes, keeps and returns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.algorithms.normalizers import ObservationNormalizer, RewardNormalizer
from gaejax.rollout import EpisodeStatistics, RolloutState, Trajectory
from gaejax.statistics import Identity


class TrainingState(NamedTuple):
    """Everything that must persist between two training steps.

    Attributes:
      params: the policy's parameters.
      optimizer: the optimizer's state.
      rollout: where the environments stand, with the policy's memory.
      environment_params: the environment's params.
      observation_normalizer, reward_normalizer: running statistics, or `Identity`.
      transforms: the states of the trajectory transforms, in order.
      key: randomness of the steps to come.
      updates: how many training steps have been taken, int32.
      config: the hyperparameters as they were given; never written to.
      algorithm: what one algorithm keeps for itself (an adaptive coefficient, a lagged actor); `()` if nothing.
    """

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
    algorithm: Any = ()


class Experience(NamedTuple):
    """What `collect` returns: a rollout, and the parts of the state that it moved on.

    Attributes:
      trajectory: `[T, N]` transitions, transformed.
      episodes: statistics of the episodes that ended.
      rollout: where the environments stand now.
      reward_normalizer: updated with the rewards of this rollout, which it scales.
      transforms: the transforms' new states.
      info: the transforms' diagnostics, scalars by name.
    """

    trajectory: Trajectory
    episodes: EpisodeStatistics
    rollout: RolloutState
    reward_normalizer: RewardNormalizer | Identity
    transforms: tuple
    info: dict[str, jax.Array]


class TrainingInfo(NamedTuple):
    """Diagnostics of one training step, scalars. Losses are means over its minibatches. None: the algorithm has none.

    Attributes:
      env_steps: environment steps taken (transitions that only show a final observation do not count).
      episodes: number of episodes that ended in this rollout.
      episode_return, episode_length: their means, undiscounted and unscaled; NaN if none ended (0 in a program traced
        under `jax.debug_nans`, which is a search for NaNs that should not be there).
      explained_variance: `1 - Var[value_targets - values] / Var[value_targets]`.
      policy_loss, value_loss, entropy: the three terms of the loss, unweighted.
      learning_rate: of this update.
      gradient_norm: global norm before clipping.
      approx_kl: estimate of KL(old || new).
      clip_fraction: share of probability ratios outside the clip range.
      first_log_ratio: largest |log ratio| on the first minibatch of the first epoch: 0 up to rounding, unless the
        update does not see what the rollout saw.
      extra: other diagnostics of the algorithm, its transforms, the environment (`info["metrics"]`, means over episodes
        at their ends) or `explain`, by name.
      nonfinite: how many numbers were NaN or infinite, int32, by what they are: "observations" and "rewards" of the
        policy's own steps, "losses" and "gradients" of minibatches, "parameters" after the update.
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
    extra: dict[str, jax.Array] = {}  # noqa: RUF012 (never written to)
    nonfinite: dict[str, jax.Array] = {}  # noqa: RUF012


def strong(tree: Any) -> Any:
    """Returns a copy of every leaf, strongly typed. A weakly typed leaf would come back strong from a checkpoint and
    compile to other bits; a buffer that appears twice could not be donated."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.result_type(leaf), copy=True), tree)


def taken_over(name: str, ours: Any, theirs: Any) -> Any:
    """Returns `theirs`, to be used in place of `ours`.

    Raises:
      ValueError: if a leaf is missing or has another shape; names the first one.
    """
    own, other = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (ours, theirs))
    for path in [*own, *(path for path in other if path not in own)]:
        here, there = (getattr(leaves.get(path), "shape", None) for leaves in (own, other))
        if here != there:
            leaf = name + jax.tree_util.keystr(path)
            raise ValueError(f"source must have been trained with this policy: {leaf} is {there} there, {here} here")
    return theirs
