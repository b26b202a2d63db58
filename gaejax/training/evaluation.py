"""Evaluation apart from training: whole episodes of the policy as it stands."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.algorithms import Algorithm
from gaejax.environments import Environment
from gaejax.training.acting import export


class Evaluation(NamedTuple):
    """What each of `E` episodes came to.

    Attributes:
      returns: undiscounted, unscaled `[E]`.
      lengths: in steps `[E]`.
      finished: the episode ended within `max_steps`.
    """

    returns: jax.Array
    lengths: jax.Array
    finished: jax.Array


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

    First episodes, not the first to finish: those would favour short ones.

    Args:
      algorithm, state: whose policy plays, its normalizers included. `state` is that of one seed; `vmap` over more.
      key: randomness of the environments and of the actions.
      num_episodes: E, a static number.
      greedy: whether to take each distribution's mode instead of a sample.
      environment: where to play; default: where it trained, with the params in `state`.
      max_steps: the longest an episode may take (for environments that do not end by themselves).
    """
    params = state.environment_params if environment is None else environment.params
    environment = algorithm.environment if environment is None else environment
    act = export(algorithm, state, greedy=greedy)
    key, reset_key = jax.random.split(key)
    reset_keys = jax.random.split(reset_key, num_episodes)
    environment_state, observation = jax.vmap(environment.reset, in_axes=(0, None))(reset_keys, params)
    nothing = Evaluation(
        jnp.zeros(num_episodes, jnp.float32), jnp.zeros(num_episodes, jnp.int32), jnp.zeros(num_episodes, bool)
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
        environment_state, observation, reward, terminated, truncated, _ = jax.vmap(
            environment.step, in_axes=(0, 0, 0, None)
        )(keys[2:], progress.environment, actions, params)
        returns, lengths, finished = progress.evaluation
        evaluation = Evaluation(
            returns=returns + jnp.where(finished, 0, reward),
            lengths=lengths + (~finished).astype(lengths.dtype),
            finished=finished | jnp.asarray(terminated, bool) | jnp.asarray(truncated, bool),
        )
        return _Progress(keys[0], environment_state, observation, jnp.zeros_like(finished), carry, evaluation)

    # The types of a step's results are those that the loop carries (a reset may give weakly typed numbers).
    start = jax.tree.map(lambda leaf, shape: jnp.asarray(leaf, shape.dtype), start, jax.eval_shape(step, start))
    return jax.lax.while_loop(unfinished, step, start).evaluation
