"""Trust Region Policy Optimization (Schulman et al. 2015, arXiv:1502.05477), with the value function of the GAE paper
(Schulman et al. 2016, arXiv:1506.02438, section 5), which has a trust region of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax
from flax import struct

from gaejax.advantages import decoupled_gae
from gaejax.algorithms.batches import Batch
from gaejax.algorithms.core import Algorithm, check_config
from gaejax.algorithms.on_policy import OnPolicy, Parts
from gaejax.algorithms.training_state import OnPolicyConfig, TrainingInfo, TrainingState
from gaejax.environments import Environment
from gaejax.policies import Policy
from gaejax.policies.critics import expected_values
from gaejax.statistics import masked_mean, standardize


@struct.dataclass
class TRPOConfig(OnPolicyConfig):
    """TRPO's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), all else is static."""

    max_kl: float = 0.01
    """The largest mean KL(old || new) of an update, delta."""
    max_value_change: float = 0.1
    """The largest mean squared change of values, in squared errors of the old ones, halved: epsilon."""
    damping: float = 1e-3
    """What is added to the diagonal of either metric."""
    num_gradient_steps: int = struct.field(default=10, pytree_node=False)
    """Steps of conjugate gradient."""
    num_value_steps: int = struct.field(default=1, pytree_node=False)
    """Steps of the value function, each within its trust region."""
    num_backtracks: int = struct.field(default=15, pytree_node=False)
    """How often a step is shortened before it is given up."""
    backtrack_factor: float = 0.8
    """By what it is shortened."""

    def validate(self) -> None:
        super().validate()
        check_config(self, unit_interval=("backtrack_factor",), positive=("max_kl", "max_value_change"))


class Measures(NamedTuple):
    """What a step may change: the surrogate objective, the divergence from the old policy, the critic's error."""

    surrogate: jax.Array
    kl: jax.Array
    value_loss: jax.Array
    entropy: jax.Array


def trpo(environment: Environment, policy: Policy, **parts: Unpack[Parts]) -> Algorithm:
    """TRPO on an environment with a policy; its critic is learned behind the policy, from the returns that were seen.

    Args:
      environment: as of `gaejax.ppo`.
      policy: as of `gaejax.ppo`. A critic with a body of its own learns best: where it shares the actor's, its steps
        too must keep to `max_kl`.
      **parts: `estimator` (default `decoupled_gae`: targets with lambda 1), `schedules`, `transforms`: see `OnPolicy`.

    Returns:
      An `Algorithm`: `init(key, config: TRPOConfig) -> TrainingState`, `step(state) -> (TrainingState, TrainingInfo)`.
    """
    on_policy = OnPolicy(environment, policy, optimizer=None, **{"estimator": decoupled_gae, **parts})

    def step(state: TrainingState) -> tuple[TrainingState, TrainingInfo]:
        experience = on_policy.collect(state)
        config, batch = experience.config, on_policy.batch(state, experience, state.params)
        carry = experience.trajectory.initial_carry
        measure = partial(measures, policy, batch, carry, *policy.apply(state.params, carry, *batch[:2])[1:])
        before = measure(state.params)

        # The policy: up the surrogate, in the metric of its divergence (whose Hessian is the Fisher matrix).
        gradient = jax.grad(lambda params: -measure(params).surrogate)(state.params)
        _, fisher = jax.linearize(jax.grad(lambda params: measure(params).kl), state.params)
        direction = trust_region_step(gradient, fisher, config.max_kl, config)

        def policy_improves(after: Measures) -> jax.Array:
            return (after.surrogate > before.surrogate) & (after.kl <= config.max_kl)

        params, policy_step = backtrack(state.params, direction, measure, policy_improves, config)

        # The values: down their error, in the metric of their own change, and not at the policy's cost.
        def value_step(params: Any, _: None) -> tuple:
            gradient = jax.grad(lambda params: measure(params).value_loss)(params)
            curvature = value_metric(policy, batch, carry, params)
            direction = trust_region_step(gradient, curvature, config.max_value_change, config)
            now = measure(params)

            def values_improve(after: Measures) -> jax.Array:
                keeps_policy = (after.kl <= config.max_kl) & (after.surrogate >= before.surrogate)
                return (after.value_loss < now.value_loss) & keeps_policy

            return backtrack(params, direction, measure, values_improve, config)

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
        return on_policy.finish(state, experience, batch, (params, ()), diagnostics)

    return on_policy.algorithm(step)


