"""Proximal Policy Optimization with Generalized Advantage Estimation (Schulman et al. 2017, arXiv:1707.06347)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from gaejax.advantages import gae
from gaejax.algorithms.core import Algorithm, check_config, strong, strong_floats
from gaejax.environments import Environment, auto_reset, rescale_actions
from gaejax.losses import clipped_surrogate_loss, kl_estimate, value_loss
from gaejax.minibatches import behind_burn_in, minibatch_epochs
from gaejax.normalizers import Identity, ObservationNormalizer, RewardNormalizer
from gaejax.policies import Policy
from gaejax.rollout import RolloutState, init_rollout, rollout, trajectory_values
from gaejax.statistics import explained_variance, masked_mean, standardize


def adam(learning_rate: jax.Array) -> optax.GradientTransformation:
    """Adam as PPO implementations use it, epsilon 1e-5."""
    return optax.adam(learning_rate, eps=1e-5)


@struct.dataclass
class PPOConfig:
    """PPO's hyperparameters. Floats are pytree leaves (traced: sweep them with `vmap`), all else is static."""

    num_envs: int = struct.field(default=16, pytree_node=False)
    """Rows of a rollout, N."""
    num_steps: int = struct.field(default=128, pytree_node=False)
    """Steps of a rollout, T."""
    num_epochs: int = struct.field(default=4, pytree_node=False)
    """Passes over a rollout."""
    num_minibatches: int = struct.field(default=4, pytree_node=False)
    """Parts of a pass."""
    learning_rate: float = 2.5e-4
    """Of the optimizer, at the start."""
    anneal_steps: float | None = None
    """Rows collected (T * N an update) until the learning rate has fallen linearly to 0; None keeps it constant."""
    discount: float = 0.99
    """Gamma: what a reward is worth one step earlier."""
    gae_lambda: float = 0.95
    """Lambda: 0 trusts the critic, 1 the rewards that were seen."""
    clip_epsilon: float = 0.2
    """How far the probability ratio may move before its gradient is cut."""
    value_clip_epsilon: float | None = None
    """How far values may move from the old ones; None leaves them free."""
    huber_delta: float | None = None
    """The value error from which its loss is linear; None keeps it squared."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """The global norm to which gradients are clipped."""
    fresh_rows: bool = struct.field(default=False, pytree_node=False)
    """Whether every rollout starts new episodes; else rows go on where they stand, memory included."""
    burn_in_steps: int = struct.field(default=0, pytree_node=False)
    """Steps at a rollout's start that bear no loss in rows that go on: their memory is that of older parameters."""
    advantage_normalization: Literal["minibatch", "batch", "none"] = struct.field(
        default="minibatch", pytree_node=False
    )
    """Over what advantages are standardized."""
    normalize_observations: bool = struct.field(default=False, pytree_node=False)
    """Whether running statistics scale the observations."""
    normalize_rewards: bool = struct.field(default=False, pytree_node=False)
    """Whether the running spread of the discounted return scales the rewards."""

    def validate(self) -> None:
        """Raises ValueError, with one line that names the field, for a config that cannot be trained."""
        check_config(self, unit_interval=("discount", "gae_lambda"), positive=("anneal_steps", "huber_delta"))
        if self.advantage_normalization not in ("minibatch", "batch", "none"):
            raise ValueError(
                f"advantage_normalization must be 'minibatch', 'batch' or 'none', got {self.advantage_normalization!r}"
            )
        if self.burn_in_steps >= self.num_steps:
            raise ValueError(f"burn_in_steps must be less than num_steps = {self.num_steps}, got {self.burn_in_steps}")
        if self.num_envs * self.num_steps % self.num_minibatches:
            raise ValueError(
                f"num_minibatches must divide num_envs * num_steps = {self.num_envs * self.num_steps}, "
                f"got {self.num_minibatches}"
            )


class PPOState(NamedTuple):
    """Everything that must persist between two training steps."""

    params: Any
    optimizer: Any
    rollout: RolloutState
    environment_params: Any
    observation_normalizer: ObservationNormalizer | Identity
    reward_normalizer: RewardNormalizer | Identity
    key: jax.Array
    updates: jax.Array
    config: PPOConfig


