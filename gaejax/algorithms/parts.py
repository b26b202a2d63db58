"""The parts of an on-policy training step: plain functions, from which every algorithm composes its own.

A step reads its scheduled config, collects a rollout (`collect`), estimates advantages (`make_batch`, from
`estimator_inputs` and an estimator), moves the parameters (`gradient_step`, often inside `minibatch_epochs`) and
returns `next_state` with `training_info`. `gaejax/algorithms/a2c.py` is the shortest example.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from gaejax import rows
from gaejax.advantages import EstimatorInputs, NeedsActionValues
from gaejax.algorithms.algorithm import ActFn, Algorithm, StepFn
from gaejax.algorithms.config import OnPolicyConfig, check_minibatches
from gaejax.algorithms.explain import explain
from gaejax.algorithms.normalizers import ObservationNormalizer, RewardNormalizer
from gaejax.algorithms.schedules import Schedule, check_scheduled
from gaejax.algorithms.state import Experience, TrainingInfo, TrainingState, strong, taken_over
from gaejax.environments import Environment, auto_reset, check_environment, check_is_environment, rescale_actions
from gaejax.estimators import Estimator, as_estimator, example_inputs
from gaejax.minibatches import Batch
from gaejax.policies import Policy, distribution_of, expected_values
from gaejax.policies.policy import check_is_policy
from gaejax.rollout import (
    Act,
    RolloutState,
    after_burn_in,
    episode_steps,
    finite_where_masked,
    init_rollout,
    rollout,
    with_last,
)
from gaejax.statistics import Identity, count_nonfinite, explained_variance, standardize
from gaejax.transforms import Transform

Optimizer = Callable[[Any], optax.GradientTransformation]
"""`config -> optax.GradientTransformation`, of a config whose numbers may be traced."""

adam: Optimizer = lambda config: optax.adam(config.learning_rate, eps=1e-5)
"""Adam as PPO implementations use it, with epsilon 1e-5."""

AnyEstimator = Estimator | Callable[..., Any] | str
"""What `as_estimator` accepts."""

Schedules = Mapping[str, Schedule | str]
"""Factors of the config's floats by field: functions of progress from 0 to 1, or names."""


