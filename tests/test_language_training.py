"""Language models in the training step that trains a cart-pole: ratios, references, warm-up, and that it learns."""

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
    critic_warm_up,
    decoder_policy,
    examine,
    generate,
    group_baseline,
    kl_in_loss,
    kl_penalty,
    length_adaptive_gae,
    python_score,
    relative_position_gae,
    score,
    share_exact,
    token_environment,
    without_critic,
)
from gaejax.language.tasks import ALPHABET, decode

TASK = TASKS["reverse"](1)
STEPS = TASK.max_prompt + TASK.max_response - 1
SMALL = DecoderConfig(len(ALPHABET), 32, 1, 2, max_position_embeddings=STEPS + 1, positions="learned")
CONFIG = gaejax.PPOConfig(num_envs=64, num_steps=STEPS, fresh_rows=True, discount=1.0, num_epochs=2, num_minibatches=2)
POLICY = decoder_policy(SMALL)


def table(critic=True):
    """Logits and values of the last token alone: a language model that compiles in no time."""
    size = len(ALPHABET)

    def init(key):
        return {"actor": jnp.zeros((size, size)), "critic": jnp.zeros(size)}

    def apply(params, carry, observations, resets):
        return carry, Categorical(params["actor"][observations]), critic * params["critic"][observations]

    return gaejax.Policy(init, lambda batch: (), apply, gaejax.Discrete(size))


def test_a_small_decoder_learns_to_copy_near_its_reference_in_two_seeds_at_once():
    """One program: two seeds, ratios that start at 1, and a KL penalty that starts at 0 and adapts."""
    total_steps = 90 * 64 * STEPS
    config = CONFIG.replace(learning_rate=3e-3, max_grad_norm=5.0, num_epochs=4, entropy_coefficient=0.05)
    config = config.replace(anneal_steps=float(total_steps))
    transform, schedules = kl_penalty(POLICY, 1e-3, target=30.0, horizon=1e3), {"entropy_coefficient": "linear"}
    algorithm = gaejax.ppo(TASK.environment(), POLICY, transforms=[transform], schedules=schedules)
    run = jax.vmap(lambda key: gaejax.train(algorithm, key, config, total_steps))
    states, info = jax.jit(run)(jax.random.split(jax.random.key(0), 2))
    kl, coefficient = info.extra["kl"], info.extra["kl_coefficient"]
    assert np.all(np.abs(kl[:, 0]) < 1e-5) and np.all(kl[:, -1] > 1)
    np.testing.assert_allclose(coefficient[:, 1] / coefficient[:, 0], 1 - 0.2 * 64 / 1e3, rtol=1e-5)
    assert np.all(info.first_log_ratio <= 1e-4)
    assert np.all(info.env_steps <= 64 * TASK.max_response)  # only the policy's own transitions count
    early, late = (np.mean(info.episode_return[:, part], axis=1) for part in (slice(2), slice(-5, None)))
    assert np.all(early < 0.2) and np.all(late > 0.9), (early, late)
    first = jax.tree.map(lambda x: x[0], states.params)
    assert share_exact(TASK, *jax.jit(lambda params: examine(TASK, POLICY, params, jax.random.key(9), 64))(first)) > 0.9


def test_while_the_critic_warms_up_a_policy_with_parameters_of_its_own_does_not_move():
    policy, config = table(), CONFIG.replace(anneal_steps=4.0 * 64 * STEPS)
    parts = dict(objective="clip_higher", schedules=critic_warm_up(0.5))
    transforms = [kl_penalty(policy, 0.1, estimate="k3")]
    algorithm = gaejax.ppo(TASK.environment(), policy, transforms=transforms, estimator=length_adaptive_gae(), **parts)
    state = jax.jit(algorithm.init)(jax.random.key(0), config)
    step, moved = jax.jit(algorithm.step, donate_argnums=0), []
    for _ in range(3):  # the state is donated, reference included
        state, _ = step(state)
        moved.append([name for name in state.params if np.any(state.params[name] != 0)])
    assert moved == [["critic"], ["critic"], ["actor", "critic"]]
    assert all(np.all(leaf == 0) for leaf in state.transforms[0].params.values())


