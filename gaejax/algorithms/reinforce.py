"""REINFORCE (Williams 1992), the first lesson: collect, estimate advantages, take one policy-gradient step.

The program that is usually taught with Generalized Advantage Estimation has four errors. `tests/test_reinforce.py`
measures each of them:

1. its recursion starts from `reward - value` instead of the temporal-difference error
   `reward + discount * next_value - value`, so a critic that is exactly right yields advantages that are not 0;
2. it mixes `(1 - lambda)` into the recursion, which belongs to the average of the k-step estimators that the recursion
   has already summed: at lambda 1 nothing is left of any later reward;
3. it takes the policy's own output, a probability, for the value of the state;
4. it acts with a sigmoid of each output instead of a distribution over the actions, so that probabilities do not sum
   to 1 and the gradient is not one of log-probabilities of anything that was sampled.
"""

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
import optax

from gaejax import rows
from gaejax._arguments import refuses_unknown_arguments
from gaejax.advantages import Steps, decoupled_gae, without_baseline
from gaejax.algorithms import parts
from gaejax.algorithms.a2c import A2CConfig, a2c
from gaejax.algorithms.algorithm import Algorithm
from gaejax.algorithms.config import choice, hyperparameters, number, size
from gaejax.environments import Environment
from gaejax.policies import Policy, mlp_policy
from gaejax.transforms import Transform


@hyperparameters
class ReinforceConfig(A2CConfig):
    """REINFORCE's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), the others are static."""

    num_steps: int = size(32)
    """Number of steps in a rollout, T."""
    learning_rate: float = number(1e-3)
    """Initial learning rate of the optimizer."""
    advantage_normalization: Literal["minibatch", "batch", "none"] = choice("none", "minibatch", "batch", "none")
    """Over what advantages are standardized: the rollout ("minibatch" and "batch" are the same here), or not at all."""


def time_baseline(*, episode_steps: jax.Array, **steps: Unpack[Steps]) -> tuple[jax.Array, jax.Array]:
    """Computes the reward-to-go minus its mean over the rollout's steps of the same number in their episodes.

    Args:
      episode_steps: `[T, N]`, the number of each step in its episode.
      **steps: as in `gaejax.gae`.
    """
    returns, _ = without_baseline(**steps)
    given: Any = steps.get("mask")
    mask = jnp.ones(returns.shape, bool) if given is None else jnp.asarray(given)
    count = 2 * returns.size * rows.num_devices()  # larger step numbers are counted together
    number = jnp.minimum(episode_steps, count - 1).ravel()
    sums, counts = rows.summed(
        [jax.ops.segment_sum(jnp.where(mask, x, 0).ravel(), number, count) for x in (returns, jnp.ones_like(returns))]
    )
    baseline = (sums / jnp.maximum(counts, 1))[number].reshape(returns.shape)
    return returns - baseline, returns


BASELINES = {"value": decoupled_gae, "time": time_baseline, "none": without_baseline}


@refuses_unknown_arguments
def reinforce(
    environment: Environment,
    policy: Policy | None = None,
    *,
    baseline: Literal["value", "time", "none"] = "value",
    optimizer: parts.Optimizer = lambda config: optax.adam(config.learning_rate),
    estimator: parts.AnyEstimator | None = None,
    schedules: parts.Schedules | None = None,
    transforms: Sequence[Transform] = (),
) -> Algorithm:
    """Makes REINFORCE: A2C whose critic, if there is one, learns from the observed returns.

    Args:
      environment: as in `gaejax.ppo`.
      policy: default: 128 ReLU units, and as many for the critic.
      baseline: "value": a learned one, with GAE, and value targets of lambda 1; "time": the mean return of the
        rollout's steps of the same number in their episodes; "none". The last two do not bootstrap at the end of the
        rollout: let `num_steps` hold whole episodes, and start them with `fresh_rows`.
      optimizer, schedules, transforms: as in `gaejax.ppo`; the default optimizer is Adam.
      estimator: as in `gaejax.ppo`. Default: the one of the baseline.

    Returns:
      An `Algorithm`: `init(key, config: ReinforceConfig) -> TrainingState`, `step(state) -> (TrainingState,
      TrainingInfo)`.

    Raises:
      ValueError, TypeError: for an argument that does not fit; one line that names it.
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, got {baseline!r}")
    return a2c(
        environment,
        policy or mlp_policy(environment, hidden_sizes=(128,), activation="relu"),
        optimizer=optimizer,
        estimator=BASELINES[baseline] if estimator is None else estimator,
        schedules=schedules,
        transforms=transforms,
    )
