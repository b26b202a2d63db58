"""PPO's training step: its laws, its parts, and what must not depend on what."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import constant_reward, forced_actions
from test_environments import counter
from test_rollout import remembering_policy

import gaejax
from gaejax.algorithms import OBJECTIVES, acting, collect, make_batch, training_environment
from gaejax.distributions import Categorical
from gaejax.losses import (
    actor_critic_loss,
    adapted,
    clipped_surrogate_loss,
    drift_loss,
    kl_estimate,
    kl_penalty_loss,
    policy_gradient_loss,
    value_loss,
)
from gaejax.minibatches import Batch

CLIP = partial(OBJECTIVES["clip"].loss, {})
CONFIG = gaejax.PPOConfig(
    num_envs=8,
    num_steps=16,
    num_epochs=2,
    num_minibatches=4,
    learning_rate=1e-3,
    anneal_steps=1e6,
    normalize_observations=True,
    normalize_rewards=True,
)


def build(name="CartPole-v1", **policy):
    environment = gaejax.make(name)
    return gaejax.ppo(environment, gaejax.mlp_policy(environment, **policy))


@pytest.fixture(scope="module")
def cartpole():
    """One compiled training step, and one vmapped over two seeds, shared by the tests of this file."""
    algorithm = build()
    init = jax.jit(lambda key: algorithm.init(key, CONFIG))
    return init, jax.jit(algorithm.step), jax.jit(jax.vmap(init)), jax.jit(jax.vmap(algorithm.step))


def run(step, state, count):
    infos = []
    for _ in range(count):
        state, info = step(state)
        infos.append(info)
    return state, jax.tree.map(lambda *leaves: np.stack(leaves), *infos)


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_the_ratio_is_one_on_the_first_minibatch_late_in_training_too(cartpole):
    init, step, _, _ = cartpole
    _, info = run(step, init(jax.random.key(0)), 40)
    assert np.all(info.first_log_ratio == 0)
    assert np.all(info.approx_kl[5:] > 0)  # later minibatches do see another policy


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_kl_and_clip_fraction_are_zero_where_the_first_minibatch_is_the_only_one(name):
    algorithm = build(name)
    config = CONFIG.replace(num_epochs=1, num_minibatches=1, learning_rate=1e-2)
    _, info = run(jax.jit(algorithm.step), jax.jit(lambda key: algorithm.init(key, config))(jax.random.key(0)), 30)
    assert np.all(info.clip_fraction == 0)
    np.testing.assert_allclose(info.approx_kl, 0, atol=1e-12)
    np.testing.assert_allclose(info.first_log_ratio, 0, atol=1e-6)


def test_the_ratio_is_one_for_a_policy_with_memory():
    algorithm = gaejax.ppo(counter(limit=5), remembering_policy())
    config = gaejax.PPOConfig(num_envs=6, num_steps=7, num_minibatches=3, learning_rate=1e-3)
    _, info = run(jax.jit(algorithm.step), algorithm.init(jax.random.key(0), config), 10)
    np.testing.assert_allclose(info.first_log_ratio, 0, atol=1e-6)
    assert np.all(info.env_steps > 0)


def test_the_same_seed_twice_gives_the_same_bits(cartpole):
    init, step, _, _ = cartpole
    assert_same_bits(run(step, init(jax.random.key(3)), 3), run(step, init(jax.random.key(3)), 3))


def test_a_seed_is_unmoved_by_the_values_of_the_seeds_beside_it(cartpole):
    _, _, init_seeds, step_seeds = cartpole
    first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)  # noqa: E731
    one = run(step_seeds, init_seeds(jnp.stack([jax.random.key(0), jax.random.key(1)])), 3)[0]
    other = init_seeds(jnp.stack([jax.random.key(0), jax.random.key(2)]))
    other = other._replace(params=jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), other.params))
    other = run(step_seeds, other, 3)[0]
    assert_same_bits(first(one), first(other))
    assert not np.array_equal(jax.tree.leaves(one.params)[0][1], jax.tree.leaves(other.params)[0][1])


def test_a_seed_agrees_with_itself_alone(cartpole):
    init, step, init_seeds, step_seeds = cartpole
    keys = jax.random.split(jax.random.key(5), 2)
    together, _ = step_seeds(init_seeds(keys))
    for index, key in enumerate(keys):
        alone, _ = step(init(key))
        for a, b in zip(jax.tree.leaves(together.params), jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(a[index], b, atol=1e-5)


def test_the_state_is_strongly_typed_and_a_step_keeps_its_types(cartpole):
    init, step, _, _ = cartpole
    state = init(jax.random.key(0))
    following, _ = step(state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(following), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        assert not getattr(before, "weak_type", False) and not getattr(after, "weak_type", False)


def test_saved_loaded_and_continued_is_the_uninterrupted_run(cartpole, tmp_path):
    init, step, _, _ = cartpole
    whole, _ = run(step, init(jax.random.key(0)), 5)
    state, _ = run(step, init(jax.random.key(0)), 2)
    gaejax.save_checkpoint(tmp_path, state, 2)
    restored = gaejax.load_checkpoint(tmp_path, jax.eval_shape(init, jax.random.key(0)))
    assert_same_bits(state, restored)
    assert_same_bits(run(step, restored, 3)[0], whole)


def test_every_float_of_the_config_can_be_vmapped():
    algorithm = build()
    config = CONFIG.replace(value_clip_epsilon=0.2)
    fields = [name for name in vars(config) if isinstance(getattr(config, name), float)]
    assert {"learning_rate", "discount", "gae_lambda", "clip_epsilon", "anneal_steps"} < set(fields)

    def init(key, scale):
        return algorithm.init(key, config.replace(**{name: getattr(config, name) * scale for name in fields}))

    scales = jnp.array([1.0, 0.5])
    states = jax.eval_shape(jax.vmap(init, in_axes=(None, 0)), jax.random.key(0), scales)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(states))
    states, _ = jax.eval_shape(jax.vmap(algorithm.step), states)
    assert states.config.gae_lambda.shape == (2,)


def test_a_vmapped_hyperparameter_does_what_it_does_alone(cartpole):
    """Learning rates 1e-3 and 0 in one call: the first equals the run of its own, the second does not move."""
    _, _, _, step_seeds = cartpole
    algorithm = build()
    init = lambda rate: algorithm.init(jax.random.key(0), CONFIG.replace(learning_rate=rate))  # noqa: E731
    states = jax.vmap(init)(jnp.array([1e-3, 0.0]))
    following, info = step_seeds(states)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(axis=tuple(range(1, a.ndim))), states.params, following.params)
    largest = np.max(np.stack(jax.tree.leaves(moved)), axis=0)
    assert largest[0] > 1e-4 and largest[1] == 0
    np.testing.assert_allclose(info.learning_rate, [1e-3, 0], rtol=1e-3)


def test_gradients_are_clipped_by_their_global_norm_before_the_optimizer():
    environment = gaejax.make("CartPole-v1")
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment), optimizer=optax.sgd)
    config = CONFIG.replace(num_epochs=1, num_minibatches=1, learning_rate=1.0, anneal_steps=None, max_grad_norm=1e-3)
    state = algorithm.init(jax.random.key(0), config)
    following, info = jax.jit(algorithm.step)(state)
    change = optax.tree.norm(jax.tree.map(jnp.subtract, following.params, state.params))
    np.testing.assert_allclose(change, 1e-3, rtol=1e-3)
    assert info.gradient_norm > 1e-2


def test_losses_by_hand():
    log_ratios = jnp.log(jnp.array([1.5, 0.5, 1.5, 0.5, 1.0]))
    advantages = jnp.array([1.0, 1.0, -1.0, -1.0, 2.0])
    np.testing.assert_allclose(clipped_surrogate_loss(log_ratios, advantages, 0.2), [-1.2, -0.5, 1.5, 0.8, -2])
    np.testing.assert_allclose(value_loss(jnp.array([3.0]), jnp.array([1.0])), [2])
    clipped = value_loss(jnp.array([3.0, 1.1]), jnp.array([3.0, 1.0]), jnp.array([1.0, 1.0]), jnp.float32(0.5))
    np.testing.assert_allclose(clipped, [0.5 * 1.5**2, 0.5 * 0.1**2], rtol=1e-5)
    np.testing.assert_allclose(kl_estimate(jnp.log(2.0)), 1 - np.log(2), rtol=1e-5)
    higher = clipped_surrogate_loss(log_ratios, advantages, 0.2, 0.4)
    np.testing.assert_allclose(higher, [-1.4, -0.5, 1.5, 0.8, -2])
    penalized = kl_penalty_loss(jnp.log(jnp.array([2.0])), jnp.array([3.0]), 10.0)
    np.testing.assert_allclose(penalized, -6 + 10 * (1 - np.log(2)), rtol=1e-5)


def test_at_ratio_one_every_objective_has_the_gradient_of_the_policy_gradient():
    advantages = jnp.array([-2.0, -0.1, 0.0, 0.3, 5.0])
    config = gaejax.PPOConfig()
    objectives = [partial(each.loss, each.init(config)) for each in OBJECTIVES.values()]
    for objective in (policy_gradient_loss, *objectives):
        gradient = jax.grad(lambda x, objective=objective: objective(x, advantages, config).sum())(jnp.zeros(5))
        np.testing.assert_allclose(gradient, -advantages, atol=1e-6)


def test_the_drift_is_never_negative_and_zero_at_ratio_one():
    log_ratios, advantages = jnp.meshgrid(jnp.linspace(-3, 3, 61), jnp.linspace(-4, 4, 41))
    drift = drift_loss(log_ratios, advantages) + jnp.exp(log_ratios) * advantages
    assert np.all(drift >= -1e-5) and np.max(drift) > 1
    np.testing.assert_allclose(drift[:, 30], 0, atol=1e-6)


def test_the_penalty_doubles_and_halves_around_its_target():
    divergences = jnp.array([0.001, 0.0066, 0.0068, 0.0149, 0.0151])
    own = adapted({"kl_coefficient": jnp.float32(2)}, divergences, gaejax.PPOConfig(kl_target=0.01))
    np.testing.assert_allclose(own["kl_coefficient"], [1, 1, 2, 2, 4])


def test_the_adaptive_penalty_is_in_the_state():
    environment = gaejax.make("CartPole-v1")
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment, (4,)), objective="adaptive_kl")
    state, info = jax.jit(algorithm.step)(algorithm.init(jax.random.key(0), CONFIG.replace(kl_target=1.0)))
    assert state.algorithm["kl_coefficient"] == 0.5 == info.extra["kl_coefficient"]
    assert state.config.kl_coefficient == 1  # the config is never written to


def test_advantages_may_be_estimated_anew_for_every_pass():
    """V-trace then sees how far the policy has moved; values are those of the parameters at hand. Where nothing moves
    (learning rate 0), both ways are one."""
    environment = gaejax.make("CartPole-v1")
    policy = gaejax.mlp_policy(environment, (4,))
    algorithm = gaejax.ppo(environment, policy)

    @jax.jit
    def batch_after_a_move(key):
        state = algorithm.init(key, CONFIG)
        moved = jax.tree.map(lambda leaf: leaf + 0.1, state.params)
        experience = collect(key, training_environment(environment), policy, acting(policy, state), state, CONFIG)
        estimator = lambda inputs: (inputs.log_ratios, inputs.values)  # noqa: E731
        batch = make_batch(estimator, acting(policy, state, moved), state, experience, CONFIG)
        _, distributions, values = policy.apply(moved, (), batch.observations, batch.resets)
        return batch, distributions.log_prob(batch.actions), values

    batch, log_probs, values = batch_after_a_move(jax.random.key(0))
    expected = np.where(batch.mask, log_probs - batch.log_probs, 0)
    np.testing.assert_allclose(np.where(batch.mask, batch.advantages, 0), expected, atol=1e-6)
    np.testing.assert_allclose(batch.value_targets, values, atol=1e-6)
    assert np.abs(expected).max() > 1e-3

    infos = []
    for estimator, recompute in (("gae", False), ("vtrace", True)):
        algorithm = gaejax.ppo(environment, policy, estimator=estimator)
        config = CONFIG.replace(learning_rate=0.0, recompute_advantages=recompute)
        infos.append(jax.jit(algorithm.step)(algorithm.init(jax.random.key(0), config))[1])
    for name in ("policy_loss", "value_loss", "gradient_norm", "explained_variance"):
        np.testing.assert_allclose(getattr(infos[0], name), getattr(infos[1], name), rtol=1e-4, atol=1e-6)


def minibatch(**changes):
    shape = (1, 6)
    rng = np.random.default_rng(0)
    fields = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name in Batch._fields}
    fields |= dict(observations=jnp.zeros((1, 6, 1)), resets=jnp.zeros(shape, bool), mask=jnp.ones(shape, bool))
    fields |= dict(actions=jnp.array([[0, 1, 0, 1, 0, 1]]), log_probs=jnp.full(shape, np.log(0.5)))
    return Batch(**{**fields, **changes})


def bias_policy():
    """Logits and value are its two parameters, whatever it sees."""

    def apply(params, carry, observations, resets):
        logits = jnp.stack([params["logit"] + 0 * observations[..., 0], 0 * observations[..., 0]], -1)
        return carry, Categorical(logits), params["value"] + 0 * observations[..., 0]

    return gaejax.Policy(lambda key: {"logit": jnp.float32(0), "value": jnp.float32(0)}, lambda batch: (), apply)


def test_what_is_masked_changes_neither_loss_nor_gradient_nor_diagnostics():
    policy, mask = bias_policy(), jnp.array([[True, True, False, True, False, True]])
    config = gaejax.PPOConfig(value_clip_epsilon=0.2)
    loss = jax.jit(jax.value_and_grad(partial(actor_critic_loss, CLIP, policy, config), has_aux=True))
    clean = minibatch(mask=mask)
    poisoned = clean._replace(
        **{
            name: jnp.where(mask, getattr(clean, name), jnp.nan)
            for name in ("advantages", "value_targets", "values", "log_probs")
        }
    )
    params = {"logit": jnp.float32(0.3), "value": jnp.float32(0.1)}
    kept = jax.tree.map(lambda leaf: leaf[:, mask[0]], clean)
    results = [loss(params, batch, ()) for batch in (clean, poisoned, kept)]
    for (_, terms), _ in results:
        for name in ("log_ratios", "advantages"):
            terms[name] = terms[name].sum()
    for result in results[1:]:
        for a, b in zip(jax.tree.leaves(results[0]), jax.tree.leaves(result), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_loss_by_hand():
    batch = minibatch()
    config = gaejax.PPOConfig(entropy_coefficient=0.1, value_coefficient=0.25, advantage_normalization="none")
    loss, info = actor_critic_loss(CLIP, bias_policy(), config, bias_policy().init(None), batch, ())
    policy_loss = -np.mean(batch.advantages)
    critic_loss = 0.5 * np.mean(np.square(batch.value_targets))
    np.testing.assert_allclose(loss, policy_loss + 0.25 * critic_loss - 0.1 * np.log(2), rtol=1e-5)
    np.testing.assert_allclose([info["policy_loss"], info["value_loss"]], [policy_loss, critic_loss], rtol=1e-5)
    np.testing.assert_allclose(info["entropy"], np.log(2), rtol=1e-5)


def test_where_episodes_are_only_cut_the_critic_reaches_the_endless_sum():
    """Reward 1 for ever, cut every five steps: each state is worth 1 / (1 - discount), not the 4.1 of five rewards."""
    environment = constant_reward()
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment, hidden_sizes=()))
    config = gaejax.PPOConfig(num_envs=8, num_steps=16, learning_rate=0.05, discount=0.9, entropy_coefficient=0.0)
    config = config.replace(max_grad_norm=100.0, anneal_steps=40_000.0)
    state, info = jax.jit(lambda key: gaejax.train(algorithm, key, config, 40_000))(jax.random.key(0))
    value = algorithm.act(state, (), jnp.ones((1, 1, 1)), jnp.ones((1, 1), bool))[2]
    np.testing.assert_allclose(value, 1 / (1 - 0.9), rtol=0.01)
    assert np.all(info.episode_length[np.asarray(info.episodes) > 0] == 5)


def test_forced_actions_are_neither_learned_from_nor_counted():
    """A forced step pays 100 for action 0; the policy must learn that its own action 1 pays 1."""
    environment = forced_actions(period=3)
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment, hidden_sizes=(16,)))
    config = gaejax.PPOConfig(num_envs=8, num_steps=26, learning_rate=0.01, entropy_coefficient=0.0)
    state, info = jax.jit(lambda key: gaejax.train(algorithm, key, config, 20_000))(jax.random.key(0))
    probabilities = jax.nn.softmax(
        algorithm.act(state, (), jnp.array([[[1 / 3], [2 / 3]]]), jnp.zeros((1, 2), bool))[1].logits
    )
    assert np.all(probabilities[..., 1] > 0.95)
    assert np.all(info.env_steps == 8 * 2 * 8)  # of 13 rows of an episode 4 are forced and 1 is its final observation


def test_a_rollout_without_a_finished_episode_reports_their_number_not_a_return_of_zero():
    algorithm = gaejax.ppo(counter(limit=100), gaejax.mlp_policy(counter()))
    config = gaejax.PPOConfig(num_envs=4, num_steps=8)
    _, info = jax.jit(algorithm.step)(algorithm.init(jax.random.key(0), config))
    assert info.episodes == 0 and np.isnan(info.episode_return) and info.env_steps == 32


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(num_minibatches=3), "num_minibatches must divide num_envs * num_steps = 128, got 3"),
        (dict(learning_rate=-1e-3), "learning_rate must be finite and not negative, got -0.001"),
        (dict(clip_epsilon=float("nan")), "clip_epsilon must be finite and not negative, got nan"),
        (dict(max_grad_norm=float("inf")), "max_grad_norm must be finite and not negative, got inf"),
        (dict(discount=1.1), "discount must be between 0 and 1, got 1.1"),
        (dict(gae_lambda=-0.1), "gae_lambda must be between 0 and 1, got -0.1"),
        (dict(num_envs=0), "num_envs must be at least 1, got 0"),
        (dict(num_steps=2.5), "num_steps must be a whole number, got 2.5"),
        (dict(anneal_steps=0.0), "anneal_steps must be finite and positive, got 0.0"),
        (dict(discount=None), "discount must be a number, got None"),
        (dict(num_envs=True), "num_envs must be a whole number, got True"),
        (dict(normalize_rewards="no"), "normalize_rewards must be True or False, got 'no'"),
        (dict(entropy_coefficient="high"), "entropy_coefficient must be a number, got 'high'"),
        (dict(advantage_normalization="batches"), "advantage_normalization must be 'minibatch', 'batch' or 'none'"),
        (dict(learning_rate=jnp.array([1e-3, -1.0])), "learning_rate must be finite and not negative"),
    ],
)
def test_bad_configs_are_refused_in_one_line_before_anything_compiles(changes, words):
    with pytest.raises(ValueError) as caught:
        build().init(jax.random.key(0), CONFIG.replace(**changes))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_minibatches_of_a_policy_with_memory_are_whole_rows():
    algorithm = gaejax.ppo(counter(), remembering_policy())
    config = gaejax.PPOConfig(num_envs=6, num_steps=8, num_minibatches=4)
    with pytest.raises(ValueError, match="num_minibatches must divide num_envs = 6, as the policy has a memory, got 4"):
        jax.eval_shape(algorithm.step, algorithm.init(jax.random.key(0), config))


def odd(observation=lambda ends: jnp.ones(1), reward=1, flag=bool):
    """An environment as people write them: Python numbers, flags of any type."""

    def reset(key, params):
        return 0, jnp.ones(1)

    def step(key, state, action, params):
        ends = state + 1 >= 4
        return state + 1, observation(ends), reward, ends.astype(flag), False, {}

    return gaejax.Environment("odd", reset, step, gaejax.Box(0, 1, (1,)), gaejax.Discrete(2))


@pytest.mark.parametrize("environment", [odd(), odd(reward=jnp.int32(1), flag=jnp.int32), odd(flag=jnp.float32)])
def test_rewards_and_flags_are_cast_once_at_the_edge(environment):
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment, hidden_sizes=(4,)))
    config = gaejax.PPOConfig(num_envs=2, num_steps=5, num_minibatches=2)
    state, info = jax.jit(algorithm.step)(jax.jit(lambda key: algorithm.init(key, config))(jax.random.key(0)))
    assert info.episode_return == 4 and info.env_steps == 8
    assert np.all(gaejax.evaluate(algorithm, state, jax.random.key(0), 3).returns == 4)


def test_a_final_observation_that_is_not_a_number_reaches_no_parameter():
    environment = odd(observation=lambda ends: jnp.where(ends, jnp.nan, jnp.ones(1)))
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment, hidden_sizes=(4,)))
    config = gaejax.PPOConfig(num_envs=2, num_steps=10, num_minibatches=2)
    state, info = run(jax.jit(algorithm.step), algorithm.init(jax.random.key(0), config), 3)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((state.params, info)))


def test_a_step_that_would_lose_fractions_is_refused():
    environment = odd()
    halves = environment.replace(step=lambda key, state, *rest: (state + 0.5, *environment.step(key, state, *rest)[1:]))
    with pytest.raises(
        ValueError, match=r"odd: step .* state must keep the shape and type of reset's, int32 .* float32"
    ):
        gaejax.ppo(halves, gaejax.mlp_policy(halves))