def test_the_kl_divergence_in_the_loss_is_exact_and_its_reference_stays():
    reference = {
        "actor": jax.random.normal(jax.random.key(0), (len(ALPHABET),) * 2),
        "critic": jnp.zeros(len(ALPHABET)),
    }
    policy = kl_in_loss(table(), reference)
    algorithm = gaejax.ppo(TASK.environment(), policy, objective=lambda log_ratios, *_: 0 * log_ratios)
    config = CONFIG.replace(entropy_coefficient=1.0, learning_rate=0.1, num_epochs=1, num_minibatches=1)
    state, infos = jax.jit(lambda key: gaejax.train(algorithm, key, config, 100 * 64 * STEPS))(jax.random.key(0))
    rows = jax.nn.log_softmax(reference["actor"])
    from_uniform = -np.log(len(ALPHABET)) - np.asarray(rows).mean(axis=1)  # after each token
    assert -from_uniform.max() <= infos.entropy[0] <= -from_uniform.min()
    assert infos.entropy[-1] > -1e-3  # nothing else was asked of it
    assert all(np.array_equal(state.params["reference"][name], reference[name]) for name in reference)


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_groups_learn_without_a_critic_from_a_python_reward(kind):
    """Those that stop at once are paid, and in a few updates all do; two seeds at once, prompts alike in a group."""
    group, seeds = 4, 2

    def reward(prompts, responses):
        assert all(len(set(prompts[i : i + group])) == 1 for i in range(0, len(prompts), group))
        return [0.5 * (response == ".") for response in responses]

    transforms = [python_score(reward, decode), group_baseline(group, kind)]
    environment = TASK.environment(group_size=group, reward=None)
    config = CONFIG.replace(value_coefficient=0.0, advantage_normalization="none", learning_rate=0.1)
    parts = dict(transforms=transforms, estimator=aggregated(without_critic, "sequence"))
    algorithm = gaejax.ppo(environment, table(critic=False), **parts)
    run = jax.vmap(lambda key: gaejax.train(algorithm, key, config, 60 * 64 * STEPS))
    _, info = jax.jit(run)(jax.random.split(jax.random.key(0), seeds))
    assert np.all(info.extra["other_prompts"] == 0)
    np.testing.assert_allclose(info.extra["score"], info.extra["group_score"], rtol=1e-6)
    assert np.all(info.extra["score"][:, 0] < 0.1) and np.all(info.extra["score"][:, -1] > 0.45)
    assert np.all(info.extra["response_length"][:, -1] < 1.2)


def test_lambdas_by_length_are_those_of_each_response():
    ends = jnp.array([[0, 1], [0, 0], [1, 1]], bool)
    arrays = {name: jax.random.normal(jax.random.key(i), (3, 2)) for i, name in enumerate(("rewards", "values"))}
    steps = dict(**arrays, next_values=jnp.ones((3, 2)), terminated=ends, truncated=jnp.zeros_like(ends), discount=1.0)
    steps["mask"] = jnp.ones_like(ends)
    lengths = np.array([[3, 1], [3, 2], [3, 2]])
    for estimator, lambdas in (
        (length_adaptive_gae(0.5, 0.1), np.maximum(1 - 2 / lengths, 0.1)),
        (relative_position_gae(0.3), 0.3 ** (1 / np.maximum(lengths - 1, 1))),
    ):
        expected = gaejax.decoupled_gae(gae_lambda=jnp.asarray(lambdas, jnp.float32), value_lambda=1.0, **steps)
        for found, wanted in zip(estimator(**steps), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-6)


def of_seven(**options):
    return token_environment(np.array([[1, 2, 3]]), **{**dict(vocab_size=7, eos=0, max_response=4), **options})


