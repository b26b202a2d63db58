"""What algorithms are made of: estimators, optimizers, objectives and state of one's own, and what is refused."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import constant_reward
from test_environments import counter

import gaejax
from gaejax.algorithms import (
    ALGORITHMS,
    Objective,
    acting,
    clipped,
    collect,
    gradient_step,
    make_batch,
    training_environment,
)
from gaejax.estimators import ESTIMATORS, EstimatorInputs, as_estimator
from gaejax.losses import actor_critic_loss, policy_gradient_loss
from gaejax.policies import actor_critic, gru, mlp

KEY = jax.random.key(0)
CARTPOLE = gaejax.make("CartPole-v1")
POLICY = gaejax.mlp_policy(CARTPOLE, (4,))
CONFIG = gaejax.PPOConfig(num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2)
SHAPE = (6, 3)


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    floats = {name: jnp.asarray(rng.normal(size=SHAPE), jnp.float32) for name in EstimatorInputs._fields}
    flags = {name: jnp.asarray(rng.random(SHAPE) < 0.2) for name in ("terminated", "truncated")}
    scalars = dict(discount=jnp.float32(0.9), gae_lambda=jnp.float32(0.8))
    return EstimatorInputs(**{**floats, **flags, **scalars, "mask": jnp.asarray(rng.random(SHAPE) < 0.8)})


def wrapped(**keywords):
    return gaejax.gae(**keywords)


def logged(function):
    @functools.wraps(function)
    def called(**keywords):
        return function(**keywords)

    return called


def doubled(*, rewards, **keywords):
    return gaejax.gae(rewards=2 * rewards, **keywords)


def ratios(*, log_ratios, **keywords):
    return gaejax.vtrace(log_ratios=log_ratios, **keywords)


def few(*, rewards, values, mask):
    return jnp.where(mask, rewards, 0), values


def positional(rewards, values, next_values, terminated, truncated, discount, gae_lambda, mask=None):
    return gaejax.gae(**locals())


X = inputs()
STEPS = X.steps()


@pytest.mark.parametrize(
    "estimator, expected",
    [
        (wrapped, gaejax.gae(**STEPS, gae_lambda=0.8)),
        (logged(gaejax.gae), gaejax.gae(**STEPS, gae_lambda=0.8)),
        (logged(gaejax.upgo), gaejax.upgo(**STEPS)),
        (
            functools.partial(gaejax.decoupled_gae, value_lambda=0.5),
            gaejax.decoupled_gae(**STEPS, gae_lambda=0.8, value_lambda=0.5),
        ),
        (positional, gaejax.gae(**STEPS, gae_lambda=0.8)),
        (doubled, gaejax.gae(**{**STEPS, "rewards": 2 * X.rewards}, gae_lambda=0.8)),
        (ratios, gaejax.vtrace(**STEPS, log_ratios=X.log_ratios, gae_lambda=0.8)),
        (few, (jnp.where(X.mask, X.rewards, 0), X.values)),
        (lambda x: (x.rewards, x.values), (X.rewards, X.values)),
        ("upgo", gaejax.upgo(**STEPS)),
        (gaejax.monte_carlo, gaejax.monte_carlo(**STEPS)),
        (gaejax.td_lambda, gaejax.td_lambda(**STEPS, trace_lambda=0.8)),
        (gaejax.retrace, ESTIMATORS["retrace"](X)),
    ],
)
def test_an_estimator_may_be_a_name_a_function_of_inputs_or_called_like_gae(estimator, expected):
    for got, wanted in zip(as_estimator(estimator)(X), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_every_named_estimator_trains():
    for name in ("vtrace", "upgo", "weight_corrected_gae"):
        algorithm = gaejax.ppo(CARTPOLE, POLICY, estimator=name)
        jax.eval_shape(algorithm.step, jax.eval_shape(algorithm.init, KEY, CONFIG))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_arguments_are_written_out(name):
    make = ALGORITHMS[name].make
    assert all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(make).parameters.values())
    with pytest.raises(TypeError) as caught:
        make(CARTPOLE, POLICY, schedule={})
    assert f"{name} has no argument 'schedule': did you mean 'schedules'?" == str(caught.value)


def test_a_typing_error_is_answered_with_what_was_meant():
    with pytest.raises(TypeError, match="a2c has no argument 'optimiser': did you mean 'optimizer'"):
        gaejax.a2c(CARTPOLE, POLICY, optimiser=1)
    for wrong, right in dict(
        gamma="discount", lr="learning_rate", ent_coef="entropy_coefficient", num_env="num_envs"
    ).items():
        with pytest.raises(TypeError, match=f"PPOConfig has no argument '{wrong}': did you mean '{right}'"):
            gaejax.PPOConfig(**{wrong: 1})
        with pytest.raises(TypeError, match=f"'{right}'"):
            CONFIG.replace(**{wrong: 1})
    with pytest.raises(
        ValueError, match="schedules must be of float fields of PPOConfig, got 'lr': did you mean 'learning_rate'"
    ):
        gaejax.ppo(CARTPOLE, POLICY, schedules={"lr": "linear"}).init(KEY, CONFIG)


@pytest.mark.parametrize("optimizer", [optax.adam(1e-3), None, "adam", 0.1])
def test_an_optimizer_of_the_wrong_kind_is_refused(optimizer):
    for make in (gaejax.ppo, gaejax.a2c, gaejax.reinforce, gaejax.ppg, gaejax.impala):
        with pytest.raises(TypeError, match=r"optimizer of \w+ must be a function of the config") as caught:
            make(CARTPOLE, POLICY, optimizer=optimizer)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw,
        lambda rate: optax.sgd(rate, momentum=0.9),
        lambda config: optax.sgd(config.learning_rate * config.discount),
        optax.inject_hyperparams(optax.adam),
        lambda config: optax.chain(optax.adam(config.learning_rate), optax.contrib.reduce_on_plateau()),
        lambda config: optax.lbfgs(config.learning_rate, memory_size=2),
        optax.lbfgs,
    ],
)
def test_optimizers_are_functions_of_the_config_or_of_a_learning_rate(optimizer):
    """Those that need the parameters, the loss or its function are given them."""
    algorithm = gaejax.a2c(CARTPOLE, POLICY, optimizer=optimizer)
    state = algorithm.init(KEY, gaejax.A2CConfig(num_envs=4, num_steps=8, learning_rate=1e-2))
    following, _ = jax.jit(algorithm.step)(state)
    changes = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, following.params)
    assert 0 < max(jax.tree.leaves(changes)) < np.inf


@pytest.mark.parametrize(
    "optimizer", [lambda rate, epsilon: optax.adam(rate, eps=epsilon), lambda config: config.rate, lambda config: 0.1]
)
def test_a_function_that_makes_no_optimizer_is_refused_in_one_line(optimizer):
    algorithm = gaejax.ppo(CARTPOLE, POLICY, optimizer=optimizer)
    with pytest.raises(TypeError, match="optimizer of ppo must be a function of the config, such as") as caught:
        algorithm.init(KEY, CONFIG)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [0, None, jax.random.split(KEY, 2), np.float32(1)])
def test_a_key_that_is_none_is_refused(key):
    with pytest.raises(TypeError, match="key must be one key"):
        gaejax.ppo(CARTPOLE, POLICY).init(key, CONFIG)


@pytest.mark.parametrize("config", [None, {}, CONFIG, gaejax.PQNConfig()])
def test_the_config_of_another_algorithm_is_refused(config):
    with pytest.raises(TypeError, match="config of a2c must be"):
        gaejax.a2c(CARTPOLE, POLICY).init(KEY, config)


@pytest.mark.parametrize("field", ["num_epochs", "num_envs", "burn_in_steps"])
def test_only_floats_can_be_vmapped(field):
    init = lambda n: gaejax.ppo(CARTPOLE, POLICY).init(KEY, CONFIG.replace(**{field: n}))  # noqa: E731
    with pytest.raises(ValueError, match=f"{field} must be a whole number, got a traced array: only floats"):
        jax.vmap(init)(jnp.array([1, 2]))


@pytest.mark.parametrize("make, config", [(gaejax.a2c, gaejax.A2CConfig), (gaejax.reinforce, gaejax.ReinforceConfig)])
def test_with_one_minibatch_a_batch_is_a_minibatch(make, config):
    """So both normalizations are one; and the policy loss that is reported says something."""
    results = []
    for normalization in ("minibatch", "batch", "none"):
        algorithm = make(CARTPOLE, POLICY)
        state = algorithm.init(KEY, config(num_envs=4, num_steps=8, advantage_normalization=normalization))
        results.append(jax.jit(algorithm.step)(state))
    (one, info), (other, _), (plain, _) = results
    leaves = [jax.tree.leaves(state.params) for state in (one, other, plain)]
    for a, b in zip(*leaves[:2], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(leaves[0], leaves[2], strict=True))
    assert abs(float(info.policy_loss)) > 1e-6


def bandit():
    """One step, action 1 pays."""

    def step(key, state, action, params):
        return state, jnp.ones(1), (action == 1).astype(jnp.float32), jnp.bool_(True), jnp.bool_(False), {}

    return gaejax.Environment(
        "bandit", lambda key, _: (0, jnp.ones(1)), step, gaejax.Box(0, 1, (1,)), gaejax.Discrete(2)
    )


def test_one_transition_an_update_is_enough_to_learn():
    environment = bandit()
    algorithm = gaejax.a2c(environment, gaejax.mlp_policy(environment, ()))
    config = gaejax.A2CConfig(num_envs=1, num_steps=1, learning_rate=0.02, entropy_coefficient=0.0)
    state, _ = jax.jit(lambda key: gaejax.train(algorithm, key, config, 4000))(KEY)
    _, distributions, _ = algorithm.act(state, (), jnp.ones((1, 1, 1)), jnp.ones((1, 1), bool))
    assert jax.nn.softmax(distributions.logits)[0, 0, 1] > 0.9


def test_a_minibatch_without_steps_of_the_policys_own_changes_nothing():
    config = gaejax.A2CConfig(num_envs=4, num_steps=8)
    algorithm = gaejax.a2c(CARTPOLE, POLICY)
    state, _ = jax.jit(algorithm.step)(algorithm.init(KEY, config))  # Adam's and RMSProp's moments are not 0
    act = acting(POLICY, state)
    loss = functools.partial(actor_critic_loss, policy_gradient_loss, POLICY, config)
    optimizer = clipped(lambda config: optax.rmsprop(config.learning_rate, decay=0.99, eps=1e-5), config)
    training = (state.params, state.optimizer)

    @jax.jit
    def masked_step(training):
        experience = collect(KEY, training_environment(CARTPOLE), POLICY, act, state, config)
        batch = make_batch(ESTIMATORS["gae"], act, state, experience, config)
        return gradient_step(optimizer, loss, training, batch._replace(mask=jnp.zeros_like(batch.mask)), ())

    moved, _ = masked_step(training)
    jax.tree.map(np.testing.assert_array_equal, moved, training)


def test_a_search_for_nans_passes_over_a_healthy_run():
    """No episode ends in eight steps: their mean return is no number, but none that was computed by mistake."""
    algorithm = gaejax.ppo(counter(limit=100), gaejax.mlp_policy(counter(), (4,)))
    with jax.debug_nans(True):
        _, info = jax.jit(algorithm.step)(algorithm.init(KEY, CONFIG))
    assert info.episodes == 0


def test_past_the_target_divergence_nothing_moves():
    """With a bound that the first step passes, an update is its first step; without, it goes on."""

    def updated(epochs, **changes):
        algorithm = gaejax.ppo(CARTPOLE, POLICY)
        config = CONFIG.replace(num_epochs=epochs, num_minibatches=1, learning_rate=0.1, **changes)
        return jax.jit(algorithm.step)(algorithm.init(KEY, config))[0].params

    one, stopped, free = updated(1), updated(4, target_kl=1e-6), updated(4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, stopped)
    loose = updated(4, target_kl=1e9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), free, loose)
    assert max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (one, free)), strict=True)) > 1e-3


def test_an_objective_may_adapt_numbers_of_its_own():
    objective = Objective(
        loss=lambda own, log_ratios, advantages, config: -log_ratios * own["weight"],
        init=lambda config: {"weight": jnp.float32(1)},
        adapt=lambda own, approx_kl, config: {"weight": own["weight"] / 2},
    )
    algorithm = gaejax.ppo(CARTPOLE, POLICY, objective=objective)
    step, state = jax.jit(algorithm.step), algorithm.init(KEY, CONFIG)
    for weight in (0.5, 0.25):
        state, info = step(state)
        assert state.algorithm["weight"] == weight == info.extra["weight"]


def test_the_environments_metrics_are_means_over_episodes_at_their_ends():
    """An episode of five steps reports its clock; its last value counts, and steps before the end do not."""
    environment = constant_reward(limit=5)

    def step(key, state, action, params):
        *results, info = environment.step(key, state, action, params)
        return *results, info | {"metrics": {"clock": results[0], "won": jnp.bool_(True)}}

    measured = environment.replace(step=step)
    algorithm = gaejax.ppo(measured, gaejax.mlp_policy(measured, ()))
    state = algorithm.init(KEY, CONFIG)
    step_ = jax.jit(algorithm.step)
    state, info = step_(state)
    assert info.episodes == 4 and info.extra["clock"] == 5 and info.extra["won"] == 1
    short = gaejax.ppo(measured, gaejax.mlp_policy(measured, ()))
    _, info = jax.jit(short.step)(short.init(KEY, CONFIG.replace(num_steps=4)))
    assert info.episodes == 0 and np.isnan(info.extra["clock"])


def test_a_lagged_actor_is_the_learner_of_an_earlier_update():
    config = gaejax.ImpalaConfig(num_envs=4, num_steps=8, actor_lag=3, learning_rate=1e-2)
    algorithm = gaejax.impala(CARTPOLE, POLICY)
    step, state, learners = jax.jit(algorithm.step), algorithm.init(KEY, config), []
    for update in range(7):
        learners.append(state.params)
        jax.tree.map(np.testing.assert_array_equal, state.algorithm, learners[update - update % 3])
        state, info = step(state)
        assert (info.first_log_ratio < 1e-6) == (update % 3 == 0)  # up to rounding


def test_without_lag_it_is_a2c_with_vtrace():
    sizes = dict(num_envs=4, num_steps=8)
    a2c, impala = gaejax.a2c(CARTPOLE, POLICY, estimator="vtrace"), gaejax.impala(CARTPOLE, POLICY)
    state = a2c.init(KEY, gaejax.A2CConfig(**sizes))
    lagless = impala.init(KEY, gaejax.ImpalaConfig(**sizes, actor_lag=0))
    _, rollout_key = jax.random.split(lagless.key)
    act = acting(POLICY, state)
    experience = collect(rollout_key, training_environment(CARTPOLE), POLICY, act, state, state.config)
    batch = make_batch(ESTIMATORS["vtrace"], act, state, experience, state.config)
    loss = functools.partial(actor_critic_loss, policy_gradient_loss, POLICY, state.config)
    optimizer = clipped(lambda config: optax.rmsprop(config.learning_rate, decay=0.99, eps=1e-5), state.config)
    (params, _), _ = gradient_step(optimizer, loss, (state.params, state.optimizer), batch, ())
    following, _ = jax.jit(impala.step)(lagless)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, following.params)


@pytest.mark.parametrize("body", [mlp((8,)), gru(4)])
def test_the_auxiliary_phase_moves_values_and_keeps_distributions(body):
    """With a heavy clone loss the policy's distributions after the phase are those before it; its values have moved."""
    policy = actor_critic(CARTPOLE, body)
    algorithm = gaejax.ppg(CARTPOLE, policy)
    config = gaejax.PPGConfig(num_envs=4, num_steps=8, num_minibatches=2, num_policy_updates=2, learning_rate=1e-2)
    state = algorithm.init(KEY, config)
    step = jax.jit(algorithm.step)
    states = [state]
    for _ in range(4):
        states.append(step(states[-1])[0])
    critic = lambda state: state.params["policy"]["value"]  # noqa: E731  (the auxiliary head)
    moved = [
        max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), critic(a), critic(b))))
        for a, b in itertools.pairwise(states)
    ]
    assert moved[0] == 0 == moved[2] and moved[1] > 0 < moved[3]  # the head learns only in auxiliary phases
