"""Language: a text is an episode, a prompt a forced prefix; what transforms of the trajectory make of it."""

from itertools import pairwise
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gaejax
from gaejax.distributions import Categorical
from gaejax.language import (
    TASKS,
    DecoderConfig,
    aggregated,
    group_baseline,
    python_score,
    score,
    shuffle_scores,
    token_environment,
    whiten_rewards,
    without_critic,
)
from gaejax.language.rewards.groups import relative_scores
from gaejax.language.tasks import decode
from gaejax.rollout import Trajectory, init_rollout, rollout

TINY = DecoderConfig(7, 8, 1, 2, 1, 12, max_position_embeddings=16)
FRESH = SimpleNamespace(config=SimpleNamespace(fresh_rows=True))


def random_policy(vocab_size):
    """Uniform over tokens, without memory."""

    def apply(params, carry, observations, resets):
        logits = jnp.zeros((*resets.shape, vocab_size))
        return carry, Categorical(logits), jnp.zeros(resets.shape)

    return gaejax.Policy(lambda key: (), lambda batch: (), apply, gaejax.Discrete(vocab_size))


def collected(environment, num_rows=8, num_steps=24, policy=None, params=()):
    policy = policy or random_policy(environment.observation_space.n)
    packed = gaejax.auto_reset(environment)
    act = lambda *batch: policy.apply(params, *batch)  # noqa: E731

    @jax.jit
    def run(key):
        state = init_rollout(key, packed, packed.params, policy.initial_carry(num_rows), num_rows)
        return rollout(key, packed, packed.params, act, state, num_steps)[1]

    return run(jax.random.key(0))


def texts(trajectory):
    """Yields `(environment, prompt, response, last step, ended)` of each text, by plain Python from observations."""
    written = np.concatenate([trajectory.observations, trajectory.last_observation[None]])
    resets, mask = np.asarray(trajectory.resets), np.asarray(trajectory.mask)
    ended = np.asarray(trajectory.terminated | trajectory.truncated)
    for row in range(resets.shape[1]):
        starts = [*np.flatnonzero(resets[:, row]), resets.shape[0]]
        for start, stop in pairwise(starts):
            own = start + np.flatnonzero(mask[start:stop, row])
            if len(own):
                prompt, response = written[start : own[0] + 1, row], written[own[0] + 1 : own[-1] + 2, row]
                yield row, prompt.tolist(), response.tolist(), own[-1], bool(ended[own[-1], row])


PROMPTS, LENGTHS = np.array([[1, 2, 3], [4, 5, 0], [6, 0, 0]]), np.array([3, 2, 1])


def test_prompts_are_forced_and_responses_end_at_eos_or_at_the_limit():
    trajectory = collected(token_environment(PROMPTS, 7, 0, 4, lengths=LENGTHS))
    found, seen = 0, set()
    for row, prompt, response, last, ended in texts(trajectory):
        assert prompt in ([1, 2, 3], [4, 5], [6])
        seen.add(tuple(prompt))
        assert len(response) <= 4 and 0 not in response[:-1]
        if ended:
            assert bool(trajectory.terminated[last, row]) is (response[-1] == 0)
            assert bool(trajectory.truncated[last, row]) is (response[-1] != 0 and len(response) == 4)
            found += 1
    assert found > 20 and len(seen) == 3
    # What was acted on a trainable step is what is seen next.
    following = np.concatenate([trajectory.observations[1:], trajectory.last_observation[None]])
    np.testing.assert_array_equal(following[trajectory.mask], trajectory.actions[trajectory.mask])
    assert np.all(trajectory.rewards == 0)
    limit = collected(token_environment(PROMPTS, 7, 0, 4, lengths=LENGTHS, time_limit="terminate"))
    np.testing.assert_array_equal(limit.terminated, trajectory.terminated | trajectory.truncated)


def share_of_sixes(text):
    """A fraction: integer arrays would make it 0."""
    place = jnp.arange(text.response.shape[0])
    sixes = jnp.sum((text.response == 6) & (place < text.response_length))
    return sixes / text.response_length + 10 * text.prompt_length + jnp.sum(text.prompt)


def expected_scores(trajectory):
    rewards = np.zeros(trajectory.rewards.shape, np.float32)
    for row, prompt, response, last, ended in texts(trajectory):
        if ended:
            rewards[last, row] = response.count(6) / len(response) + 10 * len(prompt) + sum(prompt)
    return rewards


