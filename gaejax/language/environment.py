"""The token environment: the observation is the last token, the action the next one, a prompt a forced prefix."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.environments import Discrete, Environment, time_limit_terminates
from gaejax.language.data.prompts import (
    Reward,
    Sampler,
    Text,
    check_reward,
    checked_prompts,
    draw,
    key_of_group,
    prompt_size,
)


class TokenState(NamedTuple):
    """The text so far, and the position in it of the observed token."""

    text: Text
    position: jax.Array


def token_environment(
    prompts: Sampler | np.ndarray | jax.Array | Sequence[Sequence[int]],
    vocab_size: int,
    eos: int,
    max_response: int,
    *,
    lengths: Any = None,
    params: Any = (),
    reward: Reward | None = None,
    dense: bool = False,
    time_limit: Literal["truncate", "terminate"] = "truncate",
    group_size: int = 1,
    context: int | None = None,
    name: str = "tokens",
) -> Environment:
    """Returns text as an environment: the observation is the last token, the action the next one, both
    `Discrete(vocab_size)`.

    Within the prompt, the action is replaced by the prompt's next token and `info["trainable"]` is false. So the next
    observation is always what was written, and an episode's text is its observations, the final one included. An
    episode ends with EOS (`terminated`), or after `max_response` tokens. The latter is `truncated`: the value of what
    would follow is bootstrapped, where other frameworks silently use 0. With `time_limit="terminate"` it is
    `terminated`, which is right if the limit is part of the task.

    Args:
      prompts: Integers `[P, L]`, of which each episode draws one prompt, or a pure sampler
        `(key, params) -> (tokens [L], length, aux)`.
      vocab_size: Number of tokens; they are `0 .. vocab_size - 1`.
      eos: The token that ends a response.
      max_response: Maximum number of tokens of a response, EOS included.
      lengths: How many tokens of each prompt count, `[P]`; default: all.
      params: The sampler's params, which become the environment's. (For an array of prompts, these are its `Prompts`.)
      reward: Reward of one `Text`, called at its end. Expensive scores are better computed once per rollout, by the
        transform `gaejax.language.score`.
      dense: Whether `reward` is called after every token of the response, with the text so far.
      time_limit: Whether the end of `max_response` truncates or terminates an episode.
      group_size: How many neighbouring environments (0 to group_size - 1, ...) get the same prompt when they are reset
        together, as all are at the start of a rollout with `fresh_rows`; see `gaejax.language.group_baseline`.
      context: The policy's context length; if given, texts that do not fit are refused.
      name: The environment's name.

    Raises:
      TypeError: if prompts or lengths are not integers.
      ValueError: if an argument is out of range, texts do not fit the context, or the reward is not one finite number.
    """
    for what, size in dict(vocab_size=vocab_size, max_response=max_response, group_size=group_size).items():
        if size < 1:
            raise ValueError(f"{what} must be at least 1, got {size}")
    if not 0 <= eos < vocab_size:
        raise ValueError(f"eos must be a token of the vocabulary, 0 .. {vocab_size - 1}, got {eos}")
    if time_limit not in ("truncate", "terminate"):
        raise ValueError(f"time_limit must be 'truncate' or 'terminate', got {time_limit!r}")
    if callable(prompts):
        sample = prompts
    else:
        sample, params = draw, checked_prompts(prompts, lengths, vocab_size)
    max_prompt = prompt_size(sample, params)
    if context is not None and max_prompt + max_response - 1 > context:
        total = f"{max_prompt} tokens of prompt and {max_response} of response need {max_prompt + max_response - 1}"
        raise ValueError(f"context must hold a whole text: {total} steps, got {context}")

    def reset(key: jax.Array, params: Any) -> tuple[TokenState, jax.Array]:
        tokens, length, aux = sample(key_of_group(key, group_size) if group_size > 1 else key, params)
        tokens, length = jnp.asarray(tokens, jnp.int32), jnp.asarray(length, jnp.int32)
        zero = jnp.zeros((), jnp.int32)
        # The response is kept for `reward` only: the trajectory's observations have it too.
        response = jnp.zeros(max_response if reward else 0, jnp.int32)
        return TokenState(Text(tokens, length, response, zero, aux), zero), tokens[0]

    def step(key: jax.Array, state: TokenState, action: jax.Array, params: Any) -> tuple:
        text, position = state.text, state.position + 1
        forced = position < text.prompt_length
        token = jnp.where(forced, text.prompt[jnp.minimum(position, max_prompt - 1)], action).astype(jnp.int32)
        place = position - text.prompt_length
        response = jnp.where(jnp.arange(text.response.shape[0]) == place, token, text.response)
        text = text._replace(response=response, response_length=jnp.maximum(place + 1, 0))
        terminated = ~forced & (token == eos)
        truncated = ~terminated & (place + 1 >= max_response)
        pays = ~forced if dense else terminated | truncated
        earned = jnp.where(pays, jnp.asarray(reward(text), jnp.float32), 0) if reward else jnp.zeros((), jnp.float32)
        return TokenState(text, position), token, earned, terminated, truncated, {"trainable": ~forced}

    tokens = Discrete(vocab_size)
    if reward is not None:
        check_reward(reward, sample, params, vocab_size, max_response)
    environment = Environment(name, reset, step, tokens, tokens, params)
    return time_limit_terminates(environment) if time_limit == "terminate" else environment