class LossFn(Protocol):
    """A loss to differentiate."""

    def __call__(self, params: Any, batch: Batch, carry: Any, /) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the loss of a minibatch, and diagnostics by name."""
        ...


def scheduled(config: Any, schedules: Mapping[str, Schedule], updates: jax.Array) -> Any:
    """Returns the config after `updates` training steps: each scheduled field multiplied by its schedule.

    Progress is the share of `anneal_steps` that has been collected, at most 1. Without `anneal_steps` it stays 0.
    """
    progress = jnp.zeros(())
    if config.anneal_steps is not None:  # no product that overflows an int32
        remaining = 1 - updates * (config.num_envs * config.num_steps / config.anneal_steps)
        progress = 1 - jnp.clip(remaining, 0, 1)
    factors = {field: schedule(progress) for field, schedule in schedules.items()}
    return config.replace(**{field: getattr(config, field) * factor for field, factor in factors.items()})


def acting(policy: Policy, state: TrainingState, params: Any = None) -> Act:
    """Returns the policy as the rollout sees it: parameters bound, observations normalized.

    Args:
      policy: the policy.
      state: whose observation normalizer and parameters are used.
      params: other parameters than those of the state.
    """
    params = state.params if params is None else params

    return lambda carry, observations, resets: policy.apply(
        params, carry, state.observation_normalizer(observations), resets
    )


def training_environment(environment: Environment) -> Environment:
    """Returns an environment as algorithms train on it: it resets itself, and bounded real actions are rescaled from
    [-1, 1].

    Raises:
      TypeError: if it is not a `gaejax.Environment`.
    """
    check_is_environment(environment)
    return auto_reset(rescale_actions(environment))


def collect(
    key: jax.Array,
    environment: Environment,
    policy: Policy,
    act: Act,
    state: TrainingState,
    config: Any,
    transforms: Sequence[Transform] = (),
) -> Experience:
    """Collects a rollout of `config.num_steps` steps of `config.num_envs` environments, and transforms it.

    Args:
      key: randomness of the rollout.
      environment: one that resets itself, `training_environment(...)`.
      policy: whose memory starts anew, with `config.fresh_rows`.
      act: what acts, usually `acting(policy, state)`.
      state: where the environments stand, and the transforms' and the reward normalizer's states.
      config: the scheduled config.
      transforms: of the trajectory, applied in order.
    """
    key, current = rows.own_key(key), state.rollout
    if config.fresh_rows:
        key, reset_key = jax.random.split(key)
        num_envs = current.reset.shape[0]
        current = fresh_rollout(reset_key, environment, state.environment_params, policy, num_envs)
    current, trajectory, episodes = rollout(key, environment, state.environment_params, act, current, config.num_steps)
    states, info = (), {}
    for transform, transform_state in zip(transforms, state.transforms, strict=True):
        transform_state, trajectory, more = transform.apply(transform_state, trajectory, state)
        states, info = (*states, transform_state), info | more
    reward_normalizer = state.reward_normalizer.update(trajectory, config.discount)
    return Experience(trajectory, episodes, current, reward_normalizer, states, info)


def fresh_rollout(key: jax.Array, environment: Environment, params: Any, policy: Policy, num_envs: int) -> RolloutState:
    """Returns `num_envs` environments at the start of their first episodes."""
    return init_rollout(key, environment, params, policy.initial_carry(num_envs), num_envs)


def estimator_inputs(act: Act, state: TrainingState, experience: Experience, config: Any) -> EstimatorInputs:
    """Returns all that an estimator may read of a rollout, as the policy `act` sees it.

    Args:
      act: the policy whose values are used and, for ratios, whose probabilities.
      state: the state that the rollout started from.
      experience: the rollout.
      config: the scheduled config.
    """
    trajectory = experience.trajectory
    _, distributions, values = act(trajectory.initial_carry, *with_last(trajectory))  # of T + 1 steps
    values = expected_values(values)

    actions = jax.tree.map(lambda x: jnp.concatenate([x, x[-1:]]), trajectory.actions)  # of T + 1 steps
    return EstimatorInputs(
        rewards=experience.reward_normalizer(trajectory.rewards),
        values=values[:-1],
        next_values=values[1:],
        terminated=trajectory.terminated,
        truncated=trajectory.truncated,
        mask=trajectory.mask,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
        log_ratios=distributions.log_prob(actions)[:-1] - trajectory.log_probs,
        action_values=distributions.values_of(actions)[:-1] if hasattr(distributions, "values_of") else None,
        episode_steps=episode_steps(trajectory.resets, state.rollout.episode_length),
    )


def make_batch(estimator: Estimator, act: Act, state: TrainingState, experience: Experience, config: Any) -> Batch:
    """Returns what an update reads of a rollout: normalized observations, values, advantages and value targets.

    Args:
      estimator: of the advantages.
      act, state, experience, config: as in `estimator_inputs`. With `config.advantage_normalization == "batch"` the
        advantages are standardized over the rollout.
    """
    trajectory = experience.trajectory
    inputs = estimator_inputs(act, state, experience, config)
    advantages, value_targets = estimator(inputs)
    mask = trajectory.mask
    if config.burn_in_steps:
        mask = mask & after_burn_in(trajectory.resets, config.burn_in_steps)
    if getattr(config, "advantage_normalization", "none") == "batch":
        advantages = standardize(advantages, mask)
    return Batch(
        observations=finite_where_masked(state.observation_normalizer(trajectory.observations), trajectory.mask),
        resets=trajectory.resets,
        actions=trajectory.actions,
        log_probs=trajectory.log_probs,
        values=inputs.values,
        advantages=advantages,
        value_targets=value_targets,
        mask=mask,
    )


def clipped(optimizer: Optimizer, config: Any) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer for the current config, preceded by clipping to the global norm `config.max_grad_norm`."""
    chain = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optimizer(config))
    return optax.with_extra_args_support(chain)


