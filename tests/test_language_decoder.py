"""The decoder: the law of policies, Hugging Face's arithmetic, what is sampled, text from it; and the tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaejax.language import TASKS, DecoderConfig, Text, decoder_policy, generate, sampling_logits
from gaejax.language.tasks import EOS, decode, fraction_correct
from gaejax.testing import check_policy

TINY = dict(vocab_size=7, hidden_size=8, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
POLICIES = {
    "rotary, grouped, a window that slides": (dict(max_position_embeddings=4), {}),
    "learned, tied, biased, with a critic's trunk and top-k": (
        dict(num_hidden_layers=1, positions="learned", tie_word_embeddings=True, qkv_bias=True),
        dict(value="trunk", log_prob_of="model", top_k=3, temperature=0.7),
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_every_decoder_obeys_the_law(name):
    shape, options = POLICIES[name]
    report = check_policy(decoder_policy(DecoderConfig(**{**TINY, **shape}), **options))
    assert report.passed, report


def llama(params, config, tokens):
    """Logits `[T, V]` of one sequence in float64, written from Hugging Face's definition: heads one by one."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    trunk, size = params["actor"]["params"], config.head_size

    def norm(x, name, module):
        return module[name]["weight"] * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.rms_norm_eps)

    def rope(x):
        frequencies = 1 / config.rope_theta ** (np.arange(0, size, 2) / size)
        angles = np.outer(np.arange(len(tokens)), frequencies)
        cosine, sine = (np.concatenate([f(angles)] * 2, axis=-1) for f in (np.cos, np.sin))
        rotated = np.concatenate([-x[:, size // 2 :], x[:, : size // 2]], axis=-1)
        return x * cosine + rotated * sine

    x = trunk["embed_tokens"][tokens]
    for layer in range(config.num_hidden_layers):
        module = trunk[f"layers_{layer}"]
        linear = lambda y, name, module=module: y @ module[name]["kernel"] + module[name].get("bias", 0)  # noqa: E731
        h, read = norm(x, "input_layernorm", module), []
        q, k, v = (linear(h, name) for name in ("q_proj", "k_proj", "v_proj"))
        for head in range(config.num_attention_heads):
            shared = head // (config.num_attention_heads // config.kv_heads)
            own, other = slice(head * size, (head + 1) * size), slice(shared * size, (shared + 1) * size)
            scores = rope(q[:, own]) @ rope(k[:, other]).T / np.sqrt(size)
            scores = np.where(np.tri(len(tokens), dtype=bool), scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            read.append(weights / weights.sum(axis=-1, keepdims=True) @ v[:, other])
        x = x + linear(np.concatenate(read, axis=-1), "o_proj")
        h = norm(x, "post_attention_layernorm", module)
        gate = linear(h, "gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, "up_proj"), "down_proj")
    return norm(x, "norm", trunk) @ params["lm_head"].T


def test_the_arithmetic_is_that_of_llama_and_qwen2_and_text_continues_by_it():
    """Logits against NumPy; `generate`, from prompts of several lengths at once, against the same, token by token."""
    fields = dict(model_type="qwen2", rope_theta=500.0, max_position_embeddings=16, tie_word_embeddings=False, **TINY)
    config = DecoderConfig.from_hugging_face(fields)
    assert config.qkv_bias
    policy = decoder_policy(config)
    params = jax.jit(policy.init)(jax.random.key(0))
    noise = lambda x: x + 0.5 * jax.random.normal(jax.random.key(x.size), x.shape)  # noqa: E731
    params = jax.tree.map(noise, params)
    tokens = np.array([[1, 5, 2, 2, 6, 3, 0, 4]] * 2).T
    resets = jnp.zeros(tokens.shape, bool).at[0].set(True)
    _, distributions, _ = jax.jit(policy.apply)(params, policy.initial_carry(2), tokens, resets)
    expected = llama(params, config, tokens[:, 0])
    np.testing.assert_allclose(distributions.logits[:, 0], expected, atol=1e-4 * np.abs(expected).max())

    prompts, lengths, eos = np.array([[1, 5, 2], [4, 0, 0], [3, 6, 0]]), np.array([3, 1, 2]), 2
    run = jax.jit(lambda *prompt: generate(policy, params, *prompt, 6, jax.random.key(0), eos=eos, greedy=True))
    responses, ends = run(prompts, lengths)
    for prompt, length, response, end in zip(prompts, lengths, responses, ends, strict=True):
        text = list(prompt[:length])
        while len(text) < length + 6 and (len(text) == length or text[-1] != eos):
            text.append(int(np.argmax(llama(params, config, np.array(text))[-1])))
        assert response[:end].tolist() == text[length:] and np.all(response[end:] == eos)


def test_only_what_top_k_and_top_p_leave_is_sampled():
    logits = jnp.log(jnp.array([0.5, 0.25, 0.15, 0.1]))
    probabilities = lambda *options: jax.nn.softmax(sampling_logits(logits, *options))  # noqa: E731
    np.testing.assert_allclose(probabilities(0.5), np.array([0.25, 0.0625, 0.0225, 0.01]) / 0.345, atol=1e-6)
    np.testing.assert_allclose(probabilities(1.0, 2), [2 / 3, 1 / 3, 0, 0], atol=1e-6)
    np.testing.assert_allclose(probabilities(1.0, None, 0.6), [2 / 3, 1 / 3, 0, 0], atol=1e-6)
    np.testing.assert_allclose(probabilities(1.0, None, 0.4), [1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(probabilities(1.0, 3, 0.6), [2 / 3, 1 / 3, 0, 0], atol=1e-6)


def test_the_stored_log_probability_is_the_samplers_or_the_models():
    config = DecoderConfig(**TINY, max_position_embeddings=4)
    inputs = jnp.arange(6).reshape(2, 3), jnp.zeros((2, 3), bool)
    distributions = {}
    for of in ("sampled", "model"):
        policy = decoder_policy(config, temperature=0.5, top_k=2, log_prob_of=of)
        params = jax.tree.map(lambda x: x + 0.3, jax.jit(policy.init)(jax.random.key(0)))
        distributions[of] = jax.jit(policy.apply)(params, policy.initial_carry(3), *inputs)[1]
    actions = distributions["model"].sample(jax.random.key(1))
    np.testing.assert_array_equal(actions, distributions["sampled"].sample(jax.random.key(1)))
    model, sampled = (distributions[of].log_prob(actions) for of in ("model", "sampled"))
    logits = distributions["model"].model.logits
    chosen = lambda x: np.take_along_axis(np.asarray(x), np.asarray(actions)[..., None], axis=-1)[..., 0]  # noqa: E731
    np.testing.assert_allclose(model, chosen(jax.nn.log_softmax(logits)), atol=1e-6)
    np.testing.assert_allclose(sampled, chosen(jax.nn.log_softmax(sampling_logits(logits, 0.5, 2))), atol=1e-6)


@pytest.mark.parametrize("task", [make() for make in TASKS.values()], ids=list(TASKS))
def test_plain_python_agrees_with_the_answers_that_a_task_draws(task):
    draw = jax.jit(jax.vmap(lambda key: task.sample(key, ())))
    prompts, lengths, answers = jax.device_get(draw(jax.random.split(jax.random.key(0), 200)))
    assert prompts.shape[1] == task.max_prompt and answers.shape[1] == task.max_response
    wrong = np.where(np.arange(task.max_response) == 0, (answers + 1) % 10, answers)
    for prompt, length, answer, other in zip(prompts, lengths, answers, wrong, strict=True):
        assert task.check(decode(prompt[:length]), decode(answer)), (decode(prompt), decode(answer))
        assert not task.check(decode(prompt[:length]), decode(other))
    assert len(np.unique(prompts, axis=0)) > 150


def test_the_fraction_that_is_right_by_hand():
    answer = jnp.array([5, 4, EOS, 0])  # three tokens, and padding
    for response, length, fraction in (
        ([5, 4, EOS, 0], 3, 1.0),
        ([5, 3, EOS, 0], 3, 2 / 3),
        ([EOS, 0, 0, 0], 1, 0.0),
        ([5, EOS, 0, 0], 2, 1 / 3),
        ([5, 4, 3, EOS], 4, 2 / 4),
    ):
        text = Text(jnp.zeros(1, int), jnp.int32(1), jnp.array(response), jnp.int32(length), answer)
        assert float(fraction_correct(text)) == pytest.approx(fraction)
