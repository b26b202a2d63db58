"""Verifiable tasks on a small alphabet: pure samplers and rewards for training, and checks in plain Python."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.environments import Environment
from gaejax.language.data.prompts import Prompts, Sampler, Text
from gaejax.language.environment import token_environment
from gaejax.language.models.generate import Generation, generate
from gaejax.policies import Policy

ALPHABET = "0123456789.=+?abcdef"
EOS, EQUALS, PLUS, QUESTION, NAMES = range(10, 15)
SUBSTITUTION = (7, 0, 3, 6, 9, 2, 5, 8, 1, 4)  # in `translation`, digit d becomes SUBSTITUTION[d]

Question = Callable[[jax.Array], tuple[tuple, tuple]]
"""`key -> (parts of the prompt, parts of the answer without its EOS)`, each a token or tokens."""

Check = Callable[[str, str], bool]
"""`(prompt, response) -> whether the response is right`."""


class Task(NamedTuple):
    """Questions that have one right answer each.

    Attributes:
      name: The task's name, size included.
      sample: `(key, params) -> (tokens [L], length, answer [R])`, the answer with its EOS.
      max_prompt: L, the size of prompts.
      max_response: R, the maximum size of answers, EOS included.
      check: `(prompt, response) -> bool` on decoded strings, in plain Python and independent of `sample`.
    """

    name: str
    sample: Sampler
    max_prompt: int
    max_response: int
    check: Check

    def environment(self, **options: Any) -> Environment:
        """Returns the task as an environment whose reward, at the end, is the fraction of the answer that is right.

        The length of a response is part of the task, so reaching its limit terminates the episode.

        Args:
          **options: Keyword arguments of `token_environment`, which replace these choices.
        """
        options = {"reward": fraction_correct, "time_limit": "terminate", "name": self.name} | options
        return token_environment(self.sample, len(ALPHABET), EOS, self.max_response, **options)


def decode(tokens: Sequence[int]) -> str:
    """Returns tokens as a string."""
    return "".join(ALPHABET[int(token)] for token in tokens)


def fraction_correct(text: Text) -> jax.Array:
    """Returns the fraction, 0 to 1, of the answer `text.aux` `[R]` that is at its place in the response, EOS included;
    a response that is longer than the answer is divided by its own length."""
    place = jnp.arange(text.response.shape[0])
    answer_length = jnp.argmax(text.aux == EOS) + 1
    right = (text.response == text.aux) & (place < jnp.minimum(text.response_length, answer_length))
    return jnp.sum(right) / jnp.maximum(answer_length, text.response_length)


def examine(task: Task, policy: Policy, params: Any, key: jax.Array, count: int = 500) -> tuple[Prompts, Generation]:
    """Draws `count` fresh prompts of a task and has a policy answer them greedily.

    Pure: `vmap` it over the params of seeds.

    Args:
      task: The task.
      policy: The policy that answers.
      params: Its parameters.
      key: Randomness of the prompts.
      count: Number of prompts.

    Returns:
      The prompts and the answers.
    """
    tokens, lengths, _ = jax.vmap(lambda key: task.sample(key, ()))(jax.random.split(key, count))
    answers = generate(policy, params, tokens, lengths, task.max_response, key, eos=EOS, greedy=True)
    return Prompts(tokens, lengths), answers


def share_exact(task: Task, prompts: Prompts, answers: Generation) -> float:
    """Returns the fraction of answers that the task's check, plain Python on strings, accepts."""
    found = zip(*jax.device_get((*prompts, *answers)), strict=True)
    right = [task.check(decode(prompt[:size]), decode(answer[:end])) for prompt, size, answer, end in found]
    return float(np.mean(right))


def _task(name: str, max_prompt: int, max_response: int, question: Question, check: Check) -> Task:
    """Returns the task that asks these questions."""

    def sample(key: jax.Array, params: object) -> tuple:
        prompt, answer = question(key)
        prompt, answer = (jnp.concatenate([jnp.atleast_1d(part) for part in parts]) for parts in (prompt, answer))
        answer = jnp.append(answer, EOS)
        return prompt.astype(jnp.int32), jnp.int32(prompt.shape[0]), answer.astype(jnp.int32)

    return Task(name, sample, max_prompt, max_response, check)


