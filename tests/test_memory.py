"""Policies with memory in training: time limits inside the memory's span, rows that go on or start fresh, burn-in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import remembered_reward, spaces, values_of
from test_policies import BODIES

import gaejax
from gaejax.algorithms import acting, collect, training_environment
from gaejax.distributions import ValueBins, expected_values
from gaejax.environments import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gaejax.policies import actor_critic, chain, gru, linear_recurrent, mlp, transformer
from gaejax.rollout import after_burn_in, init_rollout, rollout

CONFIG = gaejax.PPOConfig(num_envs=4, num_steps=16, num_minibatches=2, num_epochs=2, learning_rate=3e-3)


def trained(environment, policy, total_steps, config):
    algorithm = gaejax.ppo(environment, policy)
    state, info = jax.jit(lambda key: gaejax.train(algorithm, key, config, total_steps))(jax.random.key(0))
    return algorithm, state, info


@pytest.mark.parametrize("body", [gru(16), linear_recurrent(16), transformer(16, 1, 2, 8)], ids=["gru", "lin", "tf"])
def test_where_the_limit_falls_inside_the_memorys_span_the_critic_is_right(body):
    """Only the first observation shows the reward, + or - 1 for ever; episodes are cut after five steps. Every state is
    worth that reward / (1 - discount), the final one too: from a reset observation or an empty carry it would be 0."""
    values = values_of_remembered_rewards(body)
    np.testing.assert_allclose(values, np.broadcast_to([5.0, -5.0], (6, 2)), atol=0.75)


def values_of_remembered_rewards(body, **options):
    """What a critic has learned of the six observations of an episode with reward 1 and of one with reward -1."""
    environment = remembered_reward(limit=5)
    config = CONFIG.replace(num_envs=16, discount=0.8, max_grad_norm=10.0, entropy_coefficient=0.0, gae_lambda=0.9)
    config = config.replace(anneal_steps=80_000.0, value_coefficient=1.0)
    algorithm, state, _ = trained(environment, actor_critic(environment, body, **options), 80_000, config)
    observations = jnp.zeros((6, 2, 2)).at[:, :, 1].set(1.0).at[0, :, 0].set(jnp.array([1.0, -1.0]))
    resets = jnp.zeros((6, 2), bool).at[0].set(True)
    return expected_values(algorithm.act(state, algorithm.initial_carry(2), observations, resets)[2])


def gru_in_float64(params, observations):
    """The critic's values of one episode `[T, d]`, by NumPy, one step at a time from an empty memory."""
    encoder, (gates, cell) = (jax.tree.map(np.float64, part) for part in params["actor"])
    layers = encoder["params"]["Dense_0"], gates["params"]["Dense_0"]
    head = jax.tree.map(np.float64, params["value"])["params"]["Readout_0"]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    state, values = np.zeros(cell["bias"].shape[0]), []
    for observation in np.float64(observations):
        hidden = np.tanh(observation @ layers[0]["kernel"] + layers[0]["bias"])
        r_in, z_in, n_in = np.split(hidden @ layers[1]["kernel"] + layers[1]["bias"], 3)
        r, z, n = np.split(state @ cell["kernel"], 3)
        candidate = np.tanh(n_in + sigmoid(r_in + r) * (n + cell["bias"]))
        update = sigmoid(z_in + z)
        state = (1 - update) * candidate + update * state
        values.append(state @ head["kernel"][0] + head["bias"][0])
    return np.array(values)


def test_the_value_of_a_truncated_episodes_final_row_is_that_of_a_replay_of_the_episode_alone():
    """Over three rollouts that cut episodes anywhere: the successor of a truncated step has the memory that led there,
    not that of the episode after it, nor an empty one."""
    environment = gaejax.auto_reset(spaces(Box(-1, 1, (3,)), Discrete(2)))  # cut after seven steps
    policy = actor_critic(environment, chain(mlp((8,)), gru(8)))
    params = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(9), x.shape), policy.init(jax.random.key(0))
    )
    act = lambda *batch: policy.apply(params, *batch)  # noqa: E731
    state = init_rollout(jax.random.key(1), environment, (), policy.initial_carry(3), 3)
    run = jax.jit(lambda key, state: rollout(key, environment, (), act, state, 8)[:2])
    values = jax.jit(lambda trajectory: values_of(act, trajectory))
    rows = []
    for index in range(3):
        state, trajectory = run(jax.random.key(index), state)
        rows.append((trajectory.observations, trajectory.truncated, *values(trajectory), trajectory.resets))
    observations, truncated, here, following, resets = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    checked = 0
    for row in range(3):
        for step in np.flatnonzero(truncated[:-1, row]):
            start = np.flatnonzero(resets[: step + 1, row])[-1]
            replay = gru_in_float64(params, observations[start : step + 2, row])
            np.testing.assert_allclose(following[step, row], replay[-1], atol=1e-5)
            np.testing.assert_allclose(here[start : step + 1, row], replay[:-1], atol=1e-5)
            assert step - start == 6
            checked += 1
    assert checked >= 8


