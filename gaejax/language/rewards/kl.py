"""KL penalties to a reference policy, in the reward or in the loss."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gaejax import rows
from gaejax.distributions import Distribution
from gaejax.language.rewards.scores import count_texts
from gaejax.language.rewards.spans import check_fresh_rows, spans
from gaejax.losses import kl_estimate
from gaejax.policies import Policy
from gaejax.rollout import Trajectory
from gaejax.transforms import Transform

LARGEST_LOG_RATIO, LARGEST_K3 = 20.0, 10.0  # clipped here: otherwise a single token could dominate the batch

ESTIMATES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "k1": lambda log_ratios: -log_ratios,
    "k2": lambda log_ratios: 0.5 * log_ratios**2,
    "k3": lambda log_ratios: jnp.minimum(kl_estimate(log_ratios), LARGEST_K3),
}
"""Estimates of KL(policy || reference) from `log reference - log policy` at the policy's samples (Schulman 2020)."""


class Reference(NamedTuple):
    """The state of `kl_penalty`: the reference's parameters, and the penalty's current coefficient."""

    params: Any
    coefficient: jax.Array


def kl_penalty(
    policy: Policy,
    coefficient: float = 0.05,
    *,
    estimate: Literal["k1", "k2", "k3"] = "k1",
    target: float | None = None,
    horizon: float = 10_000.0,
    reference_params: Any = None,
    reference_policy: Policy | None = None,
) -> Transform:
    """Subtracts `coefficient * KL(policy || reference)`, estimated at each trainable token, from its reward.

    The info has `kl`, the divergence summed over a text's tokens and averaged over texts, in nats, and
    `kl_coefficient`.

    Args:
      policy: The policy that is trained.
      coefficient: Initial coefficient of the penalty.
      estimate: "k1" is unbiased and may be negative; "k2" is biased and never negative; "k3" is unbiased and never
        negative.
      target: If given, the coefficient is multiplied by `1 + clip(kl / target - 1, -0.2, 0.2) * texts / horizon` after
        every rollout (Ziegler et al. 2019, arXiv:1909.08593, section 2.2).
      horizon: Time scale of this adaptation, in texts.
      reference_params: Parameters of the reference; default: a copy of the policy's at the start of training.
      reference_policy: The policy that these are parameters of; default: `policy` (with its temperature, top-k and
        top-p).

    Raises:
      ValueError: if an argument is out of range, or the reference has another vocabulary or params that do not fit it.
        The transform raises it at trace time if `fresh_rows` is not set.
    """
    if estimate not in ESTIMATES:
        raise ValueError(f"estimate must be one of {', '.join(ESTIMATES)}, got {estimate!r}")
    if coefficient < 0 or horizon <= 0 or (target is not None and target <= 0):
        numbers = f"{coefficient}, {target} and {horizon}"
        raise ValueError(f"coefficient must not be negative, target and horizon must be positive, got {numbers}")
    reference = reference_policy or policy
    if reference_params is None and reference_policy is not None:
        raise ValueError("reference_params must be given with a reference_policy, got None")
    check_reference(policy, reference, reference_params)

    def init(params: Any) -> Reference:
        kept = params if reference_params is None else reference_params
        # A copy: a buffer that is in the training state twice cannot be donated.
        return Reference(jax.tree.map(lambda x: jnp.array(x, copy=True), kept), jnp.float32(coefficient))

    def apply(state: Reference, trajectory: Trajectory, training_state: Any) -> tuple:
        check_fresh_rows("kl_penalty", training_state)
        mask = trajectory.mask
        carry = reference.initial_carry(mask.shape[1])
        distributions = reference.apply(state.params, carry, trajectory.observations, trajectory.resets)[1]
        log_ratios = jnp.where(mask, distributions.log_prob(trajectory.actions) - trajectory.log_probs, 0)
        divergence = ESTIMATES[estimate](jnp.clip(log_ratios, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))
        texts = count_texts(trajectory, spans(trajectory))
        kl = rows.total(divergence) / texts
        rewards = trajectory.rewards - jnp.where(mask, state.coefficient * divergence, 0)
        info = {"kl": kl, "kl_coefficient": state.coefficient}
        if target is not None:
            factor = 1 + jnp.clip(kl / target - 1, -0.2, 0.2) * texts / horizon
            state = state._replace(coefficient=state.coefficient * factor)
        return state, trajectory._replace(rewards=rewards), info

    return Transform(init, apply)


def check_reference(policy: Policy, reference: Policy, reference_params: Any = None) -> None:
    """Raises ValueError if the reference has another vocabulary, or the params are not of its shape."""
    sizes = [getattr(each.observation_space, "n", None) for each in (policy, reference)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"reference_policy must have the policy's vocabulary of {sizes[0]} tokens, got {sizes[1]}")
    if reference_params is None:
        return
    wanted = jax.tree_util.tree_leaves_with_path(jax.eval_shape(reference.init, jax.random.key(0)))
    given = dict(jax.tree_util.tree_leaves_with_path(reference_params))
    for path, leaf in wanted:
        shape = getattr(given.get(path), "shape", None)
        if shape != leaf.shape:
            where = jax.tree_util.keystr(path)
            wanted = f"reference_params must fit the reference policy: {where} must have shape {leaf.shape}"
            raise ValueError(f"{wanted}, got {shape}")


class RelativeEntropy(NamedTuple):
    """A distribution whose entropy is relative to a reference, `-KL(own || reference)`; all else is `own`'s."""

    own: Distribution
    reference: Distribution

    def sample(self, key: jax.Array) -> jax.Array:
        """Samples actions from `own`."""
        return self.own.sample(key)

    def mode(self) -> jax.Array:
        """Returns the mode of `own`."""
        return self.own.mode()

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Returns the log-probabilities of actions under `own`."""
        return self.own.log_prob(actions)

    def entropy(self) -> jax.Array:
        """Returns `-KL(own || reference)` in nats."""
        return -self.own.kl_divergence(self.reference)

    def kl_divergence(self, other: "RelativeEntropy") -> jax.Array:
        """Returns KL(own || other's own) in nats."""
        return self.own.kl_divergence(other.own)


def kl_in_loss(policy: Policy, reference_params: Any) -> Policy:
    """Returns a policy whose loss contains KL(policy || reference), exact over the vocabulary, instead of the entropy.

    The config's `entropy_coefficient` is the penalty's coefficient, and the info's `entropy` is minus the divergence.
    The reference has a carry of its own; its parameters are among the policy's, and get no gradient.

    Args:
      policy: The policy that is trained.
      reference_params: Parameters of the same policy, for example `policy.init(key)` with the key that training starts
        from.

    Raises:
      ValueError: if the parameters do not fit the policy.
    """
    check_reference(policy, policy, reference_params)

    def init(key: jax.Array) -> dict:
        return {"policy": policy.init(key), "reference": reference_params}

    def initial_carry(batch: int) -> dict:
        return {name: policy.initial_carry(batch) for name in ("policy", "reference")}

    def apply(params: dict, carry: dict, observations: Any, resets: jax.Array) -> tuple:
        own, distributions, values = policy.apply(params["policy"], carry["policy"], observations, resets)
        fixed = jax.lax.stop_gradient(params["reference"])
        other, reference, _ = policy.apply(fixed, carry["reference"], observations, resets)
        return {"policy": own, "reference": other}, RelativeEntropy(distributions, reference), values

    return Policy(init, initial_carry, apply, policy.observation_space)
