"""Baselines without a critic: responses to the same prompt are judged against each other."""

from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp

from gaejax.advantages import Steps, gae
from gaejax.language.rewards.spans import check_fresh_rows, spans
from gaejax.rollout import Trajectory, Transform

Baseline = Literal["rloo", "grpo", "dr_grpo"]


def group_baseline(group_size: int, kind: Baseline = "rloo") -> Transform:
    """Replaces the rewards of each response by one at its last token: its score relative to its group's.

    Rows `0 .. group_size - 1` are a group, the next as many another, and so on; with `token_environment(...,
    group_size=)` and `fresh_rows` their first texts answer the same prompt. A row's later texts, and responses that the
    rollout's end cuts, are masked out, so let `num_steps` be what one text needs. Give the estimator
    `without_critic`, and the config `value_coefficient=0` and `advantage_normalization="none"`.

    Args:
      group_size: G, responses to a prompt, at least 2.
      kind: "rloo": the mean of the others is subtracted (Ahmadian et al. 2024, arXiv:2402.14740); "grpo": the group's
        mean, divided by its standard deviation (Shao et al. 2024, arXiv:2402.03300); "dr_grpo": the mean alone (Liu et
        al. 2025, arXiv:2503.20783). Fewer finished responses than two are worth 0.

    The info has `group_score`, the mean before, and `other_prompts`, the share of rows whose prompt is not that of
    their group's first row: 0, or the environment was given another group_size.
    """
    if group_size < 2:
        raise ValueError(f"group_size must be at least 2, got {group_size}")
    if kind not in ("rloo", "grpo", "dr_grpo"):
        raise ValueError(f"kind must be 'rloo', 'grpo' or 'dr_grpo', got {kind!r}")

    def apply(state: tuple, trajectory: Trajectory, training_state: Any) -> tuple:
        check_fresh_rows("group_baseline", training_state)
        num_steps, num_rows = trajectory.mask.shape
        if num_rows % group_size:
            raise ValueError(f"num_envs must be a multiple of group_size = {group_size}, got {num_rows}")
        where, index = spans(trajectory), jnp.arange(num_steps)[:, None]
        end = jnp.min(jnp.where(where.complete, index, num_steps), axis=0)  # of the row's first text
        kept = trajectory.mask & (index <= end) & (end < num_steps)
        finished = jnp.any(kept, axis=0).reshape(-1, group_size)
        scores = jnp.sum(jnp.where(kept, trajectory.rewards, 0), axis=0).reshape(-1, group_size)
        relative = relative_scores(scores, finished, kind).reshape(-1)
        last = kept & (index == jnp.max(jnp.where(kept, index, -1), axis=0))
        observed = trajectory.observations.reshape(num_steps, -1, group_size)
        prompt = (index <= where.first[0]).reshape(num_steps, -1, group_size)
        differs = jnp.any(prompt & (observed != observed[:, :, :1]), axis=0)
        count = jnp.maximum(jnp.sum(finished), 1)
        info = {"group_score": jnp.sum(scores) / count, "other_prompts": jnp.mean(differs.astype(jnp.float32))}
        return state, trajectory._replace(rewards=jnp.where(last, relative, 0.0), mask=kept), info

    return Transform(lambda params: (), apply)


def relative_scores(scores: jax.Array, finished: jax.Array, kind: Baseline) -> jax.Array:
    """Scores `[groups, G]` relative to those of their group that are `finished`; 0 for the others."""
    count = jnp.sum(finished, axis=1, keepdims=True)
    mean = jnp.sum(jnp.where(finished, scores, 0), axis=1, keepdims=True) / jnp.maximum(count, 1)
    centred = jnp.where(finished & (count > 1), scores - mean, 0)
    if kind == "rloo":  # score less the mean of the others
        return centred * count / jnp.maximum(count - 1, 1)
    if kind == "grpo":
        variance = jnp.sum(centred**2, axis=1, keepdims=True) / jnp.maximum(count - 1, 1)
        return centred / (jnp.sqrt(variance) + 1e-6)
    return centred


def without_critic(*, values: Any, next_values: Any, **steps: Unpack[Steps]) -> tuple[jax.Array, jax.Array]:
    """The rewards to come, as an estimator: GAE with lambda 1 that takes every value for 0."""
    return gae(values=jnp.zeros_like(values), next_values=jnp.zeros_like(next_values), gae_lambda=1.0, **steps)
