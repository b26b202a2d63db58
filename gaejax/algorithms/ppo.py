"""Proximal Policy Optimization with Generalized Advantage Estimation (Schulman et al. 2017, arXiv:1707.06347)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gaejax import rows
from gaejax._arguments import refuses_unknown_arguments
from gaejax.algorithms import parts
from gaejax.algorithms.algorithm import Algorithm
from gaejax.algorithms.config import ProximalConfig, hyperparameters, number, switch
from gaejax.algorithms.schedules import resolved_schedules
from gaejax.algorithms.state import TrainingInfo, TrainingState
from gaejax.environments import Environment
from gaejax.losses import Objective, PolicyLoss, actor_critic_loss, as_objective, check_objective
from gaejax.minibatches import Batch, minibatch_epochs
from gaejax.policies import Policy
from gaejax.statistics import masked_mean
from gaejax.transforms import Transform


@hyperparameters
class PPOConfig(ProximalConfig):
    """PPO's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), the others are static."""

    recompute_advantages: bool = switch(False)
    """Whether to estimate values and advantages anew before every pass (Andrychowicz et al. 2021, arXiv:2006.05990)."""
    clip_epsilon_high: float = number(0.28)
    """The bound above 1 of the probability ratio, for the objective "clip_higher"."""
    kl_coefficient: float = number(1.0)
    """Weight of the KL penalty of the objective "kl"; the initial one of "adaptive_kl"."""
    kl_target: float = number(0.01)
    """KL divergence per update at which "adaptive_kl" aims."""


@refuses_unknown_arguments
def ppo(
    environment: Environment,
    policy: Policy,
    *,
    objective: str | PolicyLoss | Objective = "clip",
    optimizer: parts.Optimizer = parts.adam,
    estimator: parts.AnyEstimator = "gae",
    schedules: parts.Schedules | None = None,
    transforms: Sequence[Transform] = (),
) -> Algorithm:
    """Makes PPO.

    Args:
      environment: what to train on. It must not reset itself. Bounded real actions are rescaled from [-1, 1].
      policy: an actor-critic for its spaces.
      objective: "clip", "clip_higher", "kl", "adaptive_kl", "dpo", "unclipped", a function
        `(log_ratios, advantages, config) -> losses` of arrays of one shape, or a `gaejax.algorithms.Objective`.
      optimizer: `config -> optax.GradientTransformation`, or a function of a learning rate such as `optax.adamw`.
        Gradients are clipped to the global norm `config.max_grad_norm` before it. Default: Adam, epsilon 1e-5.
      estimator: a name in `gaejax.estimators.ESTIMATORS`, a function of `gaejax.EstimatorInputs`, or a keyword function
        called like `gaejax.gae`.
      schedules: factors of the config's floats by field: a function of progress from 0 to 1 over `anneal_steps`
        transitions, or "linear" (to 0), "cosine" (to 0), "constant". The learning rate is "linear" by default.
      transforms: of the trajectory, applied in order before advantages are estimated.

    Returns:
      An `Algorithm`: `init(key, config: PPOConfig) -> TrainingState`, `step(state) -> (TrainingState, TrainingInfo)`.

    Raises:
      ValueError, TypeError: for an argument that does not fit; one line that names it.
    """
    world = parts.training_environment(environment)
    objective = as_objective(objective)
    optimizer = parts.as_optimizer("ppo", optimizer)
    estimator = parts.resolved_estimator("ppo", estimator, policy, environment)
    schedules = resolved_schedules({"learning_rate": "linear", **(schedules or {})})

    def step(state: TrainingState) -> tuple[TrainingState, TrainingInfo]:
        config = parts.scheduled(state.config, schedules, state.updates)
        next_key, rollout_key, shuffle_key = jax.random.split(state.key, 3)
        act = parts.acting(policy, state)
        experience = parts.collect(rollout_key, world, policy, act, state, config, transforms)

        batch_of = lambda params: parts.make_batch(
            estimator, parts.acting(policy, state, params), state, experience, config
        )
        first_batch = batch_of(state.params)
        (params, optimizer_state), terms = ppo_epochs(
            shuffle_key,
            batch_of if config.recompute_advantages else first_batch,
            experience.trajectory.initial_carry,
            (state.params, state.optimizer),
            partial(actor_critic_loss, partial(objective.loss, state.algorithm), policy, config),
            parts.clipped(optimizer, config),
            config,
        )
        own = objective.adapt(state.algorithm, terms["approx_kl"][-1].mean(), config)
        terms |= own | {"learning_rate": config.learning_rate}
        info = parts.training_info(policy, state, experience, first_batch, config, terms)
        return parts.next_state(state, experience, next_key, params, optimizer_state, own), info

    return parts.make_algorithm(
        "ppo",
        PPOConfig,
        environment,
        policy,
        step,
        optimizer,
        schedules,
        transforms,
        own_state=lambda state: objective.init(state.config),
        check=partial(check_objective, objective),
    )


def ppo_epochs(
    key: jax.Array,
    batch: Batch | Callable[[Any], Batch],
    carry: Any,
    training: tuple[Any, Any],
    loss: parts.LossFn,
    optimizer: optax.GradientTransformationExtraArgs,
    config: ProximalConfig,
) -> tuple[tuple[Any, Any], dict[str, jax.Array]]:
    """Takes gradient steps on `num_epochs` times `num_minibatches` minibatches, until the estimated KL divergence is
    above `target_kl`, if that is given.

    Args:
      key: randomness of the shuffles.
      batch: a batch, or a function of the parameters that makes one anew for every pass.
      carry, training, optimizer: as in `gaejax.algorithms.gradient_step`.
      loss: `gaejax.losses.actor_critic_loss` with all but its last three arguments bound.
      config: the scheduled config.

    Returns:
      The new `(params, optimizer_state)`, and diagnostics `[num_epochs, num_minibatches]`.
    """

    def update(progress: tuple, minibatch: tuple) -> tuple:
        training, running = progress
        moved, terms = parts.gradient_step(optimizer, loss, training, *minibatch)
        if config.target_kl is not None:
            running = running & (terms["approx_kl"] <= config.target_kl)
            moved = parts.select(running, moved, training)
        log_ratios, _ = terms.pop("log_ratios"), terms.pop("advantages")
        terms["clip_fraction"] = masked_mean(jnp.abs(jnp.expm1(log_ratios)) > config.clip_epsilon, minibatch[0].mask)
        terms["first_log_ratio"] = rows.largest(jnp.max(jnp.abs(log_ratios)))
        return (moved, running), terms

    (training, _), terms = minibatch_epochs(
        key,
        (lambda progress: batch(progress[0][0])) if callable(batch) else batch,
        carry,
        update,
        (training, jnp.array(True)),
        config.num_epochs,
        config.num_minibatches,
    )
    return training, terms | {"first_log_ratio": terms["first_log_ratio"][0, 0]}
