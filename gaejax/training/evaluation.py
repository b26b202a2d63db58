"""Evaluation apart from training: whole episodes of the current policy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax._arguments import short
from gaejax.algorithms import Algorithm
from gaejax.environments import Environment, check_is_environment, metric_names
from gaejax.training.export import export


class Evaluation(NamedTuple):
    """The results of E episodes.

    Attributes:
      returns: Undiscounted and unscaled returns, float `[E]`.
      lengths: Numbers of steps, int `[E]`.
      finished: Whether the episode ended within `max_steps`, bool `[E]`.
      metrics: By name, the values of the environment's `info["metrics"]` at the episode's last step, float `[E]`.
    """

    returns: jax.Array
    lengths: jax.Array
    finished: jax.Array
    metrics: dict[str, jax.Array] = {}  # noqa: RUF012 (never written to)


class _Progress(NamedTuple):
    key: jax.Array
    environment: Any
    observation: Any
    reset: jax.Array
    carry: Any
    evaluation: Evaluation


def evaluate(
    algorithm: Algorithm,
    state: Any,
    key: jax.Array,
    num_episodes: int = 64,
    *,
    greedy: bool = False,
    environment: Environment | None = None,
    max_steps: int = 100_000,
) -> Evaluation:
    """Plays the first episode of each of `num_episodes` parallel environments to its end.

    The first episodes, not the first to finish, which would favour short ones.

    Args:
      algorithm: The algorithm that `state` was trained with.
      state: The training state of one seed, whose policy and normalizer are used; `vmap` over more.
      key: Randomness of the environments and of the actions.
      num_episodes: E, static.
      greedy: Whether to take each distribution's mode instead of a sample.
      environment: Where to play; default: the training environment, with the params in `state`.
      max_steps: Steps after which the episodes that have not ended are cut.

    Returns:
      The `Evaluation`, leaves `[E]`.

    Raises:
      ValueError: if `state` is of several seeds, or `key` is not a key.
    """
    if not hasattr(key, "dtype"):
        raise ValueError(f"key must be a key, such as jax.random.key(0), got {key!r}")
    if not isinstance(algorithm, Algorithm):
        raise TypeError(f"algorithm must be what the state was trained with, an Algorithm, got {short(algorithm)}")
    if not hasattr(state, "environment_params"):
        raise TypeError(f"state must be a training state, as algorithm.init returns it, got {short(state)}")
    if environment is not None:
        check_is_environment(environment)
    act = export(algorithm, state, greedy=greedy)
    params = state.environment_params if environment is None else environment.params
    environment = algorithm.environment if environment is None else environment
    key, reset_key = jax.random.split(key)
    reset_keys = jax.random.split(reset_key, num_episodes)
    environment_state, observation = jax.vmap(environment.reset, in_axes=(0, None))(reset_keys, params)
    nothing = Evaluation(
        jnp.zeros(num_episodes, jnp.float32),
        jnp.zeros(num_episodes, jnp.int32),
        jnp.zeros(num_episodes, bool),
        {name: jnp.zeros(num_episodes, jnp.float32) for name in metric_names(environment)},
    )
    start = _Progress(
        key,
        environment_state,
        observation,
        jnp.ones(num_episodes, bool),
        algorithm.initial_carry(num_episodes),
        nothing,
    )

    def unfinished(progress: _Progress) -> jax.Array:
        finished, lengths = progress.evaluation.finished, progress.evaluation.lengths
        return jnp.any(~finished) & (jnp.max(lengths) < max_steps)

    def step(progress: _Progress) -> _Progress:
        keys = jax.random.split(progress.key, num_episodes + 2)
        carry, actions = act(progress.carry, progress.observation, progress.reset, keys[1])
        environment_state, observation, reward, terminated, truncated, info = jax.vmap(
            environment.step, in_axes=(0, 0, 0, None)
        )(keys[2:], progress.environment, actions, params)
        returns, lengths, finished, metrics = progress.evaluation
        evaluation = Evaluation(
            returns=returns + jnp.where(finished, 0, reward),
            lengths=lengths + (~finished).astype(lengths.dtype),
            finished=finished | jnp.asarray(terminated, bool) | jnp.asarray(truncated, bool),
            metrics={name: jnp.where(finished, value, info["metrics"][name]) for name, value in metrics.items()},
        )
        return _Progress(keys[0], environment_state, observation, jnp.zeros_like(finished), carry, evaluation)

    # The types of a step's results are those that the loop carries (a reset may give weakly typed numbers).
    start = jax.tree.map(lambda leaf, shape: jnp.asarray(leaf, shape.dtype), start, jax.eval_shape(step, start))
    return jax.lax.while_loop(unfinished, step, start).evaluation