class PPOInfo(NamedTuple):
    """Diagnostics of one training step, scalars; losses are means over its minibatches.

    Attributes:
      env_steps: steps taken in the environment (rows that show a final observation do not count).
      episodes: how many ended in this rollout.
      episode_return, episode_length: their means, undiscounted and unscaled; NaN where none ended.
      policy_loss, value_loss, entropy: the three terms of the loss, unweighted.
      approx_kl: KL(old || new), and its `clip_fraction`, the share of ratios outside the clip range.
      explained_variance: of the value targets by the values they were made with.
      gradient_norm: the global norm before clipping.
      learning_rate: of this update.
      first_log_ratio: the largest |log ratio| on the first minibatch of the first epoch: 0 but for rounding, or the
        update does not see what the rollout saw.
    """

    env_steps: jax.Array
    episodes: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    policy_loss: jax.Array
    value_loss: jax.Array
    entropy: jax.Array
    approx_kl: jax.Array
    clip_fraction: jax.Array
    explained_variance: jax.Array
    gradient_norm: jax.Array
    learning_rate: jax.Array
    first_log_ratio: jax.Array


class PPOBatch(NamedTuple):
    """What an update reads of each step, `[T, N, ...]`."""

    observations: Any
    resets: jax.Array
    actions: Any
    log_probs: jax.Array
    values: jax.Array
    advantages: jax.Array
    value_targets: jax.Array
    mask: jax.Array


def ppo(
    environment: Environment,
    policy: Policy,
    *,
    optimizer: Callable[[jax.Array], optax.GradientTransformation] = adam,
    estimator: Callable = gae,
) -> Algorithm:
    """PPO on an environment with a policy.

    Args:
      environment: what to train on; it need not reset itself, and bounded real actions are rescaled from [-1, 1].
      policy: an actor-critic for its spaces.
      optimizer: `learning_rate -> optax.GradientTransformation`; the rate is traced and annealed. Clipping by the
        global norm goes before it.
      estimator: of the advantages, called like `gaejax.gae`.

    Returns:
      An `Algorithm`: `init(key, config: PPOConfig) -> PPOState`, `step(state) -> (PPOState, PPOInfo)`.
    """
    training_environment = auto_reset(rescale_actions(environment))

    def transformation(config: PPOConfig, learning_rate: jax.Array) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optimizer(learning_rate))

    def fresh_rows(key: jax.Array, environment_params: Any, config: PPOConfig) -> RolloutState:
        carry = policy.initial_carry(config.num_envs)
        return init_rollout(key, training_environment, environment_params, carry, config.num_envs)

    def init(key: jax.Array, config: PPOConfig) -> PPOState:
        config.validate()
        params_key, rollout_key, key = jax.random.split(key, 3)
        params = policy.init(params_key)
        space = environment.observation_space
        return strong(
            PPOState(
                params=params,
                optimizer=transformation(config, config.learning_rate).init(params),
                rollout=fresh_rows(rollout_key, environment.params, config),
                environment_params=environment.params,
                observation_normalizer=ObservationNormalizer.create(space)
                if config.normalize_observations
                else Identity(),
                reward_normalizer=RewardNormalizer.create(config.num_envs) if config.normalize_rewards else Identity(),
                key=key,
                updates=jnp.zeros((), jnp.int32),
                config=strong_floats(config),
            )
        )

    def act(state: PPOState, carry: Any, observations: Any, resets: jax.Array) -> tuple:
        return policy.apply(state.params, carry, state.observation_normalizer(observations), resets)

    def step(state: PPOState) -> tuple[PPOState, PPOInfo]:
        config = state.config
        key, rollout_key, shuffle_key = jax.random.split(state.key, 3)

        policy_now = partial(act, state)
        rows = state.rollout
        if config.fresh_rows:
            rollout_key, reset_key = jax.random.split(rollout_key)
            rows = fresh_rows(reset_key, state.environment_params, config)

        rows, trajectory, episodes = rollout(
            rollout_key, training_environment, state.environment_params, policy_now, rows, config.num_steps
        )
        reward_normalizer = state.reward_normalizer.update(trajectory, config.discount)
        values, next_values = trajectory_values(policy_now, trajectory)
        advantages, value_targets = estimator(
            rewards=reward_normalizer(trajectory.rewards),
            values=values,
            next_values=next_values,
            terminated=trajectory.terminated,
            truncated=trajectory.truncated,
            discount=config.discount,
            gae_lambda=config.gae_lambda,
            mask=trajectory.mask,
        )
        if config.advantage_normalization == "batch":
            advantages = standardize(advantages, trajectory.mask)

        batch = PPOBatch(
            observations=finite_where_masked(state.observation_normalizer(trajectory.observations), trajectory.mask),
            resets=trajectory.resets,
            actions=trajectory.actions,
            log_probs=trajectory.log_probs,
            values=values,
            advantages=advantages,
            value_targets=value_targets,
            mask=trajectory.mask & behind_burn_in(trajectory.resets, config.burn_in_steps),
        )
        learning_rate = annealed_learning_rate(config, state.updates)

        def update(training: tuple, minibatch: tuple) -> tuple:
            params, optimizer_state = training
            gradients, diagnostics = jax.grad(ppo_loss, has_aux=True)(params, policy, config, *minibatch)
            updates, optimizer_state = transformation(config, learning_rate).update(gradients, optimizer_state, params)
            diagnostics["gradient_norm"] = optax.tree.norm(gradients)
            return (optax.apply_updates(params, updates), optimizer_state), diagnostics

        (params, optimizer_state), diagnostics = minibatch_epochs(
            shuffle_key,
            batch,
            trajectory.initial_carry,
            update,
            (state.params, state.optimizer),
            config.num_epochs,
            config.num_minibatches,
        )
        info = PPOInfo(
            env_steps=jnp.sum(trajectory.mask),
            episodes=episodes.count,
            episode_return=episodes.return_sum / episodes.count,
            episode_length=episodes.length_sum / episodes.count,
            explained_variance=explained_variance(values, value_targets, trajectory.mask),
            learning_rate=learning_rate,
            first_log_ratio=diagnostics.pop("largest_log_ratio")[0, 0],
            **jax.tree.map(jnp.mean, diagnostics),
        )
        state = state._replace(
            params=params,
            optimizer=optimizer_state,
            rollout=rows,
            observation_normalizer=state.observation_normalizer.update(trajectory),
            reward_normalizer=reward_normalizer,
            key=key,
            updates=state.updates + 1,
        )
        return state, info

    return Algorithm(init, step, act, policy.initial_carry, environment)


