"""Baselines without a critic: each response is scored relative to others to the same prompt."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from gaejax import rows
from gaejax.advantages import without_baseline
from gaejax.language.rewards.spans import check_fresh_rows, spans
from gaejax.rollout import Trajectory
from gaejax.statistics import masked_mean
from gaejax.transforms import Transform

Baseline = Literal["rloo", "grpo", "dr_grpo"]


def group_baseline(group_size: int, kind: Baseline = "rloo") -> Transform:
    """Replaces the rewards of each response by its score relative to its group, paid at its last token.

    Environments `0 .. group_size - 1` are a group, the next `group_size` another, and so on; with
    `token_environment(..., group_size=)` and `fresh_rows`, their first texts answer the same prompt. An environment's
    later texts, and responses that the end of the rollout cuts off, are masked out, so `num_steps` should be what one
    text needs. Use it with the estimator `without_critic`, `value_coefficient=0` and `advantage_normalization="none"`.

    The info has `group_score`, the mean score, and `other_prompts`, the fraction of environments whose prompt differs
    from that of their group's first: 0, unless the environment has another group size.

    Args:
      group_size: Responses to each prompt, G, at least 2.
      kind: "rloo" subtracts the mean score of the others (Ahmadian et al. 2024, arXiv:2402.14740); "grpo" subtracts the
        group's mean and divides by its standard deviation (Shao et al. 2024, arXiv:2402.03300); "dr_grpo" subtracts the
        group's mean (Liu et al. 2025, arXiv:2503.20783). With fewer than two finished responses, scores are 0.

    Raises:
      ValueError: if an argument is out of range. The transform raises it at trace time if `fresh_rows` is not set or
        `num_envs` is not a multiple of `group_size`.
    """
    if group_size < 2:
        raise ValueError(f"group_size must be at least 2, got {group_size}")
    if kind not in ("rloo", "grpo", "dr_grpo"):
        raise ValueError(f"kind must be 'rloo', 'grpo' or 'dr_grpo', got {kind!r}")

    def apply(state: tuple, trajectory: Trajectory, training_state: Any) -> tuple:
        check_fresh_rows("group_baseline", training_state)
        num_steps, num_envs = trajectory.mask.shape
        if num_envs % group_size:
            local = " on each device" if rows.num_devices() > 1 else ""
            raise ValueError(f"num_envs{local} must be a multiple of group_size = {group_size}, got {num_envs}")
        where, index = spans(trajectory), jnp.arange(num_steps)[:, None]
        end = jnp.min(jnp.where(where.complete, index, num_steps), axis=0)  # where each environment's first text ends
        kept = trajectory.mask & (index <= end) & (end < num_steps)
        finished = jnp.any(kept, axis=0).reshape(-1, group_size)
        scores = jnp.sum(jnp.where(kept, trajectory.rewards, 0), axis=0).reshape(-1, group_size)
        relative = relative_scores(scores, finished, kind).reshape(-1)
        last = kept & (index == jnp.max(jnp.where(kept, index, -1), axis=0))
        observed = trajectory.observations.reshape(num_steps, -1, group_size)
        prompt = (index <= where.first[0]).reshape(num_steps, -1, group_size)
        differs = jnp.any(prompt & (observed != observed[:, :, :1]), axis=0)
        count = jnp.maximum(rows.total(finished), 1)
        info = {
            "group_score": rows.total(scores) / count,
            "other_prompts": masked_mean(differs, jnp.ones_like(differs)),
        }
        return state, trajectory._replace(rewards=jnp.where(last, relative, 0.0), mask=kept), info

    return Transform(lambda params: (), apply)


def relative_scores(scores: jax.Array, finished: jax.Array, kind: Baseline) -> jax.Array:
    """Returns scores `[groups, G]` relative to the finished ones of their group; 0 for responses not `finished`."""
    count = jnp.sum(finished, axis=1, keepdims=True)
    mean = jnp.sum(jnp.where(finished, scores, 0), axis=1, keepdims=True) / jnp.maximum(count, 1)
    centred = jnp.where(finished & (count > 1), scores - mean, 0)
    if kind == "rloo":  # the score minus the mean of the others
        return centred * count / jnp.maximum(count - 1, 1)
    if kind == "grpo":
        variance = jnp.sum(centred**2, axis=1, keepdims=True) / jnp.maximum(count - 1, 1)
        return centred / (jnp.sqrt(variance) + 1e-6)
    return centred


without_critic = without_baseline
"""The estimator without a critic: rewards-to-go in place of advantages. With `group_baseline` the rewards are relative
to the group already."""