def test_a_score_is_a_fraction_on_the_last_trainable_token_by_environment_function_or_python():
    environment = token_environment(PROMPTS, 7, 0, 4, lengths=LENGTHS, reward=share_of_sixes)
    trajectory = collected(environment)
    expected = expected_scores(trajectory)
    assert np.mean(expected % 1 != 0) > 0
    np.testing.assert_allclose(trajectory.rewards, expected, rtol=1e-6)

    def by_string(prompts, responses):
        pairs = zip(prompts, responses, strict=True)
        return [r.count("6") / len(r) + 10 * len(p) + sum(map(int, p)) for p, r in pairs]

    bare = trajectory._replace(rewards=jnp.zeros_like(trajectory.rewards))
    for transform in (score(share_of_sixes), python_score(by_string, decode)):
        apply = jax.jit(lambda trajectory, transform=transform: transform.apply((), trajectory, FRESH)[1:])
        scored, info = apply(bare)
        np.testing.assert_allclose(scored.rewards, expected, rtol=1e-6)
        np.testing.assert_allclose(info["score"], expected[expected > 0].mean(), rtol=1e-5)
        lengths = [len(response) for _, _, response, _, _ in texts(trajectory)]
        np.testing.assert_allclose(info["response_length"], np.mean(lengths), rtol=1e-6)
        twice = jax.tree.map(lambda x: jnp.stack([x, x]), bare)
        again = jax.jit(jax.vmap(lambda t, transform=transform: transform.apply((), t, FRESH)[1].rewards))(twice)
        np.testing.assert_allclose(again[1], expected, rtol=1e-6)


def test_a_dense_reward_pays_for_every_token():
    def last_token(text):
        return text.response[text.response_length - 1].astype(jnp.float32) / 10

    trajectory = collected(token_environment(PROMPTS, 7, 0, 4, lengths=LENGTHS, reward=last_token, dense=True))
    expected = np.where(trajectory.mask, trajectory.actions / 10, 0)
    np.testing.assert_allclose(trajectory.rewards, expected, rtol=1e-6)


def test_the_exception_of_a_python_reward_names_the_text_that_caused_it():
    trajectory = collected(token_environment(PROMPTS, 7, 0, 4, lengths=LENGTHS))

    def run(reward):
        transform = python_score(reward, decode)
        return jax.block_until_ready(jax.jit(lambda t: transform.apply((), t, FRESH)[1].rewards)(trajectory))

    def fails(prompts, responses):
        return [1 / (0 if p == "45" and "3" in r else 1) for p, r in zip(prompts, responses, strict=True)]

    with pytest.raises(Exception, match=r"score raised ZeroDivisionError: division by zero, for the prompt '45' with"):
        run(fails)
    with pytest.raises(Exception, match=r"score must return \d+ scores, one per text, got shape \(1,\)"):
        run(lambda prompts, responses: [1.0])
    with pytest.raises(Exception, match=r"score must be finite, got nan for the prompt '\d+' with the response"):
        run(lambda prompts, responses: [float("nan")] * len(prompts))


def tool_call(values=(0.2, 5.0, 5.0, 0.4, 0.6), penalties=(0.0,) * 5):
    """Three trainable tokens with two of a tool among them, one text of one environment."""
    column = lambda x, dtype: jnp.asarray(x, dtype)[:, None]  # noqa: E731
    flags = column([0, 0, 0, 0, 1], bool)
    return Trajectory(
        observations=column([3, 4, 5, 6, 7], jnp.int32),
        resets=column([1, 0, 0, 0, 0], bool),
        actions=column([4, 5, 6, 7, 0], jnp.int32),
        log_probs=jnp.zeros((5, 1)),
        rewards=column(penalties, jnp.float32),
        terminated=flags,
        truncated=jnp.zeros_like(flags),
        mask=column([1, 0, 0, 1, 1], bool),
        initial_carry=(),
        last_observation=jnp.zeros(1, jnp.int32),
        last_reset=jnp.zeros(1, bool),
    ), jnp.asarray([*values, 9.0], jnp.float32)[:, None]


