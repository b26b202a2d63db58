"""Trust Region Policy Optimization (Schulman et al. 2015, arXiv:1502.05477), with the value function of the GAE paper
(Schulman et al. 2016, arXiv:1506.02438, section 5), which has a trust region of its own."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax import rows
from gaejax._arguments import refuses_unknown_arguments
from gaejax.algorithms import parts
from gaejax.algorithms.algorithm import Algorithm
from gaejax.algorithms.config import OnPolicyConfig, hyperparameters, number, size
from gaejax.algorithms.schedules import resolved_schedules
from gaejax.algorithms.state import TrainingInfo, TrainingState
from gaejax.algorithms.trust_region import backtrack, trust_region_step
from gaejax.environments import Environment
from gaejax.minibatches import Batch
from gaejax.policies import Policy, expected_values
from gaejax.statistics import masked_mean, standardize
from gaejax.transforms import Transform


@hyperparameters
class TRPOConfig(OnPolicyConfig):
    """TRPO's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), the others are static."""

    max_kl: float = number(0.01, positive=True)
    """Trust-region radius of the policy, delta: bound on the mean KL(old || new) of an update."""
    max_value_change: float = number(0.1, positive=True)
    """Trust-region radius of the value function, epsilon: bound on the mean of (V - V_old)^2 / (2 sigma^2), where
    sigma^2 is the old mean squared error (Schulman et al. 2016, equation 30)."""
    damping: float = number(1e-3)
    """What is added to the diagonal of either metric."""
    num_gradient_steps: int = size(10)
    """Steps of conjugate gradient."""
    num_value_steps: int = size(1)
    """Steps of the value function, each within its trust region."""
    num_backtracks: int = size(15)
    """Largest number of times that a step is shortened before it is given up."""
    backtrack_factor: float = number(0.8, most=1)
    """Factor by which it is shortened."""


class Measures(NamedTuple):
    """What a step may change: the surrogate objective, the divergence from the old policy, the critic's error."""

    surrogate: jax.Array
    kl: jax.Array
    value_loss: jax.Array
    entropy: jax.Array


@refuses_unknown_arguments
def trpo(
    environment: Environment,
    policy: Policy,
    *,
    estimator: parts.AnyEstimator = "decoupled_gae",
    schedules: parts.Schedules | None = None,
    transforms: Sequence[Transform] = (),
) -> Algorithm:
    """Makes TRPO; its critic learns after the policy, from observed returns.

    Args:
      environment: as in `gaejax.ppo`.
      policy: as in `gaejax.ppo`. A critic with a body of its own learns best: if it shares the actor's, its steps must
        keep to `max_kl` too.
      estimator, schedules, transforms: as in `gaejax.ppo`; the default estimator has value targets of lambda 1.

    Returns:
      An `Algorithm`: `init(key, config: TRPOConfig) -> TrainingState`, `step(state) -> (TrainingState, TrainingInfo)`.

    Raises:
      ValueError, TypeError: for an argument that does not fit; one line that names it.
    """
    world = parts.training_environment(environment)
    estimator = parts.resolved_estimator("trpo", estimator, policy, environment)
    schedules = resolved_schedules(schedules or {})

    def step(state: TrainingState) -> tuple[TrainingState, TrainingInfo]:
        config = parts.scheduled(state.config, schedules, state.updates)
        next_key, rollout_key, _ = jax.random.split(state.key, 3)
        act = parts.acting(policy, state)
        experience = parts.collect(rollout_key, world, policy, act, state, config, transforms)
        batch = parts.make_batch(estimator, act, state, experience, config)
        carry = experience.trajectory.initial_carry
        old = policy.apply(state.params, carry, batch.observations, batch.resets)[1]
        measure = partial(measures, policy, batch, carry, old)
        before = measure(state.params)

        # The policy: up the surrogate, in the metric of its divergence (whose Hessian is the Fisher matrix).
        gradient = jax.grad(lambda params: -measure(params).surrogate)(state.params)
        _, fisher = jax.linearize(jax.grad(lambda params: measure(params).kl), state.params)
        direction = trust_region_step(gradient, fisher, config.max_kl, config.damping, config.num_gradient_steps)

        def policy_improves(after: Measures) -> jax.Array:
            return (after.surrogate > before.surrogate) & (after.kl <= config.max_kl)

        params, policy_step = backtrack(
            state.params, direction, measure, policy_improves, config.backtrack_factor, config.num_backtracks
        )

        # The values: down their error, in the metric of their own change, and not at the policy's cost.
        def value_step(params: Any, _: None) -> tuple:
            gradient = jax.grad(lambda params: measure(params).value_loss)(params)
            curvature = value_metric(policy, batch, carry, params)
            direction = trust_region_step(
                gradient, curvature, config.max_value_change, config.damping, config.num_gradient_steps
            )
            now = measure(params)

            def values_improve(after: Measures) -> jax.Array:
                keeps_policy = (after.kl <= config.max_kl) & (after.surrogate >= before.surrogate)
                return (after.value_loss < now.value_loss) & keeps_policy

            return backtrack(params, direction, measure, values_improve, config.backtrack_factor, config.num_backtracks)

        params, value_steps = jax.lax.scan(value_step, params, length=config.num_value_steps)
        after = measure(params)
        diagnostics = dict(
            policy_loss=-after.surrogate,
            value_loss=before.value_loss,
            entropy=before.entropy,
            approx_kl=after.kl,
            surrogate_gain=after.surrogate - before.surrogate,
            policy_step=policy_step,
            value_step=value_steps,
        )
        info = parts.training_info(policy, state, experience, batch, config, diagnostics)
        return parts.next_state(state, experience, next_key, params, ()), info

    return parts.make_algorithm("trpo", TRPOConfig, environment, policy, step, None, schedules, transforms)


def measures(policy: Policy, batch: Batch, carry: Any, old: Any, params: Any) -> Measures:
    """Evaluates parameters on a batch, against the distributions `old` that collected it."""
    mask = batch.mask
    advantages, targets = standardize(batch.advantages, mask), jnp.where(mask, batch.value_targets, 0)
    _, new, values = policy.apply(rows.shared(params), carry, batch.observations, batch.resets)
    log_ratios = jnp.where(mask, new.log_prob(batch.actions) - jnp.where(mask, batch.log_probs, 0), 0)
    errors = jnp.where(mask, expected_values(values) - targets, 0)
    return Measures(
        surrogate=masked_mean(jnp.exp(log_ratios) * advantages, mask),
        kl=masked_mean(old.kl_divergence(new), mask),
        value_loss=0.5 * masked_mean(errors**2, mask),
        entropy=masked_mean(new.entropy(), mask),
    )


def value_metric(policy: Policy, batch: Batch, carry: Any, params: Any) -> Callable[[Any], Any]:
    """`v -> H v` of the Gauss-Newton matrix of `(V - V_old)^2 / (2 sigma^2)`, sigma^2 the old squared error
    (Schulman et al. 2016, equation 30)."""

    def values(params: Any) -> jax.Array:
        _, _, values = policy.apply(params, carry, batch.observations, batch.resets)
        return jnp.where(batch.mask, expected_values(values), 0)

    now, change = jax.linearize(values, params)
    back = jax.linear_transpose(change, params)
    errors = now - jnp.where(batch.mask, batch.value_targets, 0)
    scale = jnp.maximum(rows.total(errors**2), 1e-8)
    return lambda direction: rows.summed(back(change(direction) / scale)[0])