def _digits(key: jax.Array, size: int) -> jax.Array:
    """Samples random digits `[size]`."""
    return jax.random.randint(key, (size,), 0, 10)


def reverse(size: int = 5) -> Task:
    """Writes digits in reverse order: 12345= -> 54321."""

    def question(key: jax.Array) -> tuple:
        digits = _digits(key, size)
        return (digits, EQUALS), (digits[::-1],)

    return _task(f"reverse-{size}", size + 1, size + 1, question, lambda p, r: r == p.rstrip("=")[::-1] + ".")


def translation(size: int = 5) -> Task:
    """Substitutes every digit, in reverse order: 12345= -> 29630."""

    def question(key: jax.Array) -> tuple:
        digits = _digits(key, size)
        return (digits, EQUALS), (jnp.array(SUBSTITUTION)[digits][::-1],)

    def check(prompt: str, response: str) -> bool:
        return response == "".join(str((3 * int(digit) + 7) % 10) for digit in reversed(prompt[:-1])) + "."

    return _task(f"translation-{size}", size + 1, size + 1, question, check)


def sort(size: int = 8) -> Task:
    """Sorts digits: 3142= -> 1234."""

    def question(key: jax.Array) -> tuple:
        digits = _digits(key, size)
        return (digits, EQUALS), (jnp.sort(digits),)

    return _task(f"sort-{size}", size + 1, size + 1, question, lambda p, r: r == "".join(sorted(p[:-1])) + ".")


def addition(size: int = 2) -> Task:
    """Adds numbers of `size` digits: 27+45= -> 072 (most significant digit first, padded with zeros)."""

    def question(key: jax.Array) -> tuple:
        summands = _digits(key, 2 * size).reshape(2, size)
        powers = 10 ** jnp.arange(size, -1, -1)
        total = jnp.sum(summands @ powers[1:])
        return (summands[0], PLUS, summands[1], EQUALS), (total // powers % 10,)

    def check(prompt: str, response: str) -> bool:
        return response == f"{sum(map(int, prompt[:-1].split('+'))):0{size + 1}d}."

    return _task(f"addition-{size}", 2 * size + 2, size + 2, question, check)


def question_answering(size: int = 4, in_order: bool = True) -> Task:
    """Looks up a name in a list of named values: a7b4c5d1?b -> 4.

    Args:
      size: Number of names.
      in_order: Whether the names are in alphabetical order, so that a name tells its position. Otherwise a model must
        search for it, which needs a composition of two attention layers and takes much longer to learn.

    Raises:
      ValueError: if there are not so many names.
    """
    if not 1 <= size <= len(ALPHABET) - NAMES:
        raise ValueError(f"size of question_answering must be between 1 and {len(ALPHABET) - NAMES}, got {size}")

    def question(key: jax.Array) -> tuple:
        names_key, values_key, asked_key = jax.random.split(key, 3)
        names = NAMES + (jnp.arange(size) if in_order else jax.random.permutation(names_key, size))
        values = _digits(values_key, size)
        asked = jax.random.randint(asked_key, (), 0, size)
        return (jnp.stack([names, values], axis=1).reshape(-1), QUESTION, names[asked]), (values[asked],)

    def check(prompt: str, response: str) -> bool:
        facts, asked = prompt.split("?")
        return response == dict(zip(facts[::2], facts[1::2], strict=True))[asked] + "."

    return _task(f"question_answering-{size}", 2 * size + 2, 2, question, check)


def summary(size: int = 3, sentence: int = 3) -> Task:
    """Extracts the letter among the digits of each sentence: 3c5b7190f= -> cbf."""

    def question(key: jax.Array) -> tuple:
        digits_key, letters_key, place_key = jax.random.split(key, 3)
        digits = _digits(digits_key, size * sentence).reshape(size, sentence)
        letters = jax.random.randint(letters_key, (size, 1), NAMES, len(ALPHABET))
        place = jax.random.randint(place_key, (size, 1), 0, sentence)
        text = jnp.where(jnp.arange(sentence) == place, letters, digits)
        return (text.reshape(-1), EQUALS), (letters[:, 0],)

    def check(prompt: str, response: str) -> bool:
        return response == "".join(filter(str.isalpha, prompt)) + "."

    return _task(f"summary-{size}", size * sentence + 1, size + 1, question, check)


TASKS = {each.__name__: each for each in (reverse, translation, sort, addition, question_answering, summary)}
