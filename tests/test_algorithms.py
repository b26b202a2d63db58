"""The ladder of algorithms: what all share, what each promises, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import constant_reward, spaces
from test_environments import counter

import gaejax
from gaejax.algorithms import (
    ALGORITHMS,
    HEALTHY,
    Transform,
    acting,
    collect,
    make_batch,
    scheduled,
    training_environment,
)
from gaejax.algorithms.explain import explain
from gaejax.algorithms.schedules import resolved_schedules
from gaejax.distributions import EpsilonGreedy
from gaejax.environments import Box, Dict, Discrete, MultiBinary
from gaejax.estimators import ESTIMATORS
from gaejax.policies import actor_critic, gru, mlp, q_network, transformer
from gaejax.rollout import episode_steps
from gaejax.training.metrics import explain_report, flat
from gaejax.transforms import first_episodes

KEY = jax.random.key(0)
CARTPOLE = gaejax.make("CartPole-v1")


def built(name, body, environment=CARTPOLE, **options):
    spec = ALGORITHMS[name]
    policy = q_network(environment, body) if spec.action_values else actor_critic(environment, body, body)
    return spec.make(environment, policy, **options)


def small(name, **changes):
    return ALGORITHMS[name].config(num_envs=4, num_steps=8, anneal_steps=1e4).replace(**changes)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_a_memory_and_keeps_the_types_of_its_state(name):
    algorithm = built(name, gru(4))
    changes = {"num_minibatches": 2} if hasattr(small(name), "num_minibatches") else {}
    state = algorithm.init(KEY, small(name, explain=True, **changes))
    following, info = jax.jit(algorithm.step)(state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(following), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        assert not getattr(before, "weak_type", False) and not getattr(after, "weak_type", False)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, following.params)
    assert 0 < max(jax.tree.leaves(moved)) < np.inf
    entries = flat(info)
    assert {"dead_units", "limit_bias", "share_masked", "explained_variance", "env_steps"} <= set(entries)
    assert all(np.shape(value) == () for value in entries.values())
    report = explain_report([{"seed": 0, "update": 1, **{name: float(value) for name, value in entries.items()}}])
    assert {row["name"] for row in report} >= {"dead_units", "explained_variance"}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_takes_a_transformer(name):
    algorithm = built(name, transformer(8, 1, 2, 4))
    changes = {"num_minibatches": 2} if hasattr(small(name), "num_minibatches") else {}
    state = jax.eval_shape(lambda: algorithm.init(KEY, small(name, **changes)))
    following, _ = jax.eval_shape(algorithm.step, state)
    assert jax.tree.structure(following) == jax.tree.structure(state)


def test_a_warm_start_takes_policy_and_statistics_from_another_algorithm():
    config = small("a2c", normalize_observations=True)
    source, _ = jax.jit(built("a2c", mlp((4,))).step)(built("a2c", mlp((4,))).init(KEY, config))
    algorithm = built("trpo", mlp((4,)))
    state = algorithm.init(KEY, small("trpo", normalize_observations=True), source)
    for part in ("params", "observation_normalizer"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, part), getattr(source, part))
    assert state.updates == 0 and source.updates == 1
    with pytest.raises(ValueError, match=r"source must have been trained with this policy: params\['actor'\]"):
        built("ppo", mlp((5,))).init(KEY, small("ppo", normalize_observations=True), source)
    with pytest.raises(ValueError, match=r"observation_normalizer.* is .* there, None here"):
        algorithm.init(KEY, small("trpo"), source)


def test_an_exported_policy_is_one_function_of_what_is_observed():
    """With its normalizer, its memory and the environment's bounds; written, read again, it acts alike."""
    environment = gaejax.Environment(
        "wide", counter().reset, counter().step, Box(-1, 1, (1,)), Box(-3, 5, (2,)), counter().params
    )
    algorithm = gaejax.ppo(environment, actor_critic(environment, gru(4)))
    state = algorithm.init(KEY, small("ppo", normalize_observations=True, num_minibatches=2))
    state = state._replace(params=jax.tree.map(lambda leaf: leaf + 0.3, state.params))
    act, carry = gaejax.export(algorithm, state), algorithm.initial_carry(3)
    inputs = carry, jnp.ones((3, 1)), jnp.ones(3, bool), KEY
    carry, actions = act(*inputs)
    mode = algorithm.act(state, inputs[0], inputs[1][None], inputs[2][None])[1].mode()[0]
    np.testing.assert_allclose(actions, np.clip(1 + 4 * mode, -3, 5), rtol=1e-6)
    written = jax.export.export(jax.jit(act))(*inputs).serialize()
    again, same = jax.export.deserialize(written).call(*inputs)
    np.testing.assert_allclose(same, actions, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again, carry)
    sampled = gaejax.export(algorithm, state, greedy=False)
    assert not np.allclose(sampled(*inputs)[1], sampled(*inputs[:3], jax.random.key(1))[1])


