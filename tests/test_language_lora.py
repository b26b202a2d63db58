"""LoRA and frozen layers: where they start, that what is done once is what would be done again, merging, training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gaejax
from gaejax.language import (
    DecoderConfig,
    decoder_policy,
    encode_texts,
    kl_penalty,
    lora,
    merged,
    text_scores,
    token_environment,
)
from gaejax.language.data.datasets import Texts
from gaejax.testing import check_policy
from gaejax.transforms import encode_once

VOCAB, EOS, CONTEXT = 11, 0, 9
SHAPE = DecoderConfig(VOCAB, 16, 2, 4, 2, max_position_embeddings=CONTEXT, tie_word_embeddings=True, qkv_bias=True)
WEIGHTS = jax.tree.map(lambda x: 5 * x, decoder_policy(SHAPE, value="none").init(jax.random.key(0)))
PLAIN = decoder_policy(SHAPE)
POLICY = lora(decoder_policy(SHAPE, frozen_layers=1), WEIGHTS, layers=[1], rank=2)
PARAMS = jax.jit(POLICY.init)(jax.random.key(1))
TRAINED = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), PARAMS)
TOKENS = jax.random.randint(jax.random.key(2), (7, 3), 0, VOCAB)
RESETS = jnp.zeros((7, 3), bool).at[0].set(True).at[4, 1].set(True)


def read(policy, params, tokens=TOKENS):
    return jax.jit(policy.apply)(params, policy.initial_carry(3), tokens, RESETS)[1:]


def assert_same(one, other, tolerance=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance), one, other)


def test_it_is_a_policy_that_starts_as_the_model_with_its_weights():
    assert check_policy(POLICY).passed, check_policy(POLICY)
    assert_same(read(POLICY, PARAMS), read(PLAIN, {**WEIGHTS, **PARAMS["own"]}))
    assert set(PARAMS["own"]) == {"value"} and set(PARAMS["lora"]) == {"layers_1"}


def test_a_layer_that_is_frozen_is_not_adapted():
    policy = lora(decoder_policy(SHAPE, frozen_layers=1), WEIGHTS, layers=[0, 1], rank=2)
    params = jax.jit(policy.init)(jax.random.key(1))
    useless = jax.tree.map(lambda x: x + 1, params["lora"]["layers_0"])
    other = {**params, "lora": {**params["lora"], "layers_0": useless}}
    assert_same(read(policy, other), read(policy, params), 0)


def test_what_was_trained_can_be_merged_into_the_weights():
    plain = read(PLAIN, {**merged(WEIGHTS, TRAINED), **TRAINED["own"]})
    assert_same(read(POLICY, TRAINED), plain, 1e-4)
    assert np.abs(plain[0].logits - read(POLICY, PARAMS)[0].logits).max() > 0.1


def test_what_the_frozen_layers_make_of_tokens_stands_for_them_wherever_time_is_cut():
    encode = jax.jit(POLICY.encode)
    _, encoded = encode(TRAINED, POLICY.initial_carry(3), TOKENS, RESETS)
    assert_same(read(POLICY, TRAINED, encoded), read(POLICY, TRAINED), 1e-4)
    carry, parts = POLICY.initial_carry(3), []
    for steps in (slice(0, 3), slice(3, 7)):
        carry, part = encode(TRAINED, carry, TOKENS[steps], RESETS[steps])
        parts.append(part)
    assert_same(jax.tree.map(lambda *x: jnp.concatenate(x), *parts), encoded, 1e-4)


def training(*, encoded):
    """A training step whose policy is rewarded for the token 5, with the frozen part's work done once or always."""
    prompts = np.random.default_rng(0).integers(1, VOCAB, (20, 3))
    reward = lambda text: jnp.mean((text.response == 5) * 1.0)  # noqa: E731
    environment = token_environment(prompts, VOCAB, EOS, 5, reward=reward)
    transforms = [*([encode_once(POLICY)] if encoded else []), kl_penalty(POLICY, 0.01)]
    algorithm = gaejax.ppo(environment, POLICY, transforms=transforms)
    sizes = dict(num_envs=16, num_steps=7, num_epochs=1, num_minibatches=1)
    config = gaejax.PPOConfig(**sizes, fresh_rows=True, discount=1.0, learning_rate=2e-2)
    return jax.jit(algorithm.init)(jax.random.key(0), config), jax.jit(algorithm.step)


def test_once_a_rollout_is_as_good_as_every_time_and_what_is_frozen_has_no_gradient():
    (state, once), (same, always) = training(encoded=True), training(encoded=False)
    (first, info), (_, other_info) = once(state), always(same)
    np.testing.assert_allclose(info.gradient_norm, other_info.gradient_norm, rtol=1e-3)
    np.testing.assert_allclose(info.value_loss, other_info.value_loss, rtol=1e-3)
    assert info.first_log_ratio < 1e-4 and abs(info.extra["kl"]) < 1e-4
    assert set(first.params) == {"lora", "own"}
    for _ in range(80):
        first, last = once(first)
    assert last.episode_return > 2 * info.episode_return and last.extra["kl"] > 0.1


def test_texts_are_scored_alike_by_what_was_encoded_once():
    texts = Texts(TOKENS.T, jnp.array([1, 2, 3]), jnp.array([4, 7, 5]))
    once = text_scores(POLICY, TRAINED, encode_texts(POLICY, TRAINED, texts))
    assert_same(once, text_scores(POLICY, TRAINED, texts), 1e-4)


def test_weights_may_be_an_argument_of_what_is_compiled():
    """So they need not be written into the program, nor exist when it is made."""

    def read_with(weights, params, tokens):
        policy = lora(decoder_policy(SHAPE, frozen_layers=1), weights, layers=[1], rank=2)
        return policy.apply(params, policy.initial_carry(3), tokens, RESETS)[1:]

    shapes = jax.eval_shape(lambda: WEIGHTS)
    compiled = jax.jit(read_with).lower(shapes, TRAINED, TOKENS).compile()
    assert_same(compiled(WEIGHTS, TRAINED, TOKENS), read(POLICY, TRAINED), 1e-4)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: lora(PLAIN, WEIGHTS, rank=0), "rank must be at least 1, got 0"),
        (
            lambda: lora(decoder_policy(SHAPE, frozen_layers=1), WEIGHTS),
            "layers must be given for a policy with frozen",
        ),
        (lambda: lora(PLAIN, WEIGHTS, layers=[1, 3]), "layers must be among the 2 layers of weights, 0 .. 1, got 3"),
        (lambda: lora(PLAIN, WEIGHTS, targets=["input_layernorm"]), "targets must be dense layers of weights, "),
        (lambda: decoder_policy(SHAPE, frozen_layers=4), "frozen_layers must be between 0 and num_hidden_layers = 2"),
        (lambda: decoder_policy(SHAPE, frozen_layers=1, value="trunk"), "without a critic's trunk, got 1"),
        (lambda: encode_once(PLAIN), "policy of encode_once must have a frozen part"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    assert words in str(caught.value) and "\n" not in str(caught.value)
