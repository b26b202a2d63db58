"""Verifiable tasks on a small alphabet: pure samplers and rewards to train on, and plain Python to check the result."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.environments import Environment
from gaejax.language.data.prompts import Prompts, Text
from gaejax.language.environment import token_environment
from gaejax.language.models.generate import Generation, generate
from gaejax.policies.core import Policy

ALPHABET = "0123456789.=+?abcdef"
EOS, EQUALS, PLUS, QUESTION, NAMES = range(10, 15)
SUBSTITUTION = (7, 0, 3, 6, 9, 2, 5, 8, 1, 4)  # of the "translation": digit d becomes SUBSTITUTION[d]


class Task(NamedTuple):
    """A question with one right answer.

    Attributes:
      name: what it is called, size included.
      sample: `(key, params) -> (tokens [L], length, answer [R])`, the answer with its EOS.
      max_prompt, max_response: L and R.
      check: `(prompt, response) -> bool` on decoded strings, in plain Python: it knows nothing of `sample`.
    """

    name: str
    sample: Callable
    max_prompt: int
    max_response: int
    check: Callable[[str, str], bool]

    def environment(self, **options: object) -> Environment:
        """The task as an environment, paid at the end by the fraction of the answer that is right. The length of a
        response is part of the task: its limit terminates."""
        options = {"reward": fraction_correct, "time_limit": "terminate", "name": self.name} | options
        return token_environment(self.sample, len(ALPHABET), EOS, self.max_response, **options)


def decode(tokens: Sequence[int]) -> str:
    """Tokens as a string."""
    return "".join(ALPHABET[int(token)] for token in tokens)


def fraction_correct(text: Text) -> jax.Array:
    """How much of the answer, `text.aux` `[R]`, stands at its place in the response, EOS included: 0 to 1."""
    place = jnp.arange(text.response.shape[0])
    answer_length = jnp.argmax(text.aux == EOS) + 1
    right = (text.response == text.aux) & (place < jnp.minimum(text.response_length, answer_length))
    return jnp.sum(right) / jnp.maximum(answer_length, text.response_length)


def examine(task: Task, policy: Policy, params: Any, key: jax.Array, count: int = 500) -> tuple[Prompts, Generation]:
    """`count` fresh prompts of a task and what a policy answers, greedily; pure: `vmap` it over the params of seeds."""
    tokens, lengths, _ = jax.vmap(lambda key: task.sample(key, ()))(jax.random.split(key, count))
    answers = generate(policy, params, tokens, lengths, task.max_response, key, eos=EOS, greedy=True)
    return Prompts(tokens, lengths), answers


def share_exact(task: Task, prompts: Prompts, answers: Generation) -> float:
    """The share of the answers that the task's own checker, plain Python on strings, finds right."""
    found = zip(*jax.device_get((*prompts, *answers)), strict=True)
    right = [task.check(decode(prompt[:size]), decode(answer[:end])) for prompt, size, answer, end in found]
    return float(np.mean(right))


def _task(name: str, max_prompt: int, max_response: int, question: Callable, check: Callable) -> Task:
    """A task whose `question(key)` returns parts of the prompt, and of the answer without its EOS."""

    def sample(key: jax.Array, params: object) -> tuple:
        prompt, answer = question(key)
        prompt, answer = (jnp.concatenate([jnp.atleast_1d(part) for part in parts]) for parts in (prompt, answer))
        answer = jnp.append(answer, EOS)
        return prompt.astype(jnp.int32), jnp.int32(prompt.shape[0]), answer.astype(jnp.int32)

    return Task(name, sample, max_prompt, max_response, check)


def _digits(key: jax.Array, size: int) -> jax.Array:
    return jax.random.randint(key, (size,), 0, 10)


def reverse(size: int = 5) -> Task:
    """12345= -> 54321."""

    def question(key: jax.Array) -> tuple:
        digits = _digits(key, size)
        return (digits, EQUALS), (digits[::-1],)

    return _task(f"reverse-{size}", size + 1, size + 1, question, lambda p, r: r == p.rstrip("=")[::-1] + ".")


def translation(size: int = 5) -> Task:
    """A substitution of every digit, in reverse order."""

    def question(key: jax.Array) -> tuple:
        digits = _digits(key, size)
        return (digits, EQUALS), (jnp.array(SUBSTITUTION)[digits][::-1],)

    def check(prompt: str, response: str) -> bool:
        return response == "".join(str((3 * int(digit) + 7) % 10) for digit in reversed(prompt[:-1])) + "."

    return _task(f"translation-{size}", size + 1, size + 1, question, check)


def sort(size: int = 8) -> Task:
    """3142= -> 1234."""

    def question(key: jax.Array) -> tuple:
        digits = _digits(key, size)
        return (digits, EQUALS), (jnp.sort(digits),)

    return _task(f"sort-{size}", size + 1, size + 1, question, lambda p, r: r == "".join(sorted(p[:-1])) + ".")


def addition(size: int = 2) -> Task:
    """27+45= -> 072. (most significant digit first, filled with zeros)."""

    def question(key: jax.Array) -> tuple:
        summands = _digits(key, 2 * size).reshape(2, size)
        powers = 10 ** jnp.arange(size, -1, -1)
        total = jnp.sum(summands @ powers[1:])
        return (summands[0], PLUS, summands[1], EQUALS), (total // powers % 10,)

    def check(prompt: str, response: str) -> bool:
        return response == f"{sum(map(int, prompt[:-1].split('+'))):0{size + 1}d}."

    return _task(f"addition-{size}", 2 * size + 2, size + 2, question, check)


def question_answering(size: int = 4, in_order: bool = True) -> Task:
    """A record of named values, then one of the names: a7b4c5d1?b -> 4.

    Args:
      size: how many names.
      in_order: whether they stand in alphabetical order, so that a name tells a place; else they must be searched for,
        which takes a composition of two attention layers, and much longer.
    """
    if not 1 <= size <= len(ALPHABET) - NAMES:
        raise ValueError(f"size of question_answering must be 1 to {len(ALPHABET) - NAMES}, got {size}")

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
    """Of every sentence of digits the letter that stands among them: 3c5b7190f= -> cbf."""

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