@pytest.mark.parametrize("penalties", [(0.0,) * 5, (0.0, -0.3, -0.3, 0.0, 0.0), (0.0, np.nan, np.nan, 0.0, 0.0)])
def test_masked_tokens_are_as_if_deleted(penalties):
    trajectory, values = tool_call(penalties=penalties)
    if np.isnan(penalties[1]):
        values = values.at[1:3].set(jnp.nan)
    trajectory = score(lambda text: jnp.float32(1)).apply((), trajectory, FRESH)[1]
    flags = dict(terminated=trajectory.terminated, truncated=trajectory.truncated, mask=trajectory.mask)
    steps = dict(rewards=trajectory.rewards, values=values[:-1], next_values=values[1:], **flags)
    advantages, _ = gaejax.gae(**steps, discount=1.0, gae_lambda=0.9)
    np.testing.assert_allclose(advantages[trajectory.mask], [0.704, 0.560, 0.400], atol=1e-6)
    whitened = whiten_rewards().apply((), trajectory, FRESH)[1].rewards
    np.testing.assert_allclose(whitened[:, 0], [1 / 3 - 0.5**0.5, 0, 0, 1 / 3 - 0.5**0.5, 1 / 3 + 2**0.5], atol=1e-5)


def test_packed_texts_have_the_advantages_that_they_have_alone():
    trajectory = collected(token_environment(PROMPTS, 7, 0, 4, lengths=LENGTHS, reward=share_of_sixes))
    values = jax.random.normal(jax.random.key(3), (trajectory.mask.shape[0] + 1, trajectory.mask.shape[1]))

    def estimate(first, last, row):
        part = lambda x: x[first : last + 1, row]  # noqa: E731
        arrays = dict(
            rewards=part(trajectory.rewards), values=part(values), next_values=values[first + 1 : last + 2, row]
        )
        flags = {name: part(getattr(trajectory, name)) for name in ("terminated", "truncated", "mask")}
        return gaejax.gae(**arrays, **flags, discount=0.9, gae_lambda=0.8)

    whole = estimate(0, trajectory.mask.shape[0] - 1, slice(None))
    compared = 0
    for row, prompt, response, last, ended in texts(trajectory):
        first = last - len(prompt) - len(response) + 2
        if ended and last + 1 < trajectory.mask.shape[0] and len(response) == 4:  # one shape, one compilation a length
            alone = estimate(first, last, row)
            own = np.asarray(trajectory.mask[first : last + 1, row])
            for packed, single in zip(whole, alone, strict=True):
                np.testing.assert_allclose(packed[first : last + 1, row][own], single[own], atol=1e-5)
            compared += 1
    assert compared >= 8


def test_the_rows_of_a_group_get_one_prompt():
    environment = TASKS["reverse"](5).environment(group_size=4)
    start = lambda key: init_rollout(key, environment, (), (), 8).environment.text.prompt  # noqa: E731
    prompts = np.asarray(jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(0), 2)))
    assert np.all(prompts.reshape(2, 2, 4, 6) == prompts.reshape(2, 2, 4, 6)[:, :, :1])
    assert len(np.unique(prompts.reshape(16, 6), axis=0)) == 4
    trajectory = collected(environment, num_steps=12)
    scores = np.asarray(jnp.sum(trajectory.rewards, axis=0)).reshape(2, 4)
    transformed, info = group_baseline(4).apply((), trajectory, FRESH)[1:]
    assert info["other_prompts"] == 0
    others = (scores.sum(axis=1, keepdims=True) - scores) / 3
    np.testing.assert_allclose(transformed.rewards.sum(axis=0).reshape(2, 4), scores - others, atol=1e-6)
    assert group_baseline(4).apply((), collected(TASKS["reverse"](5).environment(), num_steps=12), FRESH)[2][
        "other_prompts"
    ] == pytest.approx(0.75)
    flags = {name: getattr(transformed, name) for name in ("terminated", "truncated", "mask")}
    nothing = jnp.full(transformed.rewards.shape, jnp.nan)
    advantages, _ = without_critic(
        rewards=transformed.rewards, values=nothing, next_values=nothing, discount=1.0, **flags
    )
    expected = np.broadcast_to((scores - others).reshape(-1), advantages.shape)
    np.testing.assert_allclose(advantages[transformed.mask], expected[transformed.mask], atol=1e-6)


