"""Prints texts while a language model trains."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.language.rewards.spans import spans, tokens
from gaejax.rollout import Trajectory
from gaejax.transforms import Transform


def show_texts(decode: Callable[[Sequence[int]], str], every: int, count: int = 3) -> Transform:
    """Prints the first text of some environments, prompt included, every so many updates.

    Put it before `encode_once` in the list of transforms, which replaces the tokens.

    Args:
      decode: Turns tokens into a string.
      every: Number of updates between two prints.
      count: How many environments, the first ones.
    """

    def on_host(updates: Any, written: Any, start: Any, end: Any) -> None:
        if int(updates) % every == 0:
            texts = (decode(text[first : last + 2]) for text, first, last in zip(written.T, start, end, strict=True))
            print(f"update {int(updates):4d}:  " + "   ".join(texts), flush=True)

    def apply(state: tuple, trajectory: Trajectory, training_state: Any) -> tuple:
        where, index = spans(trajectory), jnp.arange(trajectory.mask.shape[0])[:, None]
        end = jnp.min(jnp.where(where.complete, index, len(index) - 1), axis=0)
        shown = (tokens(trajectory)[:, :count], where.start[0, :count], end[:count])
        jax.debug.callback(lambda *arrays: on_host(*map(np.asarray, arrays)), training_state.updates, *shown)
        return state, trajectory, {}

    return Transform(lambda params: (), apply)
