"""The parts that on-policy algorithms are made of: a rollout, its advantages, a gradient step, what persists."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import optax

from gaejax.advantages import ESTIMATORS, gae
from gaejax.algorithms.batches import Batch, estimated_batch
from gaejax.algorithms.core import Algorithm, adam, inherited, strong, strong_floats
from gaejax.algorithms.explain import explain
from gaejax.algorithms.training_state import Experience, OnPolicyConfig, TrainingInfo, TrainingState
from gaejax.environments import Environment, auto_reset, rescale_actions
from gaejax.normalizers import Identity, ObservationNormalizer, RewardNormalizer
from gaejax.policies import Policy, distribution_of
from gaejax.rollout import RolloutState, Transform, init_rollout, rollout
from gaejax.schedules import Schedule, check_scheduled, check_schedules, scheduled
from gaejax.statistics import explained_variance


class Parts(TypedDict, total=False):
    """The keyword arguments that all on-policy algorithms take; they are described at `OnPolicy`."""

    optimizer: Callable[[jax.Array], optax.GradientTransformation]
    estimator: Callable | str
    schedules: Mapping[str, Schedule | str]
    transforms: Sequence[Transform]


@dataclasses.dataclass(frozen=True)
class OnPolicy:
    """The shared parts of a training step, bound to an environment and a policy.

    Attributes:
      environment: what to train on; it need not reset itself, and bounded real actions are rescaled from [-1, 1].
      policy: an actor-critic for its spaces.
      optimizer: `learning_rate -> optax.GradientTransformation`, of traced numbers; other fields of the config it is
        given where its signature names them. Clipping by the global norm goes before it. None: there are no gradients.
      estimator: of the advantages, called like `gaejax.gae`, or a name in `gaejax.advantages.ESTIMATORS`. It is given
        the config's lambda as `gae_lambda` or `trace_lambda`, and `log_ratios`, `action_values` or `episode_steps`,
        where its signature names them.
      schedules: what scales a float of the config as training goes on, by the field's name: a function of progress from
        0 to 1 (over the config's `anneal_steps`), or the name of one in `gaejax.schedules`. The learning rate falls
        linearly unless it is given another.
      transforms: of the trajectory, in order, before advantages are estimated.
      explore: `(distributions, config) -> distributions` that act.
    """

    environment: Environment
    policy: Policy
    optimizer: Callable[[jax.Array], optax.GradientTransformation] | None = adam
    estimator: Callable | str = gae
    schedules: Mapping[str, Schedule | str] = dataclasses.field(default_factory=dict)
    transforms: Sequence[Transform] = ()
    explore: Callable = lambda distributions, config: distributions

    def __post_init__(self) -> None:
        estimator = self.estimator if callable(self.estimator) else ESTIMATORS.get(self.estimator)
        if estimator is None:
            known = ", ".join(ESTIMATORS)
            raise ValueError(f"estimator must be one of {known} or a function, got {self.estimator!r}")
        needs_action_values = "action_values" in inspect.signature(estimator).parameters
        if needs_action_values and not hasattr(distribution_of(self.policy, self.environment), "values_of"):
            name = getattr(estimator, "__name__", repr(estimator))
            raise ValueError(f"estimator {name} needs a policy of action values: gaejax.q_network, with pqn")
        object.__setattr__(self, "estimator", estimator)
        default = {"learning_rate": "linear"} if self.optimizer else {}
        object.__setattr__(self, "schedules", check_schedules(default | dict(self.schedules)))

    def algorithm(self, step: Callable, check: Callable[[OnPolicyConfig], None] = lambda config: None) -> Algorithm:
        """The algorithm with this training step; `check(config)` refuses configs beyond what they refuse themselves."""

        first_state = jax.jit(lambda *given: self.init(*given))  # op by op it would compile for seconds

        def init(key: jax.Array, config: OnPolicyConfig, source: TrainingState | None = None) -> TrainingState:
            config.validate()
            check_scheduled(config, self.schedules)
            check(config)
            return first_state(key, config, source)

        return Algorithm(init, step, self.act, self.policy.initial_carry, self.environment)

    def init(self, key: jax.Array, config: OnPolicyConfig, source: TrainingState | None) -> TrainingState:
        """The state before the first training step, with the policy of `source` if that is given."""
        params_key, rollout_key, key = jax.random.split(key, 3)
        params = self.policy.init(params_key)
        space = self.environment.observation_space
        normalizer = ObservationNormalizer.create(space) if config.normalize_observations else Identity()
        if source is not None:
            params = inherited("params", params, source.params)
            normalizer = inherited("observation_normalizer", normalizer, source.observation_normalizer)
        return strong(
            TrainingState(
                params=params,
                optimizer=self.transformation(config).init(params) if self.optimizer else (),
                rollout=self.fresh_rows(rollout_key, self.environment.params, config),
                environment_params=self.environment.params,
                observation_normalizer=normalizer,
                reward_normalizer=RewardNormalizer.create(config.num_envs) if config.normalize_rewards else Identity(),
                transforms=tuple(transform.init(params) for transform in self.transforms),
                key=key,
                updates=jnp.zeros((), jnp.int32),
                config=strong_floats(config),
            )
        )

    def act(self, state: TrainingState, carry: Any, observations: Any, resets: jax.Array) -> tuple:
        """The policy as it stands and explores."""
        carry, distributions, values = self.policy.apply(
            state.params, carry, state.observation_normalizer(observations), resets
        )
        return carry, self.explore(distributions, scheduled(state.config, self.schedules, state.updates)), values

    def fresh_rows(self, key: jax.Array, environment_params: Any, config: OnPolicyConfig) -> RolloutState:
        """Rows at the start of their first episodes."""
        carry = self.policy.initial_carry(config.num_envs)
        return init_rollout(key, self.training_environment, environment_params, carry, config.num_envs)

    @property
    def training_environment(self) -> Environment:
        return auto_reset(rescale_actions(self.environment))

    def collect(self, state: TrainingState) -> Experience:
        """A rollout, transformed."""
        config = scheduled(state.config, self.schedules, state.updates)
        next_key, rollout_key, key = jax.random.split(state.key, 3)
        rows = state.rollout
        if config.fresh_rows:
            rollout_key, reset_key = jax.random.split(rollout_key)
            rows = self.fresh_rows(reset_key, state.environment_params, config)
        act, params, environment = partial(self.act, state), state.environment_params, self.training_environment
        rows, trajectory, episodes = rollout(rollout_key, environment, params, act, rows, config.num_steps)
        transforms, info = (), {}
        for transform, transform_state in zip(self.transforms, state.transforms, strict=True):
            transform_state, trajectory, more = transform.apply(transform_state, trajectory, state)
            transforms, info = (*transforms, transform_state), info | more
        persisting = dict(
            rollout=rows,
            reward_normalizer=state.reward_normalizer.update(trajectory, config.discount),
            transforms=transforms,
            key=next_key,
        )
        return Experience(config, key, trajectory, episodes, persisting, info)

    def batch(self, state: TrainingState, experience: Experience, params: Any) -> Batch:
        """The rollout's steps, with values and advantages as `params` see them."""
        return estimated_batch(self.estimator, partial(self.act, state._replace(params=params)), state, experience)

    def transformation(self, config: OnPolicyConfig) -> optax.GradientTransformation:
        """The optimizer as the config has it now, behind clipping by the global norm."""
        named = (set(inspect.signature(self.optimizer).parameters) & set(vars(config))) - {"learning_rate"}
        optimizer = self.optimizer(config.learning_rate, **{name: getattr(config, name) for name in named})
        return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optimizer)

    def gradient_step(
        self, config: OnPolicyConfig, loss: Callable, training: tuple, *inputs: Any
    ) -> tuple[tuple, dict]:
        """One step of `(params, optimizer state)` down the gradient of `loss(params, *inputs) -> (loss, infos)`."""
        params, optimizer_state = training
        gradients, diagnostics = jax.grad(loss, has_aux=True)(params, *inputs)
        updates, optimizer_state = self.transformation(config).update(gradients, optimizer_state, params)
        diagnostics["gradient_norm"] = optax.tree.norm(gradients)
        return (optax.apply_updates(params, updates), optimizer_state), diagnostics

    def finish(
        self, state: TrainingState, experience: Experience, batch: Batch, training: tuple, diagnostics: dict
    ) -> tuple[TrainingState, TrainingInfo]:
        """The state behind the training step, and its info.

        `training` is the new `(params, optimizer state)`; the means of `diagnostics` go to the info, to its fields of
        these names or to its extras.
        """
        config, episodes, mask = experience.config, experience.episodes, experience.trajectory.mask
        means = {name: jnp.mean(values) for name, values in diagnostics.items()}
        named = {name: means.pop(name) for name in TrainingInfo._fields if name in means}
        extra = experience.info | means
        if config.explain:
            extra |= explain(self.policy, state.params, experience, batch)
        info = TrainingInfo(
            env_steps=jnp.sum(mask),
            episodes=episodes.count,
            episode_return=episodes.return_sum / episodes.count,
            episode_length=episodes.length_sum / episodes.count,
            explained_variance=explained_variance(batch.values, batch.value_targets, mask),
            extra=extra,
            **named,
        )
        params, optimizer = training
        state = state._replace(
            params=params,
            optimizer=optimizer,
            observation_normalizer=state.observation_normalizer.update(experience.trajectory),
            updates=state.updates + 1,
            **experience.persisting,
        )
        return state, info
