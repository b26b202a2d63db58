"""Learning from given texts: files to arrays, the losses by hand, a reward model read alike everywhere, warm starts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gaejax
from gaejax.distributions import Categorical
from gaejax.language import (
    TASKS,
    DecoderConfig,
    Text,
    Texts,
    decoder_policy,
    encode_pairs,
    encode_prompts,
    examine,
    fit,
    preference_loss,
    read_jsonl,
    score,
    share_exact,
    supervised_loss,
    text_reward,
    text_scores,
)
from gaejax.language.tasks import ALPHABET, EOS, decode

VOCAB = len(ALPHABET)


class Characters:
    """A tokenizer of one token a character."""

    eos = EOS

    def encode(self, text):
        return [ALPHABET.index(character) for character in text]

    def decode(self, tokens):
        return decode(tokens)


TOKENIZER = Characters()
SMALL = DecoderConfig(VOCAB, 16, 1, 2, max_position_embeddings=12, positions="learned")


def table(critic=1.0):
    """Logits and values of the last token alone."""

    def init(key):
        actor, values = jax.random.normal(key, (VOCAB, VOCAB + 1))[:, :-1], jax.random.normal(key, (VOCAB,))
        return {"actor": actor, "critic": values}

    def apply(params, carry, observations, resets):
        return carry, Categorical(params["actor"][observations]), critic * params["critic"][observations]

    return gaejax.Policy(init, lambda batch: (), apply)


def test_pairs_are_arrays_with_eos_after_the_response():
    texts = encode_pairs(["12=", "3="], ["2", ""], TOKENIZER, 7)
    assert texts.tokens.tolist() == [[1, 2, 11, 2, EOS, 0, 0], [3, 11, EOS, 0, 0, 0, 0]]
    assert texts.prompt_lengths.tolist() == [3, 2] and texts.lengths.tolist() == [5, 3]
    assert encode_pairs(["12=", "3="], ["2", ""], TOKENIZER).tokens.shape == (2, 5)
    prompts = encode_prompts(["12=", "3="], TOKENIZER, 4)
    assert prompts.tokens.tolist() == [[1, 2, 11, 0], [3, 11, 0, 0]] and prompts.lengths.tolist() == [3, 2]
    gaejax.language.token_environment(prompts.tokens, VOCAB, EOS, 3, lengths=prompts.lengths)


def test_lines_of_json_are_read_as_they_are(tmp_path):
    path, lines = tmp_path / "texts.jsonl", [{"prompt": "a b", "n": 1}, {"prompt": ""}]
    path.write_bytes("\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode() + b"\n\n")
    assert read_jsonl(path, ["prompt"]) == lines


@pytest.mark.parametrize(
    "content, words",
    [
        ('{"prompt": "a"}\n{"prompt"\n', "line 2: must be a JSON object, got b'{\"prompt\"'"),
        ('{"prompt": "a"}\n\n{"prompt": "b"}', "line 2: must be a JSON object"),
        ('["a"]', "line 1: must be a JSON object"),
        ('{"prompt": "a"}\n{"text": "b"}', "line 2: must have a string in the field 'prompt', which is not among text"),
        ('{"prompt": 3}', "line 1: must have a string in the field 'prompt', got 3"),
        ("\n", "is empty: it must hold one JSON object per line, with the fields prompt"),
        (None, "must be a file with one JSON object per line"),
    ],
)
def test_files_that_hold_something_else_are_refused_by_file_and_line(tmp_path, content, words):
    path = tmp_path / "texts.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError) as caught:
        read_jsonl(path, ["prompt"])
    assert str(caught.value).startswith(str(path)) and words in str(caught.value) and "\n" not in str(caught.value)


PAIR = encode_pairs(["12="], ["21"], TOKENIZER)
DATA = dict(num_steps=1, batch_size=1, learning_rate=0.1)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: encode_prompts(["1=", "123="], TOKENIZER, 3), "max_length must be at least 4 for prompt 2, got 3"),
        (lambda: encode_prompts(["1=", ""], TOKENIZER, 3), "prompt 2 must have at least one token, got ''"),
        (lambda: encode_prompts([], TOKENIZER), "prompts must hold at least one string, got none"),
        (lambda: encode_pairs(["1="], ["1"], TOKENIZER, 3), "max_length must be at least 4 for text 1, got 3"),
        (lambda: encode_pairs(["1="], [], TOKENIZER), "responses must be as many as prompts, 1, got 0"),
        (lambda: fit(None, {}, PAIR, None, **{**DATA, "batch_size": 2}), "between 1 and the 1 elements of data, got 2"),
        (lambda: fit(None, {}, PAIR, None, **{**DATA, "num_steps": 0}), "num_steps must be at least 1, got 0"),
        (
            lambda: preference_loss(table(), {}, PAIR, encode_pairs(["1="], ["1"], TOKENIZER)),
            "got (1, 6) and (1, 4): encode both with the same max_length",
        ),
        (
            lambda: supervised_loss(decoder_policy(SMALL), {}, encode_pairs(["1="], ["1"], TOKENIZER, 14)),
            "texts must fit into the policy's context of 12 steps, got 13 steps",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


TEXTS = encode_pairs(["12=", "345="], ["21", ""], TOKENIZER, 8)


def test_the_supervised_loss_is_the_mean_over_the_tokens_of_responses():
    params = table().init(jax.random.key(0))
    log_probs = np.asarray(jax.nn.log_softmax(params["actor"]), np.float64)
    written = [(11, 2), (2, 1), (1, EOS), (11, EOS)]  # what follows what in the responses of both texts
    loss, infos = supervised_loss(table(), params, TEXTS)
    np.testing.assert_allclose(loss, -np.mean([log_probs[pair] for pair in written]), rtol=1e-6)
    best = np.argmax(log_probs, axis=1)
    np.testing.assert_allclose(infos["accuracy"], np.mean([best[last] == token for last, token in written]))


def with_padding(texts, token):
    place = jnp.arange(texts.tokens.shape[1])
    return texts._replace(tokens=jnp.where(place < texts.lengths[:, None], texts.tokens, token))


def test_padding_reaches_neither_losses_nor_gradients_of_a_decoder():
    policy = decoder_policy(SMALL)
    params = jax.jit(policy.init)(jax.random.key(0))
    other = encode_pairs(["12=", "345="], ["12", "5"], TOKENIZER, 8)
    losses = {
        "supervised": lambda params, texts: supervised_loss(policy, params, texts)[0],
        "preferences": lambda params, texts: preference_loss(policy, params, texts, other)[0],
    }
    for loss in losses.values():
        gradient = jax.jit(jax.value_and_grad(loss))
        expected, found = gradient(params, TEXTS), gradient(params, with_padding(TEXTS, 17))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), expected, found)
        assert np.all(found[1]["actor"]["params"]["embed_tokens"][17] == 0)
        assert np.any(found[1]["actor"]["params"]["embed_tokens"][11] != 0)


def test_the_preference_loss_is_that_of_values_at_last_tokens():
    params = table().init(jax.random.key(0))
    chosen, rejected = (
        Texts(jnp.array(tokens), jnp.array([1, 1]), jnp.array([3, 2]))
        for tokens in ([[1, 2, 3], [4, 5, 0]], [[1, 2, 6], [4, 7, 0]])
    )
    values = np.asarray(params["critic"], np.float64)
    margins = values[[3, 5]] - values[[6, 7]]
    loss, infos = preference_loss(table(), params, chosen, rejected)
    np.testing.assert_allclose(loss, np.mean(np.log1p(np.exp(-margins))), rtol=1e-6)
    np.testing.assert_allclose(infos["margin"], margins.mean(), rtol=1e-5)
    np.testing.assert_allclose(infos["accuracy"], np.mean(margins > 0))


def test_a_reward_model_reads_a_text_alike_as_a_preference_and_as_a_reward():
    """Also where prompts and responses have padding of their own, and whatever that holds."""
    policy = decoder_policy(SMALL)
    params = jax.jit(policy.init)(jax.random.key(0))
    expected = jax.jit(lambda params: text_scores(policy, params, TEXTS))(params)
    prompts, responses = jnp.full((2, 6), 5), jnp.full((2, 4), 6)
    for row, (start, end) in enumerate(zip(TEXTS.prompt_lengths, TEXTS.lengths, strict=True)):
        prompts = prompts.at[row, :start].set(TEXTS.tokens[row, :start])
        responses = responses.at[row, : end - start].set(TEXTS.tokens[row, start:end])
    texts = Text(prompts, TEXTS.prompt_lengths, responses, TEXTS.lengths - TEXTS.prompt_lengths)
    found = jax.jit(lambda params: jax.vmap(text_reward(policy, params))(texts))(params)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    standardized = text_reward(table(), values := table().init(jax.random.key(0)), mean=1.0, std=2.0)
    np.testing.assert_allclose(jax.vmap(standardized)(texts), (values["critic"][EOS] - 1) / 2, rtol=1e-6)


def test_epochs_of_minibatches_have_every_row_once():
    def loss(params, rows):
        return jnp.sum((params - rows) ** 2), {"rows": rows}

    _, infos = fit(
        loss, jnp.zeros(()), jnp.arange(7.0), jax.random.key(0), num_steps=8, batch_size=2, learning_rate=0.1
    )
    epochs = infos["rows"][:6].reshape(2, 6)
    assert infos["rows"].shape == (8, 2) and infos["loss"].shape == infos["gradient_norm"].shape == (8,)
    assert all(len(set(epoch)) == 6 for epoch in epochs.tolist())
    assert set(epochs[0].tolist()) != set(epochs[1].tolist()) or not np.array_equal(*epochs)
    slow = fit(
        loss,
        jnp.zeros(()),
        jnp.arange(7.0),
        jax.random.key(0),
        num_steps=1,
        batch_size=7,
        learning_rate=1.0,
        optimizer=optax.sgd,
    )
    np.testing.assert_allclose(slow[0], 1.0)  # a gradient of norm 42, clipped


TASK = TASKS["reverse"](2)


def test_a_warm_up_on_texts_raises_exact_answers_and_is_where_ppo_starts():
    digits = [f"{number:02d}" for number in range(100)]
    texts = encode_pairs([f"{pair}=" for pair in digits], [pair[::-1] for pair in digits], TOKENIZER)
    policy = decoder_policy(DecoderConfig(VOCAB, 32, 1, 2, max_position_embeddings=8, positions="learned"))
    fresh = jax.jit(policy.init)(jax.random.key(0))

    def train(params, texts, key):
        return fit(
            lambda params, batch: supervised_loss(policy, params, batch),
            params,
            texts,
            key,
            num_steps=200,
            batch_size=50,
            learning_rate=3e-3,
        )

    params, infos = jax.jit(train)(fresh, texts, jax.random.key(1))
    exam = jax.jit(lambda params: examine(TASK, policy, params, jax.random.key(9), 64))
    before, after = (share_exact(TASK, *exam(each)) for each in (fresh, params))
    assert before < 0.1 and after > 0.9, (before, after)
    assert infos["loss"][-1] < 0.2 < 2 < infos["loss"][0] and infos["accuracy"][-1] > 0.9
    warm = policy._replace(init=lambda key: {**policy.init(key), "actor": params["actor"]})
    algorithm = gaejax.ppo(TASK.environment(), warm, transforms=[gaejax.language.kl_penalty(warm)])
    config = gaejax.PPOConfig(num_envs=8, num_steps=5, fresh_rows=True)
    state = jax.jit(algorithm.init)(jax.random.key(2), config)
    for start in (state.params, state.transforms[0].params):
        jax.tree.map(np.testing.assert_array_equal, start["actor"], params["actor"])


def test_a_reward_model_learns_an_order_of_responses():
    policy = decoder_policy(SMALL)
    prompts = [f"{number:02d}=" for number in range(32)]
    chosen, rejected = (encode_pairs(prompts, [f"1{digit}" for _ in prompts], TOKENIZER) for digit in "23")

    def train(params, pairs, key):
        loss = lambda params, pairs: preference_loss(policy, params, *pairs)  # noqa: E731
        return fit(loss, params, pairs, key, num_steps=30, batch_size=16, learning_rate=3e-3)

    params, infos = jax.jit(train)(jax.jit(policy.init)(jax.random.key(0)), (chosen, rejected), jax.random.key(1))
    assert infos["loss"][0] > 0.5 and infos["loss"][-1] < 0.1 and infos["accuracy"][-1] == 1
    better, worse = (text_scores(policy, params, texts) for texts in (chosen, rejected))
    assert np.min(better - worse) > 1


def test_a_reward_model_pays_in_ppo():
    """Of a policy that ends at once every text is worth what the model sees in its EOS, and the same in its reward."""
    model, policy = table(), table(critic=0.0)
    params = model.init(jax.random.key(3))
    silent = policy._replace(
        init=lambda key: {**policy.init(key), "actor": jnp.zeros((VOCAB, VOCAB)).at[:, EOS].set(99)}
    )
    reward = score(text_reward(model, params, std=2.0), max_prompt=TASK.max_prompt, max_response=TASK.max_response)
    algorithm = gaejax.ppo(TASK.environment(reward=None), silent, transforms=[reward])
    config = gaejax.PPOConfig(num_envs=8, num_steps=5, num_minibatches=2, fresh_rows=True)
    _, info = jax.jit(lambda key: algorithm.step(algorithm.init(key, config)))(jax.random.key(0))
    np.testing.assert_allclose(info.extra["score"], params["critic"][EOS] / 2, rtol=1e-6)
    assert info.extra["response_length"] == 1
