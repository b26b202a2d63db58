"""REINFORCE (Williams 1992), from a first lesson: collect, estimate advantages, one policy-gradient step.

The program that is usually taught with Generalized Advantage Estimation has four errors, each of which
`tests/test_reinforce.py` puts a number on:

1. its recursion starts from `reward - value` instead of the temporal-difference error
   `reward + discount * next_value - value`, so a critic that is exactly right yields advantages that are not 0;
2. it mixes `(1 - lambda)` into the recursion, which belongs to the average of the k-step estimators that the recursion
   has already summed: at lambda 1 nothing is left of any later reward;
3. it takes the policy's own output, a probability, for the value of the state;
4. it acts with a sigmoid of each output instead of a distribution over the actions, so that probabilities do not sum
   to 1 and the gradient is not one of log-probabilities of anything that was sampled.
"""

from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
import optax
from flax import struct

from gaejax.advantages import decoupled_gae, monte_carlo
from gaejax.algorithms.a2c import A2CConfig, a2c
from gaejax.algorithms.core import Algorithm
from gaejax.algorithms.on_policy import Parts
from gaejax.environments import Environment
from gaejax.policies import Policy, mlp_policy


@struct.dataclass
class ReinforceConfig(A2CConfig):
    """REINFORCE's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), all else is static."""

    num_steps: int = struct.field(default=32, pytree_node=False)
    """Steps of a rollout, T."""
    learning_rate: float = 1e-3
    """Of the optimizer, at the start."""
    advantage_normalization: Literal["minibatch", "batch", "none"] = struct.field(default="none", pytree_node=False)
    """Over what advantages are standardized."""


def without_baseline(*, values: Any, next_values: Any, **steps: Any) -> tuple[Any, Any]:
    """The discounted reward to come, as the rollout shows it, in place of an advantage."""
    nothing = jnp.zeros_like(values)
    returns, _ = monte_carlo(values=nothing, next_values=nothing, **steps)
    return returns, returns


def time_baseline(*, episode_steps: Any, mask: Any, **steps: Any) -> tuple[Any, Any]:
    """The reward to come less its mean over the rollout's steps of the same number in their episodes."""
    returns, _ = without_baseline(mask=mask, **steps)
    count = 2 * returns.size  # numbers beyond are counted together
    number = jnp.minimum(episode_steps, count - 1).ravel()
    sums, counts = (
        jax.ops.segment_sum(jnp.where(mask, x, 0).ravel(), number, count) for x in (returns, jnp.ones_like(returns))
    )
    baseline = (sums / jnp.maximum(counts, 1))[number].reshape(returns.shape)
    return returns - baseline, returns


BASELINES = {"value": decoupled_gae, "time": time_baseline, "none": without_baseline}


def reinforce(
    environment: Environment,
    policy: Policy | None = None,
    *,
    baseline: Literal["value", "time", "none"] = "value",
    **parts: Unpack[Parts],
) -> Algorithm:
    """REINFORCE on an environment, with Adam.

    Args:
      environment: as of `gaejax.ppo`.
      policy: default: 128 ReLU units, and as many for the critic.
      baseline: "value": a learned one, with GAE, by regression on the returns that were seen (lambda 1); "time": the
        mean return of the rollout's steps of the same number in their episodes; "none". The last two know nothing of
        what lies behind the rollout's end: let `num_steps` hold whole episodes, and `fresh_rows` start them.
      **parts: `optimizer` (default Adam), `estimator` (default by the baseline), `schedules`, `transforms`.

    Returns:
      An `Algorithm` with `init(key, config: ReinforceConfig)`.
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, got {baseline!r}")
    policy = policy or mlp_policy(environment, hidden_sizes=(128,), activation="relu")
    return a2c(environment, policy, **{"optimizer": optax.adam, "estimator": BASELINES[baseline], **parts})