def test_transforms_change_the_trajectory_before_anything_is_made_of_it():
    """The first episodes of rows, and one that counts rollouts and says so."""

    def count(rollouts, trajectory, state):
        return rollouts + 1, trajectory, {"rollouts": rollouts + 1}

    transforms = [first_episodes(), Transform(lambda params: jnp.int32(0), count)]
    algorithm = gaejax.a2c(counter(limit=3), gaejax.mlp_policy(counter()), transforms=transforms)
    config, step = small("a2c", num_steps=10, fresh_rows=True), jax.jit(algorithm.step)
    state, info = step(step(jax.jit(lambda key: algorithm.init(key, config))(KEY))[0])
    assert info.env_steps == 4 * 3 and info.extra["rollouts"] == 2 == state.transforms[1]


def test_the_number_of_a_step_in_its_episode():
    resets = jnp.array([[False, True], [False, False], [True, False], [False, True]])
    np.testing.assert_array_equal(episode_steps(resets, jnp.array([7, 3])), [[7, 0], [8, 1], [0, 2], [1, 0]])


def test_dead_units_and_a_critic_that_takes_limits_for_deaths_are_explained():
    """Reward 1 for ever in episodes cut after five steps: a critic whose values count down to the cut, and one whose
    values do not."""
    environment = constant_reward(limit=5)
    policy = actor_critic(environment, mlp((8,), "relu"))
    config = gaejax.PPOConfig(num_envs=4, num_steps=12, discount=0.9)
    state = gaejax.ppo(environment, policy).init(KEY, config)
    state.params["actor"]["params"]["Dense_0"]["bias"] = jnp.where(jnp.arange(8) < 4, -100.0, 100.0)
    act = acting(policy, state)
    experience = collect(KEY, training_environment(environment), policy, act, state, config)
    batch = make_batch(ESTIMATORS["gae"], act, state, experience, config)
    left = 5 - (jnp.arange(12) % 6)[:, None] * jnp.ones((1, 4))  # steps of the episode, 0 at its final observation
    values = (1 - 0.9**left) / 0.1
    deaths = explain(policy, state.params, experience, batch._replace(values=values, value_targets=values))
    own = np.asarray(values)[np.asarray(batch.mask)]
    np.testing.assert_allclose(deaths["limit_bias"], (0 - own.mean()) / own.std(), rtol=1e-5)
    assert deaths["limit_bias"] < HEALTHY["limit_bias"].least
    cuts = explain(policy, state.params, experience, batch._replace(values=0 * values + 10, value_targets=values))
    assert cuts["limit_bias"] == 0
    np.testing.assert_allclose([cuts["share_truncated"], cuts["share_masked"]], [0.2, 1 / 6], rtol=1e-6)
    np.testing.assert_allclose(cuts["dead_units"], 4 / 11, rtol=1e-6)  # of 8 hidden units, 2 logits and a value


def test_the_report_says_what_is_unhealthy():
    rows = [{"update": u, "explained_variance": 0.9, "clip_fraction": 0.1 * u} for u in range(1, 11)]
    report = {row["name"]: row for row in explain_report(rows)}
    assert report["explained_variance"]["verdict"] == "healthy"
    assert report["clip_fraction"]["verdict"] == HEALTHY["clip_fraction"].above
    np.testing.assert_allclose(report["clip_fraction"]["value"], 0.95)