def finite_where_masked(observations: Any, mask: jax.Array) -> Any:
    """Observations `[T, N, ...]` whose masked rows are finite: a final observation may be NaN, and would make the
    gradient NaN though its loss is masked. (What is finite stays: a policy with memory reads forced steps too.)"""

    def clean(part: jax.Array) -> jax.Array:
        keep = jnp.expand_dims(mask, range(mask.ndim, part.ndim)) | jnp.isfinite(part)
        return jnp.where(keep, part, 0).astype(part.dtype)

    return jax.tree.map(clean, observations)


def ppo_loss(params: Any, policy: Policy, config: PPOConfig, batch: PPOBatch, carry: Any) -> tuple[jax.Array, dict]:
    """The loss of a minibatch, a mean over its unmasked steps (equation 9), and its diagnostics."""
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
    policy_loss = masked_mean(clipped_surrogate_loss(log_ratios, advantages, config.clip_epsilon), mask)
    critic_loss = masked_mean(
        value_loss(values, kept["value_targets"], kept["values"], config.value_clip_epsilon, config.huber_delta), mask
    )
    entropy = masked_mean(distributions.entropy(), mask)

    loss = policy_loss + config.value_coefficient * critic_loss - config.entropy_coefficient * entropy
    return loss, dict(
        policy_loss=policy_loss,
        value_loss=critic_loss,
        entropy=entropy,
        approx_kl=masked_mean(kl_estimate(log_ratios), mask),
        clip_fraction=masked_mean(jnp.abs(jnp.expm1(log_ratios)) > config.clip_epsilon, mask),
        largest_log_ratio=jnp.max(jnp.abs(log_ratios)),
    )


def annealed_learning_rate(config: PPOConfig, updates: jax.Array) -> jax.Array:
    """The learning rate behind `updates` training steps: falling linearly to 0 over `anneal_steps`, or constant."""
    if config.anneal_steps is None:
        return config.learning_rate
    done = updates * (config.num_envs * config.num_steps / config.anneal_steps)  # no product that overflows an int32
    return config.learning_rate * jnp.clip(1 - done, 0, 1)
