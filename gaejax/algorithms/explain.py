"""Why a run is bad: diagnostics beyond the losses, where each is healthy, and what to do where it is not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gaejax.algorithms.state import Experience
from gaejax.minibatches import Batch
from gaejax.policies import Policy
from gaejax.statistics import masked_mean, standardize


class Healthy(NamedTuple):
    """Between what a diagnostic should lie, and what it says where it does not.

    Attributes:
      least, most: the healthy range, from experience, not a law.
      below, above: what is wrong on either side, and the remedy.
    """

    least: float
    most: float
    below: str = ""
    above: str = ""


HEALTHY = {
    "explained_variance": Healthy(0.3, 1.0, "the critic does not predict returns: more epochs, a larger critic"),
    "clip_fraction": Healthy(0.0, 0.3, above="updates outrun the clip range: lower learning_rate or num_epochs"),
    "approx_kl": Healthy(1e-5, 0.05, "the policy hardly moves: raise learning_rate", "it jumps: lower learning_rate"),
    "first_log_ratio": Healthy(0, 1e-4, above="the update sees another policy than the rollout: check_policy(policy)"),
    "sign_flips": Healthy(0, 0.4, above="standardization turns good into bad: the critic is biased, learn it faster"),
    "dead_units": Healthy(0, 0.2, above="units that no input reaches: lower learning_rate, or another activation"),
    "share_truncated": Healthy(0, 0.1, above="short time limits: what is learned rests on the critic's bootstrap"),
    "share_masked": Healthy(0, 0.5, above="most rows bear no loss: short episodes, or forced steps, cost the time"),
    "limit_bias": Healthy(
        -1, 1, "values sag at time limits: are they taken for deaths?", "values rise towards limits: is time observed?"
    ),
}


def explain(policy: Policy, params: dict, experience: Experience, batch: Batch) -> dict[str, jax.Array]:
    """What `OnPolicyConfig.explain` adds to the info, scalars; `HEALTHY` says where they should lie.

    Returns:
      `sign_flips`: the share of steps whose standardized advantage has another sign than the estimated one.
      `share_terminated`, `share_truncated`: of the steps that are the policy's own; `share_masked`: of all rows those
      that are not.
      `limit_bias`: how much more the final observations of truncated episodes are worth to the critic than others, in
      standard deviations of the value targets; 0 where none was cut.
      `dead_units`: the share of the parameters of one axis (the biases) on which no output depends at any step.
    """
    trajectory, mask = experience.trajectory, batch.mask
    limits = (trajectory.truncated & mask)[:-1]
    at_limits = masked_mean(batch.values[1:], limits) - masked_mean(batch.values, mask)
    targets = jnp.where(mask, batch.value_targets, 0)
    spread = jnp.sqrt(masked_mean((targets - masked_mean(targets, mask)) ** 2, mask))

    def outputs(params: dict) -> jax.Array:
        _, distributions, values = policy.apply(params, trajectory.initial_carry, batch.observations, batch.resets)
        leaves = [leaf for leaf in jax.tree.leaves((distributions, values)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum(jnp.sum(leaf) for leaf in leaves)

    biases = [gradient for gradient in jax.tree.leaves(jax.grad(outputs)(params)) if gradient.ndim == 1]
    dead = sum(jnp.sum(gradient == 0) for gradient in biases) / max(sum(gradient.size for gradient in biases), 1)
    return dict(
        sign_flips=masked_mean(jnp.sign(standardize(batch.advantages, mask)) != jnp.sign(batch.advantages), mask),
        share_terminated=masked_mean(trajectory.terminated, mask),
        share_truncated=masked_mean(trajectory.truncated, mask),
        share_masked=jnp.mean(~trajectory.mask),
        limit_bias=jnp.where(jnp.any(limits), at_limits / jnp.maximum(spread, 1e-8), 0),
        dead_units=dead,
    )