ACTIONS = {
    "discrete": (Discrete(3), Box(-1, 1, (5,)), {}),
    "multi-discrete": (MultiDiscrete((2, 3)), Box(-1, 1, (5,)), {}),
    "tanh-gaussian": (Box(-1, 1, (2,)), Box(-1, 1, (5,)), dict(squash=True)),
    "masked": (Discrete(3), Dict({"x": Box(-1, 1, (5,)), "action_mask": MultiBinary((3,))}), {}),
    "lazy, histogram": (Discrete(7), Box(-1, 1, (5,)), dict(logits_chunk=5, value_bins=ValueBins(-2, 2))),
}
LAW = [("linear_recurrent", "discrete", 1e-6), ("transformer", "discrete", 1e-5), ("mlp of 64", "discrete", 0)]
LAW += [("gru of 64", "discrete", 0)] + [("gru", head, 1e-6) for head in ACTIONS if head != "discrete"]
WIDE = {"mlp of 64": mlp(), "gru of 64": gru()}


@pytest.mark.parametrize("body, head, bound", LAW)
def test_the_first_log_ratio_is_zero_late_in_training_too(body, head, bound):
    """Within rounding (widths for which XLA:CPU's products of two sizes round alike give exactly 0): what the
    update sees is what the rollout saw, memory, masks and normalizers included."""
    actions, observations, options = ACTIONS[head]
    environment = spaces(observations, actions)
    config = CONFIG.replace(num_envs=16, normalize_observations=True, num_steps=16, learning_rate=1e-2)
    policy = actor_critic(environment, WIDE.get(body) or BODIES[body][0], **options)
    _, state, info = trained(environment, policy, 30 * 256, config)
    act = acting(policy, state)
    run = jax.jit(lambda key: collect(key, training_environment(environment), policy, act, state, config))
    largest = np.abs(run(jax.random.key(1)).trajectory.log_probs).max()  # rounding is relative to them
    assert np.max(info.first_log_ratio) <= bound * max(1, largest)
    assert np.all(np.isfinite(info.value_loss)) and info.approx_kl[-1] > 0


def test_masked_actions_are_never_taken_in_a_rollout():
    space = Dict({"x": Box(-1, 1, (2,)), "action_mask": MultiBinary((4,))})
    environment = gaejax.auto_reset(spaces(space, Discrete(4)))
    policy = actor_critic(environment, mlp((4,)))
    params = policy.init(jax.random.key(0))
    state = init_rollout(jax.random.key(1), environment, (), (), 32)
    run = jax.jit(lambda key: rollout(key, environment, (), lambda *batch: policy.apply(params, *batch), state, 50)[1])
    trajectory = run(jax.random.key(2))
    allowed = np.take_along_axis(
        np.asarray(trajectory.observations["action_mask"]), np.asarray(trajectory.actions)[..., None], axis=-1
    )
    assert allowed.all() and len(np.unique(trajectory.actions)) == 4


@pytest.mark.parametrize("fresh", [True, False])
def test_rows_go_on_where_they_stand_or_start_fresh_in_every_rollout(fresh):
    """Episodes last seven steps and rollouts five: fresh rows never end one, and none is longer than the rollout."""
    environment = spaces(Box(-1, 1, (2,)), Discrete(2))
    algorithm = gaejax.ppo(environment, actor_critic(environment, gru(4)))
    state = algorithm.init(jax.random.key(0), CONFIG.replace(num_steps=5, fresh_rows=fresh))
    step, episodes, lengths = jax.jit(algorithm.step), [], []
    for _ in range(4):
        state, info = step(state)
        episodes.append(int(info.episodes))
        lengths.append(int(state.rollout.episode_length[0]))
    if fresh:
        assert episodes == [0, 0, 0, 0] and lengths == [5, 5, 5, 5]
    else:  # of twenty rows: seven steps, a final observation, seven steps, a final observation
        assert episodes == [0, 4, 4, 0] and lengths[0] == 5


def test_burn_in_leaves_out_the_first_steps_of_rows_that_go_on():
    resets = jnp.array([[True, False, False], [False, False, False], [False, True, False], [False, False, False]])
    expected = [[True, False, False], [True, False, False], [True, True, False], [True, True, True]]
    np.testing.assert_array_equal(after_burn_in(resets, 3), expected)
    assert after_burn_in(resets, 0).all()


def test_what_is_burned_in_bears_no_loss():
    """Rewards differ in the first eight steps of the second rollout; the parameters behind it do not."""
    plain = remembered_reward(limit=1000)

    def step(key, state, action, bonus):
        following, observation, reward, *flags = plain.step(key, state, action, ())
        early = (state[1] >= 16) & (state[1] < 24)
        return following, observation, reward + jnp.where(early, bonus, 0.0), *flags

    environment = plain.replace(step=step, params=jnp.float32(0))
    algorithm = gaejax.ppo(environment, actor_critic(environment, gru(4)))
    for burn_in_steps, same in ((8, True), (0, False)):
        step_once = jax.jit(algorithm.step)
        start, _ = step_once(algorithm.init(jax.random.key(0), CONFIG.replace(burn_in_steps=burn_in_steps)))
        params = []
        for bonus in (0.0, 100.0):
            state, info = step_once(start._replace(environment_params=jnp.float32(bonus)))
            assert info.env_steps == 64
            params.append(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.params)]))
        assert np.array_equal(*params) is same


def test_burn_in_is_shorter_than_the_rollout():
    environment = remembered_reward()
    algorithm = gaejax.ppo(environment, actor_critic(environment, gru(4)))
    with pytest.raises(ValueError, match="burn_in_steps must be less than num_steps = 16, got 16"):
        algorithm.init(jax.random.key(0), CONFIG.replace(burn_in_steps=16))


def test_a_histogram_critic_learns_what_a_number_does():
    values = values_of_remembered_rewards(gru(16), value_bins=ValueBins(-7, 7, 57))
    np.testing.assert_allclose(values, np.broadcast_to([5.0, -5.0], (6, 2)), atol=0.75)
