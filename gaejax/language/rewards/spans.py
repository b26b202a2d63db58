"""The texts in a trajectory: where each begins, where its response begins and ends."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.language.data.prompts import Text
from gaejax.rollout import Trajectory


class Spans(NamedTuple):
    """Of the text that each step `[T, N]` belongs to, the indices of steps.

    Attributes:
      start: its first step.
      first: its first trainable step, on which the prompt's last token is observed; T if there is none.
      last: the last trainable step up to here; before `start` if there is none.
      complete: the text ends with this step, and has trainable ones.
    """

    start: jax.Array
    first: jax.Array
    last: jax.Array
    complete: jax.Array


def spans(trajectory: Trajectory) -> Spans:
    """The `Spans` of a rollout of fresh rows (a text that began before it seems to begin with it)."""
    num_steps = trajectory.resets.shape[0]
    index = jnp.arange(num_steps)[:, None]
    start = jax.lax.cummax(jnp.where(trajectory.resets, index, 0))
    following = jax.lax.cummin(jnp.where(trajectory.mask, index, num_steps), reverse=True)
    first = jnp.take_along_axis(following, start, axis=0)
    last = jax.lax.cummax(jnp.where(trajectory.mask, index, -1))
    return Spans(start, first, last, (trajectory.terminated | trajectory.truncated) & (last >= start))


def tokens(trajectory: Trajectory) -> jax.Array:
    """What was written, `[T + 1, N]`: the observations, and what follows the last step."""
    return jnp.concatenate([trajectory.observations, trajectory.last_observation[None]])


def text_ending_at(spans: Spans, tokens: jax.Array, end: jax.Array, row: jax.Array, prompt: int, response: int) -> Text:
    """The text that ends with step `end` of `row`, in arrays of static sizes; longer ones are cut."""
    start, first = spans.start[end, row], spans.first[end, row]

    def part(begin: jax.Array, length: jax.Array, size: int) -> jax.Array:
        place = jnp.arange(size)
        read = tokens[jnp.clip(begin + place, 0, tokens.shape[0] - 1), row]
        return jnp.where(place < length, read, 0)

    prompt_length, response_length = first - start + 1, end - first + 1
    return Text(
        part(start, prompt_length, prompt), prompt_length, part(first + 1, response_length, response), response_length
    )


def add_at_ends(rewards: jax.Array, spans: Spans, scores: jax.Array) -> jax.Array:
    """Rewards `[T, N]` with the scores of texts, given where they end, added at their last trainable steps."""
    rows = jnp.broadcast_to(jnp.arange(rewards.shape[1]), rewards.shape)
    steps = jnp.where(spans.complete, spans.last, rewards.shape[0])
    return rewards.at[steps, rows].add(jnp.where(spans.complete, scores, 0), mode="drop")


def check_fresh_rows(what: str, training_state: Any) -> None:
    """Raises ValueError where a text may have begun in an earlier rollout, of which the trajectory knows nothing."""
    if not training_state.config.fresh_rows:
        raise ValueError(f"fresh_rows must be True for {what}: it reads whole texts, and rows that go on are cut")