OTHER = decoder_policy(DecoderConfig(7, 32, 1, 2))
FRESHLESS = gaejax.ppo(TASK.environment(), POLICY, transforms=[kl_penalty(POLICY)])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: of_seven(eos=7), "eos must be a token of the vocabulary, 0 .. 6, got 7"),
        (
            lambda: of_seven(context=5),
            "context must hold a whole text: 3 tokens of prompt and 4 of response need 6",
        ),
        (lambda: of_seven(lengths=[4]), "lengths must be between 1 and the width of prompts, 3, got 4"),
        (lambda: of_seven(lengths=[1, 2]), "lengths must be integers [1], got int64 of shape (2,)"),
        (lambda: of_seven(vocab_size=3), "prompts must hold tokens of the vocabulary, 0 .. 2, got 3"),
        (lambda: of_seven(max_response=0), "max_response must be at least 1, got 0"),
        (lambda: of_seven(time_limit="stop"), "time_limit must be 'truncate' or 'terminate', got 'stop'"),
        (lambda: of_seven(reward=lambda text: jnp.float32(jnp.nan)), "reward must be finite for every text, got nan"),
        (
            lambda: of_seven(reward=lambda text: text.response),
            "reward must return one number for each text, got shape (4,)",
        ),
        (
            lambda: token_environment(np.ones((2, 2)), 7, 0, 4),
            "prompts must be integers [P, L] or a sampler, got float64",
        ),
        (
            lambda: token_environment(lambda key, params: key, 7, 0, 4),
            "prompts must be a sampler of (tokens [L], len",
        ),
        (
            lambda: kl_penalty(POLICY, reference_policy=OTHER, reference_params=OTHER.init(jax.random.key(0))),
            "reference_policy must have the policy's vocabulary of 20 tokens, got 7",
        ),
        (
            lambda: kl_penalty(POLICY, reference_params=OTHER.init(jax.random.key(0))),
            "reference_params must fit the reference policy: ",
        ),
        (lambda: kl_penalty(POLICY, estimate="k4"), "estimate must be one of k1, k2, k3, got 'k4'"),
        (lambda: kl_penalty(POLICY, -1.0), "coefficient must not be negative"),
        (
            lambda: jax.eval_shape(FRESHLESS.step, FRESHLESS.init(jax.random.key(0), CONFIG.replace(fresh_rows=False))),
            "fresh_rows must be True for kl_penalty",
        ),
        (lambda: group_baseline(1), "group_size must be at least 2, got 1"),
        (lambda: group_baseline(4, "ppo"), "kind must be 'rloo', 'grpo' or 'dr_grpo', got 'ppo'"),
        (lambda: aggregated(gaejax.gae, "constant"), "over must be 'sequence', or 'constant' with a max_length"),
        (lambda: critic_warm_up(1.0), "fraction must be between 0 and 1, got 1.0"),
        (lambda: decoder_policy(SMALL, temperature=0), "temperature must be positive"),
        (lambda: decoder_policy(SMALL, top_k=21), "top_k must be between 1 and vocab_size = 20, got 21"),
        (lambda: decoder_policy(SMALL, top_p=0), "top_p must be above 0 and at most 1, got 0"),
        (lambda: decoder_policy(SMALL, value="body"), "value must be 'head', 'trunk' or 'none', got 'body'"),
        (lambda: decoder_policy(SMALL, logits_chunk=4, top_k=2), "logits_chunk must be at least 1, without top_k"),
        (lambda: decoder_policy(DecoderConfig(7, 30, 1, 4)), "hidden_size must be a multiple of num_attention_heads"),
        (lambda: decoder_policy(DecoderConfig(7, 32, 1, 4, 3)), "num_key_value_heads must divide num_attention_heads"),
        (lambda: DecoderConfig.from_hugging_face({"model_type": "gpt2"}), "model_type must be llama or qwen2"),
        (
            lambda: DecoderConfig.from_hugging_face({"model_type": "llama", "attention_bias": True}),
            "attention_bias must be False for this decoder, got True",
        ),
        (
            lambda: generate(POLICY, None, jnp.ones((1, 4), int), jnp.array([4]), 4, jax.random.key(0), eos=0),
            "prompts of 4 tokens with max_new = 4 need 7 steps, more than the policy's context of 4",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(call, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_a_score_of_the_wrong_shape_is_refused_before_anything_is_compiled():
    algorithm = gaejax.ppo(TASK.environment(reward=None), POLICY, transforms=[score(lambda text: text.response)])
    with pytest.raises(ValueError, match=r"score must be one number for each text, got shape \(3,\)"):
        jax.eval_shape(algorithm.step, algorithm.init(jax.random.key(0), CONFIG))
