"""Rewards of whole texts, computed once a rollout: JAX functions, Python functions on strings, whitening."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.language.data.prompts import Text
from gaejax.language.rewards.spans import Spans, add_at_ends, check_fresh_rows, spans, text_ending_at, tokens
from gaejax.rollout import Trajectory, Transform
from gaejax.statistics import masked_mean


def score(
    reward: Callable[[Text], jax.Array],
    *,
    weight: float = 1.0,
    name: str = "score",
    max_prompt: int | None = None,
    max_response: int | None = None,
) -> Transform:
    """Adds `weight * reward(text)` at the last trainable token of every text that ended in the rollout.

    A text that the rollout's end cuts gets none: the critic's value stands in for it. Several rewards are summed by
    several transforms, each with a name of its own.

    Args:
      reward: a pure function of one `Text` (without aux), a reward model for example; it is vmapped over texts.
      weight: of this reward.
      name: of its statistics in the info: `name`, `name + "_std"`, and `response_length`.
      max_prompt, max_response: the sizes of the text's arrays; default: the rollout's steps. Longer texts are cut.

    Raises:
      ValueError: if `reward` returns anything but one number for a text, or rows are not fresh.
    """

    def at_ends(trajectory: Trajectory, where: Spans) -> jax.Array:
        num_steps, num_rows = trajectory.mask.shape
        sizes = max_prompt or num_steps, max_response or num_steps
        written, total = tokens(trajectory), num_steps * num_rows
        read = partial(text_ending_at, where, written)
        shape = getattr(jax.eval_shape(lambda: reward(read(0, 0, *sizes))), "shape", None)
        if shape != ():
            raise ValueError(f"{name} must be one number for a text, got shape {shape}")
        # Texts end anywhere; as many passes of `num_rows` texts as there are texts.
        ends = jnp.nonzero(where.complete.reshape(-1), size=total, fill_value=total)[0]

        def score_some(index: jax.Array, scores: jax.Array) -> jax.Array:
            chosen = jax.lax.dynamic_slice_in_dim(ends, index * num_rows, num_rows)
            inside = jnp.minimum(chosen, total - 1)
            found = jax.vmap(lambda end, row: reward(read(end, row, *sizes)))(inside // num_rows, inside % num_rows)
            return scores.at[chosen].set(found.astype(jnp.float32), mode="drop")

        passes = -(-jnp.sum(where.complete) // num_rows)
        scores = jax.lax.fori_loop(0, passes, score_some, jnp.zeros(total, jnp.float32))
        return scores.reshape(num_steps, num_rows)

    return _transform(at_ends, weight, name)


def python_score(
    reward: Callable[[list[str], list[str]], Sequence[float]],
    decode: Callable[[Sequence[int]], str],
    *,
    weight: float = 1.0,
    name: str = "score",
) -> Transform:
    """The same by an ordinary Python function, called once a rollout with the strings of all its texts.

    Args:
      reward: `(prompts, responses) -> scores`, one a text. What it raises, a score that is not finite, or a wrong
        number of scores stops the training step with a message that holds the text that caused it.
      decode: tokens of a prompt, or of a response with the EOS that ended it, to a string.
      weight, name: as in `score`.
    """

    def at_ends(trajectory: Trajectory, where: Spans) -> jax.Array:
        shape = jax.ShapeDtypeStruct(where.complete.shape, jnp.float32)
        host = partial(_score_on_host, reward, decode, name)
        return jax.pure_callback(host, shape, tokens(trajectory), where, vmap_method="broadcast_all")

    return _transform(at_ends, weight, name)


def _transform(at_ends: Callable, weight: float, name: str) -> Transform:
    def apply(state: tuple, trajectory: Trajectory, training_state: Any) -> tuple:
        check_fresh_rows(name, training_state)
        where = spans(trajectory)
        scores = at_ends(trajectory, where)
        mean = masked_mean(scores, where.complete)
        info = {
            name: mean,
            f"{name}_std": jnp.sqrt(masked_mean((scores - mean) ** 2, where.complete)),
            "response_length": jnp.sum(trajectory.mask & (where.first <= where.last)) / count_texts(trajectory, where),
        }
        rewards = add_at_ends(trajectory.rewards, where, weight * scores)
        return state, trajectory._replace(rewards=rewards), info

    return Transform(lambda params: (), apply)


def count_texts(trajectory: Trajectory, where: Spans) -> jax.Array:
    """How many texts have a trainable token in the rollout; at least 1."""
    index = jnp.arange(trajectory.mask.shape[0])[:, None]
    return jnp.maximum(jnp.sum(trajectory.mask & (where.first == index)), 1)


def _score_on_host(reward: Callable, decode: Callable, name: str, written: Any, where: Any) -> np.ndarray:
    """Scores `[..., T, N]` of tokens `[..., T + 1, N]`, in one call."""
    written, where = np.asarray(written), Spans(*(np.asarray(part) for part in where))
    *batches, rows, ends = np.nonzero(np.swapaxes(where.complete, -1, -2))  # row by row: groups stay together
    prompts, responses = [], []
    for *batch, end, row in zip(*batches, ends, rows, strict=True):
        text = written[(*batch, slice(None), row)]
        start, first = (part[(*batch, end, row)] for part in (where.start, where.first))
        prompts.append(decode(text[start : first + 1].tolist()))
        responses.append(decode(text[first + 1 : end + 2].tolist()))
    scores = np.zeros(where.complete.shape, np.float32)
    if prompts:
        scores[(*batches, ends, rows)] = checked_scores(reward, name, prompts, responses)
    return scores


def checked_scores(reward: Callable, name: str, prompts: list[str], responses: list[str]) -> np.ndarray:
    """The scores of texts; ValueError, in one line, with the text that caused it, for what is no score."""
    try:
        scores = reward(prompts, responses)
    except Exception as error:
        text = _culprit(reward, prompts, responses)
        raise ValueError(f"{name} raised {type(error).__name__}: {error}, for {text}") from error
    found = np.asarray(scores, np.float32)
    if found.shape != (len(prompts),):
        raise ValueError(f"{name} must return {len(prompts)} scores, one a text, got shape {found.shape}")
    if not np.isfinite(found).all():
        wrong = int(np.flatnonzero(~np.isfinite(found))[0])
        raise ValueError(f"{name} must be finite, got {found[wrong]} for {_quoted(prompts[wrong], responses[wrong])}")
    return found


def _culprit(reward: Callable, prompts: list[str], responses: list[str]) -> str:
    """The first text for which `reward` fails alone."""
    for prompt, response in zip(prompts, responses, strict=True):
        try:
            reward([prompt], [response])
        except Exception:
            return _quoted(prompt, response)
    return f"{len(prompts)} texts together, and for none of them alone"


def _quoted(prompt: str, response: str) -> str:
    return f"the prompt {prompt!r} with the response {response!r}"


def whiten_rewards(shift_mean: bool = False, epsilon: float = 1e-8) -> Transform:
    """Rewards scaled to standard deviation 1 over trainable tokens; their mean is kept unless `shift_mean`.

    (As in Ziegler et al. 2019, arXiv:1909.08593; Huang et al. 2024, arXiv:2403.17031, leave it off.)
    """

    def apply(state: tuple, trajectory: Trajectory, training_state: Any) -> tuple:
        mask = trajectory.mask
        mean = masked_mean(trajectory.rewards, mask)
        centred = jnp.where(mask, trajectory.rewards - mean, 0)
        scale = jax.lax.rsqrt(masked_mean(centred**2, mask) + epsilon)
        rewards = jnp.where(mask, centred * scale + (0 if shift_mean else mean), 0)
        return state, trajectory._replace(rewards=rewards), {"reward_std": 1 / scale}

    return Transform(lambda params: (), apply)


def shuffle_scores() -> Transform:
    """Deals the rows' returns out among the rows' texts at random: a control, with which nothing can be learned."""

    def apply(state: tuple, trajectory: Trajectory, training_state: Any) -> tuple:
        returns = jnp.sum(jnp.where(trajectory.mask, trajectory.rewards, 0), axis=0)
        dealt = jax.random.permutation(jax.random.fold_in(training_state.key, 1), returns)
        nothing = jnp.zeros_like(trajectory.rewards)
        rewards = add_at_ends(nothing, spans(trajectory), jnp.broadcast_to(dealt, nothing.shape))
        return state, trajectory._replace(rewards=rewards), {}

    return Transform(lambda params: (), apply)
