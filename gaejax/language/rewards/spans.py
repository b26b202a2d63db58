"""Where the texts in a trajectory begin and end."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.language.data.prompts import Text
from gaejax.rollout import Trajectory


class Spans(NamedTuple):
    """For each transition `[T, N]`, the extent of the text it belongs to, as indices of steps.

    Attributes:
      start: The text's first step.
      first: The text's first trainable step, at which the prompt's last token is observed; T if there is none.
      last: The last trainable step so far; before `start` if there is none.
      complete: Whether the text ends with this step and has trainable steps.
    """

    start: jax.Array
    first: jax.Array
    last: jax.Array
    complete: jax.Array


def spans(trajectory: Trajectory) -> Spans:
    """Returns the `Spans` of a rollout with `fresh_rows` (a text that began earlier would seem to begin with it)."""
    num_steps = trajectory.resets.shape[0]
    index = jnp.arange(num_steps)[:, None]
    start = jax.lax.cummax(jnp.where(trajectory.resets, index, 0))
    following = jax.lax.cummin(jnp.where(trajectory.mask, index, num_steps), reverse=True)
    first = jnp.take_along_axis(following, start, axis=0)
    last = jax.lax.cummax(jnp.where(trajectory.mask, index, -1))
    return Spans(start, first, last, (trajectory.terminated | trajectory.truncated) & (last >= start))


def tokens(trajectory: Trajectory) -> jax.Array:
    """Returns what was written, tokens `[T + 1, N]`: the observations, and the one after the last step.

    Raises:
      ValueError: if a transform before this one has replaced the tokens, as `encode_once` does.
    """
    if not isinstance(trajectory.observations, jax.Array | np.ndarray):
        kind = type(trajectory.observations).__name__
        raise ValueError(f"observations must be tokens, got {kind}: put transforms that read texts before encode_once")
    return jnp.concatenate([trajectory.observations, trajectory.last_observation[None]])


def text_ending_at(
    spans: Spans, tokens: jax.Array, end: jax.Array | int, environment: jax.Array | int, prompt: int, response: int
) -> Text:
    """Returns the text that ends with step `end` of an environment.

    Args:
      spans: The trajectory's spans.
      tokens: The trajectory's tokens `[T + 1, N]`.
      end: The text's last step.
      environment: Its index in N.
      prompt: Static size of the prompt's array; a longer prompt is cut.
      response: Static size of the response's array; a longer response is cut.
    """
    start, first = spans.start[end, environment], spans.first[end, environment]

    def part(begin: jax.Array, length: jax.Array, size: int) -> jax.Array:
        place = jnp.arange(size)
        read = tokens[jnp.clip(begin + place, 0, tokens.shape[0] - 1), environment]
        return jnp.where(place < length, read, 0)

    prompt_length, response_length = first - start + 1, end - first + 1
    return Text(
        prompt=part(start, prompt_length, prompt),
        prompt_length=prompt_length,
        response=part(first + 1, response_length, response),
        response_length=response_length,
    )


def add_at_ends(rewards: jax.Array, spans: Spans, scores: jax.Array) -> jax.Array:
    """Adds the scores of texts, which `[T, N]` holds where texts end, to the rewards `[T, N]` of their last trainable
    steps."""
    environments = jnp.broadcast_to(jnp.arange(rewards.shape[1]), rewards.shape)
    steps = jnp.where(spans.complete, spans.last, rewards.shape[0])
    return rewards.at[steps, environments].add(jnp.where(spans.complete, scores, 0), mode="drop")


def check_fresh_rows(what: str, training_state: Any) -> None:
    """Raises ValueError if texts may have begun in an earlier rollout, whose tokens the trajectory does not have."""
    if not training_state.config.fresh_rows:
        raise ValueError(f"fresh_rows must be True for {what}, which reads whole texts; got False")
