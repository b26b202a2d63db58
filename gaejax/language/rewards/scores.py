"""Rewards of whole texts, computed once per rollout by JAX functions or by Python functions on strings."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gaejax import rows
from gaejax.language.data.prompts import Reward
from gaejax.language.rewards.spans import Spans, add_at_ends, check_fresh_rows, spans, text_ending_at, tokens
from gaejax.rollout import Trajectory
from gaejax.statistics import masked_mean
from gaejax.transforms import Transform

SHUFFLES = 0x5C0E  # apart from the small numbers by which `split` tells keys apart

PythonReward = Callable[[list[str], list[str]], Sequence[float]]
"""`(prompts, responses) -> scores`, one per text."""

AtEnds = Callable[[Trajectory, Spans], jax.Array]
"""The scores of a trajectory's texts, where they end: `[T, N]`."""


def score(
    reward: Reward,
    *,
    weight: float = 1.0,
    name: str = "score",
    max_prompt: int | None = None,
    max_response: int | None = None,
) -> Transform:
    """Adds `weight * reward(text)` to the reward of the last trainable token of every text that ends in the rollout.

    A text that the end of the rollout cuts off gets no score: its successor's value is bootstrapped. To sum several
    rewards, use several transforms with different names.

    Args:
      reward: A pure function of one `Text` (whose `aux` is `()`), for example a reward model; vmapped over texts.
      weight: Factor on the reward.
      name: Prefix of its statistics in the info: `name` (the mean), `name + "_std"`, and `response_length`.
      max_prompt: Size of the prompt's array; longer prompts are cut. Default: the rollout's number of steps.
      max_response: Size of the response's array; longer responses are cut. Default: the rollout's number of steps.

    Returns:
      The transform. It raises ValueError at trace time if `reward` does not return one number per text, or `fresh_rows`
      is not set.
    """

    def at_ends(trajectory: Trajectory, where: Spans) -> jax.Array:
        num_steps, num_envs = trajectory.mask.shape
        sizes = max_prompt or num_steps, max_response or num_steps
        written, total = tokens(trajectory), num_steps * num_envs
        read = partial(text_ending_at, where, written)
        shape = getattr(jax.eval_shape(lambda: reward(read(0, 0, *sizes))), "shape", None)
        if shape != ():
            raise ValueError(f"{name} must be one number for each text, got shape {shape}")
        # The number of texts is known at run time only: score `num_envs` of them per pass, in as few passes as needed.
        ends = jnp.nonzero(where.complete.reshape(-1), size=total, fill_value=total)[0]

        def score_some(index: jax.Array, scores: jax.Array) -> jax.Array:
            chosen = jax.lax.dynamic_slice_in_dim(ends, index * num_envs, num_envs)
            inside = jnp.minimum(chosen, total - 1)
            found = jax.vmap(lambda end, env: reward(read(end, env, *sizes)))(inside // num_envs, inside % num_envs)
            return scores.at[chosen].set(found.astype(jnp.float32), mode="drop")

        passes = -(-jnp.sum(where.complete) // num_envs)
        scores = jax.lax.fori_loop(0, passes, score_some, jnp.zeros(total, jnp.float32))
        return scores.reshape(num_steps, num_envs)

    return _transform(at_ends, weight, name)


def python_score(
    reward: PythonReward,
    decode: Callable[[Sequence[int]], str],
    *,
    weight: float = 1.0,
    name: str = "score",
) -> Transform:
    """Scores texts as `score` does, by an ordinary Python function called once per rollout with all texts as strings.

    Args:
      reward: `(prompts, responses) -> scores`, one per text. If it raises, or returns a score that is not finite or a
        wrong number of scores, the training step stops with an error that quotes the text that caused it.
      decode: Turns the tokens of a prompt, or of a response with the EOS that ended it, into a string.
      weight: Factor on the reward.
      name: Prefix of its statistics in the info, as in `score`.
    """

    def at_ends(trajectory: Trajectory, where: Spans) -> jax.Array:
        shape = jax.ShapeDtypeStruct(where.complete.shape, jnp.float32)
        host = partial(_score_on_host, reward, decode, name)
        return jax.pure_callback(host, shape, tokens(trajectory), where, vmap_method="broadcast_all")

    return _transform(at_ends, weight, name)


def _transform(at_ends: AtEnds, weight: float, name: str) -> Transform:
    """Returns the transform that adds the weighted scores and reports their statistics."""

    def apply(state: tuple, trajectory: Trajectory, training_state: Any) -> tuple:
        check_fresh_rows(name, training_state)
        where = spans(trajectory)
        scores = at_ends(trajectory, where)
        mean = masked_mean(scores, where.complete)
        response_tokens = rows.total(trajectory.mask & (where.first <= where.last))
        info = {
            name: mean,
            f"{name}_std": jnp.sqrt(masked_mean((scores - mean) ** 2, where.complete)),
            "response_length": response_tokens / count_texts(trajectory, where),
        }
        rewards = add_at_ends(trajectory.rewards, where, weight * scores)
        return state, trajectory._replace(rewards=rewards), info

    return Transform(lambda params: (), apply)


def count_texts(trajectory: Trajectory, where: Spans) -> jax.Array:
    """Returns how many texts have a trainable token in the rollout, but at least 1."""
    index = jnp.arange(trajectory.mask.shape[0])[:, None]
    return jnp.maximum(rows.total(trajectory.mask & (where.first == index)), 1)


def _score_on_host(
    reward: PythonReward, decode: Callable[[Sequence[int]], str], name: str, written: Any, where: Spans
) -> np.ndarray:
    """Returns the scores `[..., T, N]` of tokens `[..., T + 1, N]`, from one call of `reward`."""
    written, starts, firsts, complete = map(np.asarray, (written, where.start, where.first, where.complete))
    # One environment after the other, so that the texts of a group stay together.
    *batches, environments, ends = np.nonzero(np.swapaxes(complete, -1, -2))
    prompts, responses = [], []
    for *batch, end, environment in zip(*batches, ends, environments, strict=True):
        text = written[(*batch, slice(None), environment)]
        start, first = (int(part[(*batch, end, environment)]) for part in (starts, firsts))
        prompts.append(decode(text[start : first + 1].tolist()))
        responses.append(decode(text[first + 1 : end + 2].tolist()))
    scores = np.zeros(complete.shape, np.float32)
    if prompts:
        scores[(*batches, ends, environments)] = checked_scores(reward, name, prompts, responses)
    return scores


def checked_scores(reward: PythonReward, name: str, prompts: list[str], responses: list[str]) -> np.ndarray:
    """Returns the scores of texts.

    Raises:
      ValueError: quoting the text that caused it, if `reward` raises or returns anything but one finite score per text.
    """
    try:
        scores = reward(prompts, responses)
    except Exception as error:
        text = _culprit(reward, prompts, responses)
        raise ValueError(f"{name} raised {type(error).__name__}: {error}, for {text}") from error
    found = np.asarray(scores, np.float32)
    if found.shape != (len(prompts),):
        raise ValueError(f"{name} must return {len(prompts)} scores, one per text, got shape {found.shape}")
    if not np.isfinite(found).all():
        wrong = int(np.flatnonzero(~np.isfinite(found))[0])
        raise ValueError(f"{name} must be finite, got {found[wrong]} for {_quoted(prompts[wrong], responses[wrong])}")
    return found


def _culprit(reward: PythonReward, prompts: list[str], responses: list[str]) -> str:
    """Quotes the first text for which `reward` fails when called with it alone."""
    for prompt, response in zip(prompts, responses, strict=True):
        try:
            reward([prompt], [response])
        except Exception:
            return _quoted(prompt, response)
    return f"{len(prompts)} texts together, and for none of them alone"


def _quoted(prompt: str, response: str) -> str:
    return f"the prompt {prompt!r} with the response {response!r}"


def whiten_rewards(shift_mean: bool = False, epsilon: float = 1e-8) -> Transform:
    """Scales rewards to standard deviation 1 over trainable tokens, as in Ziegler et al. 2019, arXiv:1909.08593 (Huang
    et al. 2024, arXiv:2403.17031, leave it off).

    Args:
      shift_mean: Whether to shift the mean to 0; it is kept otherwise.
      epsilon: Added to the variance.
    """

    def apply(state: tuple, trajectory: Trajectory, training_state: Any) -> tuple:
        mask = trajectory.mask
        mean = masked_mean(trajectory.rewards, mask)
        centred = jnp.where(mask, trajectory.rewards - mean, 0)
        scale = jax.lax.rsqrt(masked_mean(centred**2, mask) + epsilon)
        rewards = jnp.where(mask, centred * scale + (0 if shift_mean else mean), 0)
        return state, trajectory._replace(rewards=rewards), {"reward_std": 1 / scale}

    return Transform(lambda params: (), apply)


def shuffle_scores(key: jax.Array | None = None) -> Transform:
    """Permutes the environments' returns at random and gives them to their texts: a control that must learn nothing.

    The transform keeps a key of its own, so permutations are independent of the rollouts that they permute.

    Args:
      key: Where the permutations come from; default: `jax.random.key(0)`. Seeds that are vmapped together share them.
    """

    def init(params: Any) -> jax.Array:
        return jax.random.fold_in(jax.random.key(0) if key is None else key, SHUFFLES)

    def apply(state: jax.Array, trajectory: Trajectory, training_state: Any) -> tuple:
        next_key, shuffle_key = jax.random.split(state)
        returns = jnp.sum(jnp.where(trajectory.mask, trajectory.rewards, 0), axis=0)
        shuffled = jax.random.permutation(rows.own_key(shuffle_key), returns)
        nothing = jnp.zeros_like(trajectory.rewards)
        rewards = add_at_ends(nothing, spans(trajectory), jnp.broadcast_to(shuffled, nothing.shape))
        return next_key, trajectory._replace(rewards=rewards), {}

    return Transform(init, apply)
