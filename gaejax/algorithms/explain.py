"""Diagnostics that explain a bad run: where each of them is healthy, and what to do where it is not."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax import rows
from gaejax.algorithms.state import Experience
from gaejax.minibatches import Batch
from gaejax.policies import Policy
from gaejax.statistics import masked_mean, standardize


class Healthy(NamedTuple):
    """The healthy range of a diagnostic, and what is wrong outside it.

    Attributes:
      least, most: the range, from experience.
      below, above: what is wrong on either side, and the remedy.
    """

    least: float
    most: float
    below: str = ""
    above: str = ""


HEALTHY = {
    "explained_variance": Healthy(0.3, 1.0, "the critic does not predict returns: use more epochs or a larger critic"),
    "clip_fraction": Healthy(
        0.0, 0.3, above="updates outrun the clip range: lower learning_rate or use fewer num_epochs"
    ),
    "approx_kl": Healthy(
        1e-5, 0.05, "the policy hardly changes: raise learning_rate", "the policy changes too fast: lower learning_rate"
    ),
    "first_log_ratio": Healthy(
        0, 1e-4, above="the update does not see what the rollout saw: try gaejax.testing.check_policy(policy)"
    ),
    "sign_flips": Healthy(
        0, 0.4, above="standardization changes the sign of advantages: the critic is biased, let it learn faster"
    ),
    "dead_units": Healthy(0, 0.2, above="units without gradient: lower learning_rate or use another activation"),
    "share_truncated": Healthy(
        0, 0.1, above="time limits are short: what is learned depends on the critic's bootstrapped values"
    ),
    "share_masked": Healthy(
        0, 0.5, above="most transitions are not learned from: short episodes or forced steps use up the time"
    ),
    "limit_bias": Healthy(
        -1,
        1,
        "values fall towards time limits: does the environment report them as deaths?",
        "values rise towards time limits: is the time part of the observations?",
    ),
}


def explain(policy: Policy, params: Any, experience: Experience, batch: Batch) -> dict[str, jax.Array]:
    """Computes what `explain=True` adds to the info, scalars. `HEALTHY` has their healthy ranges.

    Args:
      policy, params: before the update.
      experience, batch: the rollout, and its advantages.

    Returns:
      `sign_flips`: share of steps whose standardized advantage has another sign than the estimated one.
      `share_terminated`, `share_truncated`: shares of the policy's own steps. `share_masked`: share of transitions that
      are not the policy's own.
      `limit_bias`: how much more the critic values the final observations of truncated episodes than others, in
      standard deviations of the value targets; 0 if no episode was truncated.
      `target_spread`: standard deviation of the value targets, divided by their root mean square. Where it is near 0,
      targets are constant, and `explained_variance` and `limit_bias` say nothing.
      `dead_units`: share of the parameters with one axis (biases) on which no output depends at any step.
    """
    trajectory, mask = experience.trajectory, batch.mask
    limits = (trajectory.truncated & mask)[:-1]
    at_limits = masked_mean(batch.values[1:], limits) - masked_mean(batch.values, mask)
    targets = jnp.where(mask, batch.value_targets, 0)
    spread = jnp.sqrt(masked_mean((targets - masked_mean(targets, mask)) ** 2, mask))
    size = jnp.sqrt(masked_mean(targets**2, mask))

    def outputs(params: Any) -> jax.Array:
        _, distributions, values = policy.apply(params, trajectory.initial_carry, batch.observations, batch.resets)
        leaves = [leaf for leaf in jax.tree.leaves((distributions, values)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum((jnp.sum(leaf) for leaf in leaves), jnp.zeros(()))

    gradients = rows.summed(jax.grad(outputs)(params))
    biases = [gradient for gradient in jax.tree.leaves(gradients) if gradient.ndim == 1]
    dead = sum((jnp.sum(gradient == 0) for gradient in biases), jnp.zeros(()))
    return dict(
        sign_flips=masked_mean(jnp.sign(standardize(batch.advantages, mask)) != jnp.sign(batch.advantages), mask),
        share_terminated=masked_mean(trajectory.terminated, mask),
        share_truncated=masked_mean(trajectory.truncated, mask),
        share_masked=masked_mean(~trajectory.mask, jnp.ones_like(trajectory.mask)),
        limit_bias=jnp.where(rows.total(limits) > 0, at_limits / jnp.maximum(spread, 1e-8), 0),
        target_spread=spread / jnp.maximum(size, 1e-8),
        dead_units=dead / max(sum(gradient.size for gradient in biases), 1),
    )