def gradient_step(
    optimizer: optax.GradientTransformationExtraArgs, loss: LossFn, training: tuple[Any, Any], batch: Batch, carry: Any
) -> tuple[tuple[Any, Any], dict[str, jax.Array]]:
    """Takes one step down the gradient of a loss. A minibatch without unmasked steps, or whose loss or gradient is not
    finite, changes nothing.

    Args:
      optimizer: what turns gradients into updates (see `clipped`). It is given the parameters, the loss `value`, the
        gradient `grad` and the loss as a function of the parameters `value_fn`, if it takes them.
      loss: `(params, batch, carry) -> (loss, diagnostics)`.
      training: `(params, optimizer_state)`.
      batch, carry: the minibatch, and the policy's memory before its first step.

    Returns:
      The new `(params, optimizer_state)`, and the diagnostics with `gradient_norm`, the global norm before clipping.
    """
    params, optimizer_state = training

    def loss_of(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        return loss(rows.shared(params), batch, carry)

    (value, diagnostics), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, optimizer_state = optimizer.update(
        gradients,
        optimizer_state,
        params,
        value=value,
        grad=gradients,
        value_fn=lambda params: loss_of(params)[0],
    )
    gradient_norm = optax.tree.norm(gradients)
    usable = (rows.total(batch.mask) > 0) & jnp.isfinite(value) & jnp.isfinite(gradient_norm)
    moved = select(usable, (optax.apply_updates(params, updates), optimizer_state), training)
    return moved, diagnostics | {"gradient_norm": gradient_norm}


def select(condition: jax.Array, new: Any, old: Any) -> Any:
    """Returns `new` if `condition` is true, otherwise `old`, leaf by leaf."""
    return jax.tree.map(partial(jnp.where, condition), new, old)


def next_state(
    state: TrainingState, experience: Experience, key: jax.Array, params: Any, optimizer: Any, algorithm: Any = ()
) -> TrainingState:
    """Returns the state after a training step.

    Args:
      state: before it.
      experience: the rollout. The observation normalizer takes it in only now, so that the update saw what the rollout
        saw.
      key: randomness of the steps to come.
      params, optimizer: the new parameters and the new state of the optimizer.
      algorithm: what the algorithm keeps for itself.
    """
    return state._replace(
        params=params,
        optimizer=optimizer,
        rollout=experience.rollout,
        observation_normalizer=state.observation_normalizer.update(experience.trajectory),
        reward_normalizer=experience.reward_normalizer,
        transforms=experience.transforms,
        key=key,
        updates=state.updates + 1,
        algorithm=algorithm,
    )


def training_info(
    policy: Policy, state: TrainingState, experience: Experience, batch: Batch, config: Any, diagnostics: dict
) -> TrainingInfo:
    """Returns the diagnostics of a training step.

    Args:
      policy, state: before the step.
      experience, batch: the rollout, and its advantages.
      config: the scheduled config.
      diagnostics: arrays by name, averaged over their axes: fields of `TrainingInfo`, or else its extras.
    """
    episodes, trajectory = experience.episodes, experience.trajectory
    mask = trajectory.mask
    means = {name: jnp.mean(values) for name, values in diagnostics.items()}
    named = {name: means.pop(name) for name in TrainingInfo._fields if name in means}
    metrics = {name: episodes.mean(total) for name, total in episodes.metric_sums.items()}
    reasons = explain(policy, state.params, experience, batch) if config.explain else {}
    losses = [diagnostics[name] for name in ("policy_loss", "value_loss", "entropy") if name in diagnostics]
    return TrainingInfo(
        env_steps=rows.total(mask),
        episodes=episodes.count,
        episode_return=episodes.mean(episodes.return_sum),
        episode_length=episodes.mean(episodes.length_sum),
        explained_variance=explained_variance(batch.values, batch.value_targets, mask),
        extra=metrics | experience.info | means | reasons,
        nonfinite=dict(
            observations=count_nonfinite(trajectory.observations, mask),
            rewards=count_nonfinite(trajectory.rewards, mask),
            losses=count_nonfinite(losses),
            gradients=count_nonfinite(diagnostics.get("gradient_norm", ())),
        ),
        **named,
    )


def as_optimizer(name: str, optimizer: Optimizer | Callable[[Any], optax.GradientTransformation]) -> Optimizer:
    """Returns the function of the config that an algorithm's `optimizer=` argument stands for.

    Args:
      name: of the algorithm, for messages.
      optimizer: a function of the config, or one of a learning rate such as `optax.adamw`: one that returns an
        optimizer if it is called with a number. (A function of the config fails, as a number has no `learning_rate`.)

    Raises:
      TypeError: if it is not a function.
    """
    if not callable(optimizer):
        raise TypeError(
            f"optimizer of {name} must be a function of the config, such as lambda config: "
            f"optax.adam(config.learning_rate), got a {type(optimizer).__name__}"
        )
    try:
        _check_optimizer(optimizer(1e-3))
    except Exception:  # whatever a function of a config says to a number
        return optimizer
    return lambda config: optimizer(config.learning_rate)


def check_optimizer(name: str, optimizer: Optimizer, config: Any) -> None:
    """Raises TypeError, in one line, if `optimizer(config)` is not an optimizer."""
    try:
        _check_optimizer(optimizer(config))
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise TypeError(
            f"optimizer of {name} must be a function of the config, such as lambda config: "
            f"optax.adam(config.learning_rate), or of a learning rate, got one that raises {said}"
        ) from error


def _check_optimizer(optimizer: Any) -> None:
    """Takes one abstract step of an optimizer on a parameter of its own."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(x: jax.Array) -> Any:
        return optimizer.update(x, optimizer.init(x), x, value=jnp.sum(x), grad=x, value_fn=jnp.sum)

    jax.eval_shape(step, jnp.zeros(1))


def resolved_estimator(name: str, estimator: AnyEstimator, policy: Policy, environment: Environment) -> Estimator:
    """Returns the estimator that an algorithm's `estimator=` argument stands for.

    Raises:
      ValueError: for an unknown name, or an estimator that needs action values which the policy does not have.
    """
    resolved = as_estimator(estimator)
    try:
        jax.eval_shape(resolved, example_inputs((2, 3), action_values=False))
    except NeedsActionValues:
        if not hasattr(distribution_of(policy, environment), "values_of"):
            called = estimator if isinstance(estimator, str) else getattr(estimator, "__name__", repr(estimator))
            raise ValueError(
                f"estimator {called} needs a policy of action values: gaejax.q_network, with pqn, not {name}"
            ) from None
    return resolved


def make_algorithm(
    name: str,
    config_type: type[OnPolicyConfig],
    environment: Environment,
    policy: Policy,
    step: StepFn,
    optimizer: Optimizer | None,
    schedules: Mapping[str, Schedule],
    transforms: Sequence[Transform] = (),
    *,
    act: ActFn | None = None,
    own_state: Callable[[TrainingState], Any] = lambda state: (),
    check: Callable[[Any], None] = lambda config: None,
) -> Algorithm:
    """Returns the `Algorithm` with a given training step; its `init` checks what it is given and fills the state.

    Args:
      name: for messages.
      config_type: the class of its config.
      environment, policy: what it trains, and on what.
      step: `state -> (state, info)`.
      optimizer: `config -> optax.GradientTransformation`, whose state `init` makes; None: there is none.
      schedules: of the config's floats, by field (see `gaejax.algorithms.schedules`).
      transforms: of trajectories, whose states `init` makes.
      act: `(state, carry, observations, resets) -> (carry, distributions, values)`. Default: the policy as it stands.
      own_state: `state -> pytree`, what the algorithm keeps in `state.algorithm`, from an otherwise complete state.
      check: `config -> None`, raises ValueError for what the config's own `validate` cannot know.
    """
    check_environment(environment)
    check_is_policy(policy)
    resetting = training_environment(environment)

    def first_state(key: jax.Array, config: Any, source: TrainingState | None) -> TrainingState:
        params_key, rollout_key, key = jax.random.split(key, 3)
        params = policy.init(params_key)
        normalizer = (
            ObservationNormalizer.create(environment.observation_space) if config.normalize_observations else Identity()
        )
        if source is not None:
            params = taken_over("params", params, source.params)
            normalizer = taken_over("observation_normalizer", normalizer, source.observation_normalizer)
        state = TrainingState(
            params=params,
            optimizer=() if optimizer is None else clipped(optimizer, config).init(params),
            rollout=fresh_rollout(rollout_key, resetting, environment.params, policy, config.num_envs),
            environment_params=environment.params,
            observation_normalizer=normalizer,
            reward_normalizer=RewardNormalizer.create(config.num_envs) if config.normalize_rewards else Identity(),
            transforms=tuple(transform.init(params) for transform in transforms),
            key=key,
            updates=jnp.zeros((), jnp.int32),
            config=jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), config),
        )
        return strong(state._replace(algorithm=own_state(state)))

    compiled_first_state = jax.jit(first_state)  # operation by operation it would compile for seconds

    def init(key: jax.Array, config: Any, source: TrainingState | None = None) -> TrainingState:
        check_key(key)
        if not isinstance(config, config_type):
            raise TypeError(f"config of {name} must be a {config_type.__name__}, got {type(config).__name__}")
        config.validate()
        check_minibatches(config, has_memory=bool(jax.tree.leaves(jax.eval_shape(lambda: policy.initial_carry(1)))))
        check_scheduled(config, schedules)
        if optimizer is not None:
            check_optimizer(name, optimizer, config)
        check(config)
        return compiled_first_state(key, config, source)

    def act_now(state: TrainingState, carry: Any, observations: Any, resets: jax.Array) -> tuple[Any, Any, Any]:
        return acting(policy, state)(carry, observations, resets)

    def watched_step(state: TrainingState) -> tuple[TrainingState, TrainingInfo]:
        state, info = step(state)
        return state, info._replace(nonfinite=info.nonfinite | {"parameters": count_nonfinite(state.params)})

    return Algorithm(init, watched_step, act or act_now, policy.initial_carry, environment)


def check_key(key: Any) -> None:
    """Raises TypeError if `key` is not one key of `jax.random`."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and key.shape == ()
    raw = dtype == jnp.uint32 and key.ndim == 1
    if not (typed or raw):
        got = repr(key) if dtype is None else f"{dtype} of shape {key.shape}"
        raise TypeError(f"key must be one key, such as jax.random.key(0), got {got}: vmap over several")