def measures(policy: Policy, batch: Batch, carry: Any, old: Any, old_values: Any, params: Any) -> Measures:
    """What `params` are worth on a batch, against the distributions that collected it."""
    mask = batch.mask
    advantages, targets = standardize(batch.advantages, mask), jnp.where(mask, batch.value_targets, 0)
    _, new, values = policy.apply(params, carry, batch.observations, batch.resets)
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
    scale = jnp.maximum(jnp.sum(errors**2), 1e-8)
    return lambda direction: back(change(direction) / scale)[0]


def trust_region_step(gradient: Any, curvature: Callable[[Any], Any], radius: jax.Array, config: TRPOConfig) -> Any:
    """The step s, against the gradient, with `s H s / 2 = radius` that the quadratic model likes best: along `H^-1 g`,
    by conjugate gradient (2015, appendix C)."""

    def damped(vector: Any) -> Any:
        return jax.tree.map(lambda curved, own: curved + config.damping * own, curvature(vector), vector)

    direction = conjugate_gradient(damped, gradient, config.num_gradient_steps)
    length = optax.tree.vdot(direction, damped(direction)) / 2
    return optax.tree.scale(-jnp.sqrt(radius / jnp.maximum(length, 1e-30)), direction)


def conjugate_gradient(product: Callable[[Any], Any], target: Any, num_steps: int) -> Any:
    """x with `product(x)` about `target`, for a symmetric positive definite product (Hestenes & Stiefel 1952).

    (`jax.scipy.sparse.linalg.cg` of JAX 0.10.2, under `vmap` with a product that closes over batched values, returns 0
    in some compilations and not in others.)
    """

    def step(progress: tuple, _: None) -> tuple:
        solution, residual, direction, error = progress
        curved = product(direction)
        length = error / jnp.maximum(optax.tree.vdot(direction, curved), 1e-30)
        solution = optax.tree.add_scale(solution, length, direction)
        residual = optax.tree.add_scale(residual, -length, curved)
        new_error = optax.tree.vdot(residual, residual)
        direction = optax.tree.add_scale(residual, new_error / jnp.maximum(error, 1e-30), direction)
        return (solution, residual, direction, new_error), None

    start = (optax.tree.zeros_like(target), target, target, optax.tree.vdot(target, target))
    return jax.lax.scan(step, start, length=num_steps)[0][0]


def backtrack(
    params: Any, step: Any, measure: Callable[[Any], Measures], accept: Callable[[Measures], Any], config: TRPOConfig
) -> tuple[Any, jax.Array]:
    """The first of `params + step`, `params + factor * step`, ... that is accepted, and its fraction; 0 if none is."""
    shortest = config.backtrack_factor ** (config.num_backtracks + 0.5)

    def moved(fraction: jax.Array) -> Any:
        return optax.tree.add_scale(params, fraction, step)

    def refused(fraction: jax.Array) -> jax.Array:
        return (fraction > shortest) & ~accept(measure(moved(fraction)))

    fraction = jax.lax.while_loop(refused, lambda fraction: fraction * config.backtrack_factor, jnp.float32(1))
    accepted = fraction > shortest
    # Chosen, not multiplied by 0: a step that was refused may be NaN.
    params = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), moved(fraction), params)
    return params, jnp.where(accepted, fraction, 0)
