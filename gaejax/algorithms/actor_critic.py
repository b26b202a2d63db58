"""The loss that policy gradients share: what an objective asks of the policy, the critic's error, an entropy bonus."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from gaejax.algorithms.batches import Batch
from gaejax.algorithms.core import check_config
from gaejax.algorithms.training_state import OnPolicyConfig
from gaejax.losses import Objective, value_loss
from gaejax.policies import Policy
from gaejax.statistics import masked_mean, standardize


@struct.dataclass
class ActorCriticConfig(OnPolicyConfig):
    """Those of the algorithms whose loss is `actor_critic_loss`."""

    learning_rate: float = 2.5e-4
    """Of the optimizer, at the start."""
    max_grad_norm: float = 0.5
    """The global norm to which gradients are clipped."""
    policy_coefficient: float = 1.0
    """Weight of the policy's objective; a schedule may hold it at 0 while the critic learns."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    value_clip_epsilon: float | None = None
    """How far values may move from the old ones; None leaves them free."""
    huber_delta: float | None = None
    """The value error from which its loss is linear; None keeps it squared."""
    advantage_normalization: Literal["minibatch", "batch", "none"] = struct.field(
        default="minibatch", pytree_node=False
    )
    """Over what advantages are standardized."""

    def validate(self) -> None:
        super().validate()
        check_config(self, positive=("huber_delta",))
        if self.advantage_normalization not in ("minibatch", "batch", "none"):
            raise ValueError(
                f"advantage_normalization must be 'minibatch', 'batch' or 'none', got {self.advantage_normalization!r}"
            )


def actor_critic_loss(
    objective: Objective, policy: Policy, config: ActorCriticConfig, params: Any, batch: Batch, carry: Any
) -> tuple[jax.Array, dict]:
    """The loss of a minibatch, a mean over its unmasked steps: what the policy's `objective` asks, the critic's error,
    and an entropy bonus (Schulman et al. 2017, arXiv:1707.06347, equation 9).

    Returns:
      The loss, and a dict of its terms `policy_loss`, `value_loss` and `entropy`, and of the `log_ratios` `[T, N]`.
    """
    mask = batch.mask
    # What was stored of masked steps is set to 0 before it is used: behind a product a NaN would reach the gradient.
    kept = {
        name: jnp.where(mask, getattr(batch, name), 0)
        for name in ("log_probs", "values", "advantages", "value_targets")
    }
    advantages = kept["advantages"]
    if config.advantage_normalization == "minibatch":
        advantages = standardize(advantages, mask)

    _, distributions, values = policy.apply(params, carry, batch.observations, batch.resets)
    log_ratios = jnp.where(mask, distributions.log_prob(batch.actions) - kept["log_probs"], 0)
    policy_loss = masked_mean(objective(log_ratios, advantages, config), mask)
    critic_loss = masked_mean(
        value_loss(values, kept["value_targets"], kept["values"], config.value_clip_epsilon, config.huber_delta), mask
    )
    entropy = masked_mean(distributions.entropy(), mask)

    weights = config.policy_coefficient, config.value_coefficient, -config.entropy_coefficient
    loss = sum(weight * term for weight, term in zip(weights, (policy_loss, critic_loss, entropy), strict=True))
    return loss, dict(
        policy_loss=policy_loss,
        value_loss=critic_loss,
        entropy=entropy,
        log_ratios=log_ratios,
    )