def test_schedules_scale_fields_as_training_goes_on():
    schedules = {"clip_epsilon": lambda progress: 1 - 0.5 * progress, "entropy_coefficient": "cosine"}
    algorithm = gaejax.ppo(CARTPOLE, gaejax.mlp_policy(CARTPOLE, (4,)), schedules=schedules)
    config = gaejax.PPOConfig(num_envs=10, num_steps=10, learning_rate=1.0, anneal_steps=1000.0)
    default = resolved_schedules({"learning_rate": "linear", **schedules})
    at = [scheduled(config, default, jnp.int32(updates)) for updates in (0, 5, 10, 20)]
    np.testing.assert_allclose([now.learning_rate for now in at], [1, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose([now.clip_epsilon for now in at], [0.2, 0.15, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose([now.entropy_coefficient for now in at], [0.01, 0.005, 0, 0], atol=1e-7)
    assert scheduled(config.replace(anneal_steps=None), default, jnp.int32(20)).learning_rate == 1
    # Clip range and learning rate scaled to 0: nothing moves, as in a run whose schedules have run their course.
    state = algorithm.init(KEY, small("ppo", num_minibatches=2))._replace(updates=jnp.int32(10_000))
    following, info = jax.jit(algorithm.step)(state)
    assert info.learning_rate == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, following.params)


def test_pqn_explores_less_and_less_and_learns_the_values_of_actions():
    """One state, action 1 pays: its value is learned, and the share of other actions falls to a fortieth."""

    def step(key, state, action, params):
        return state, jnp.ones(1), (action == 1).astype(jnp.float32), jnp.bool_(True), jnp.bool_(False), {}

    environment = gaejax.Environment("pays", lambda key, _: (0, jnp.ones(1)), step, Box(0, 1, (1,)), Discrete(2))
    algorithm = gaejax.pqn(environment, q_network(environment, mlp((), layer_norm=True)))
    config = gaejax.PQNConfig(num_envs=8, num_steps=16, learning_rate=0.05, anneal_steps=20_000.0)
    state, info = jax.jit(lambda key: gaejax.train(algorithm, key, config, 20_000))(KEY)
    batch = jnp.ones((1, 1, 1)), jnp.ones((1, 1), bool)
    _, distributions, values = algorithm.act(state, (), *batch)
    np.testing.assert_allclose(distributions.action_values[0, 0], [0, 1], atol=0.02)
    np.testing.assert_allclose(values, 1, atol=0.02)
    np.testing.assert_allclose(info.extra["epsilon"][np.array([0, -1])], [1, 0.05], rtol=1e-5)
    np.testing.assert_allclose(info.episode_return[0], 0.5, atol=0.2)
    np.testing.assert_allclose(info.episode_return[-1], 0.975, atol=0.03)


def test_a_q_network_keeps_to_the_action_mask():
    environment = spaces(Dict({"x": Box(-1, 1, (2,)), "action_mask": MultiBinary((3,))}), Discrete(3))
    policy = q_network(environment, mlp((4,)))
    observations = {"x": jnp.ones((1, 2, 2)), "action_mask": jnp.array([[[True, False, True], [False, True, False]]])}
    _, distributions, _ = policy.apply(policy.init(KEY), (), observations, jnp.ones((1, 2), bool))
    random = EpsilonGreedy(distributions.action_values, jnp.ones((1, 2)))
    actions = jax.vmap(random.sample)(jax.random.split(KEY, 200))
    assert set(np.unique(actions[:, 0, 0])) == {0, 2} and set(np.unique(actions[:, 0, 1])) == {1}


BOX = spaces(Box(-1, 1, (2,)), Box(-1, 1, (1,)), name="arm")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: gaejax.pqn(BOX, gaejax.mlp_policy(BOX)), "action_space of pqn must be Discrete, got a Box in arm"),
        (lambda: q_network(BOX, mlp()), "action_space of a q_network must be Discrete, got a Box in arm"),
        (lambda: gaejax.pqn(CARTPOLE, gaejax.mlp_policy(CARTPOLE)), "policy of pqn must be one of action values"),
        (lambda: built("ppo", mlp(), objective="clop"), "objective must be one of clip, clip_higher, kl,"),
        (lambda: built("reinforce", mlp(), baseline="mean"), "baseline must be one of value, time, none, got 'mean'"),
        (lambda: built("a2c", mlp(), estimator="gea"), "estimator must be one of gae,"),
        (lambda: built("ppo", mlp(), estimator="retrace"), "estimator retrace needs a policy of action values"),
        (
            lambda: built("ppo", mlp(), schedules={"clip_epsilon": lambda progress: 0.5 - progress}),
            "schedule of clip_epsilon must be a finite number of at least 0, got -0.0",
        ),
        (
            lambda: built("ppo", mlp(), schedules={"clip_epsilon": "linar"}),
            "schedule of clip_epsilon must be constant,",
        ),
        (
            lambda: built("ppo", mlp(), schedules={"num_envs": "linear"}).init(KEY, small("ppo")),
            "schedules must be of float fields of PPOConfig, got 'num_envs'",
        ),
        (
            lambda: built("pqn", mlp()).init(KEY, small("pqn", anneal_steps=None)),
            "anneal_steps must be the transitions over which epsilon is scheduled, got None",
        ),
        (
            lambda: built("ppo", mlp(), objective=lambda log_ratios, *_: log_ratios.mean()).init(KEY, small("ppo")),
            "objective must return a loss for each step, (2, 3) of such arrays, got ()",
        ),
        (lambda: built("trpo", mlp()).init(KEY, small("trpo", max_kl=0.0)), "max_kl must be finite and positive"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_before_anything_compiles(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_optimizer_is_a_function_of_the_config():
    algorithm = built("pqn", mlp(()), optimizer=lambda config: optax.sgd(config.optimizer_epsilon))
    step, moved = jax.jit(algorithm.step), []
    for epsilon in (0.1, 0.0):
        state = algorithm.init(KEY, small("pqn", num_minibatches=2, optimizer_epsilon=epsilon))
        changes = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, step(state)[0].params)
        moved.append(max(jax.tree.leaves(changes)))
    assert moved[0] > 1e-4 and moved[1] == 0


def test_an_optimizer_of_yours_and_any_objective():
    """Plain gradient descent on an objective of log-probabilities alone: what was done becomes more probable."""
    algorithm = built("ppo", mlp((4,)), objective=lambda log_ratios, *_: -log_ratios, optimizer=optax.sgd)
    config = small("ppo", num_minibatches=1, num_epochs=1, value_coefficient=0.0, learning_rate=1.0)
    state = algorithm.init(KEY, config.replace(entropy_coefficient=0.0))
    entropies = []
    step = jax.jit(algorithm.step)
    for _ in range(20):
        state, info = step(state)
        entropies.append(float(info.entropy))
    assert entropies[-1] < 0.9 * entropies[0]