def test_relative_scores_by_hand():
    scores, finished = jnp.array([[1.0, 0.0, 0.5, 9.0]]), jnp.array([[True, True, True, False]])
    np.testing.assert_allclose(relative_scores(scores, finished, "dr_grpo"), [[0.5, -0.5, 0, 0]])
    np.testing.assert_allclose(relative_scores(scores, finished, "rloo"), [[0.75, -0.75, 0, 0]])
    np.testing.assert_allclose(relative_scores(scores, finished, "grpo"), [[1, -1, 0, 0]], atol=1e-5)
    assert np.all(relative_scores(scores, jnp.array([[True, False, False, False]]), "rloo") == 0)


def test_aggregation_weighs_tokens_so_that_each_response_counts_alike():
    mask = jnp.array([[1, 1], [1, 1], [1, 1], [0, 1]], bool)
    ends = jnp.array([[0, 1], [0, 0], [1, 0], [0, 1]], bool)
    flags = dict(terminated=ends, truncated=jnp.zeros_like(ends), mask=mask)
    steps = dict(rewards=jnp.ones((4, 2)), values=jnp.zeros((4, 2)), next_values=jnp.zeros((4, 2)), discount=1.0)
    ones = lambda **steps: (jnp.ones((4, 2)), jnp.zeros((4, 2)))  # noqa: E731
    weights = aggregated(ones, "sequence")(**flags, **steps)[0]
    np.testing.assert_allclose(
        weights * 3 / 7, [[1 / 3, 1], [1 / 3, 1 / 3], [1 / 3, 1 / 3], [weights[3, 0] * 3 / 7, 1 / 3]], rtol=1e-6
    )
    constant = aggregated(ones, "constant", max_length=4)(**flags, **steps)[0]
    np.testing.assert_allclose(constant, np.full((4, 2), 7 / 3 / 4), rtol=1e-6)


def test_shuffled_scores_are_the_same_returns_dealt_by_a_key_of_their_own():
    """Not by the training state's key, from which the rollout was drawn."""
    steps, environments = 3, 16
    last = jnp.zeros((steps, environments), bool).at[-1].set(True)
    trajectory = Trajectory(
        observations=jnp.ones((steps, environments), jnp.int32),
        resets=jnp.zeros_like(last).at[0].set(True),
        actions=jnp.ones((steps, environments), jnp.int32),
        log_probs=jnp.zeros((steps, environments)),
        rewards=jnp.arange(steps * environments, dtype=jnp.float32).reshape(steps, environments),
        terminated=last,
        truncated=jnp.zeros_like(last),
        mask=jnp.ones_like(last),
        initial_carry=(),
        last_observation=jnp.zeros(environments, jnp.int32),
        last_reset=jnp.ones(environments, bool),
    )
    returns = np.asarray(trajectory.rewards.sum(axis=0))

    def deals(transform, seed):
        """The scores of two rollouts in a row, with a training state whose key is this seed's."""
        state, found = transform.init(()), []
        training = SimpleNamespace(key=jax.random.key(seed), config=FRESH.config)
        for _ in range(2):
            state, dealt, _ = transform.apply(state, trajectory, training)
            assert np.all(dealt.rewards[:-1] == 0)
            found.append(np.asarray(dealt.rewards[-1]))
        return found

    first, second = deals(shuffle_scores(), seed=0)
    for dealt in (first, second):
        np.testing.assert_array_equal(np.sort(dealt), np.sort(returns))
    assert np.any(first != returns) and np.any(second != first)
    np.testing.assert_array_equal(deals(shuffle_scores(), seed=1), [first, second])
    assert np.any(deals(shuffle_scores(jax.random.key(1)), seed=0)[0] != first)
    of_rollouts = [jax.random.permutation(key, returns) for key in jax.random.split(jax.random.key(0), 3)]
    assert all(np.any(first != dealt) for dealt in of_rollouts)


def test_texts_cannot_be_read_after_their_tokens_were_replaced():
    trajectory, _ = tool_call()
    encoded = trajectory._replace(observations=(trajectory.observations,), last_observation=(jnp.zeros(1),))
    with pytest.raises(ValueError, match="got tuple: put transforms that read texts before encode_once"):
        score(lambda text: jnp.float32(1)).apply((), encoded, FRESH)
