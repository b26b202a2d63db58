"""Environment suites by name: what they return is what their packages return, and their time limits are no deaths.

A suite that is not installed is skipped; `uv sync --extra brax` installs one.
"""

import warnings
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import environment as gymnax_environment

import gaejax
from gaejax.environments import check_environment, from_gymnax, limit_steps, pool_resets

DISCOUNT = 0.9


class Rows(NamedTuple):
    """What an environment showed and returned at each step; `mask` is false at final observations."""

    observations: object
    rewards: object
    terminated: object
    truncated: object
    mask: object
    metrics: object


def recorded(environment, keys, actions, change=lambda state: state):
    """Returns the `Rows` of steps with automatic resets, `change` being made to the first state."""
    resetting = gaejax.auto_reset(environment)

    @jax.jit
    def record(keys, actions, params):
        def step(carry, inputs):
            state, observation = carry
            key, action = inputs
            state, following, reward, terminated, truncated, info = resetting.step(key, state, action, params)
            row = Rows(observation, reward, terminated, truncated, info["trainable"], info.get("metrics", {}))
            return (state, following), row

        state, observation = resetting.reset(keys[0], params)
        state = state._replace(environment=change(state.environment))
        return jax.lax.scan(step, (state, observation), (keys, actions))[1]

    return jax.tree.map(np.asarray, record(keys, actions, environment.params))


def by_hand(reset, step, keys, actions, limit, change=lambda state: state):
    """Returns the same rows but for the metrics, from a package's functions and a count of one's own.

    Args:
      reset: `key -> (state, observation)`.
      step: `(key, state, action) -> (state, observation, reward, terminated)`.
      change: as for `recorded`.
    """
    reset, step = jax.jit(reset), jax.jit(step)
    state, observation = reset(keys[0])
    state = change(state)
    count, final, rows = 0, False, []
    for key, action in zip(keys, actions, strict=True):
        if final:
            rows.append((observation, 0.0, False, False, False))
            (state, observation), count, final = reset(key), 0, False
            continue
        shown = observation
        state, observation, reward, terminated = step(key, state, action)
        count += 1
        truncated = count >= limit and not terminated
        rows.append((shown, float(reward), bool(terminated), truncated, True))
        final = bool(terminated) or truncated
    return jax.tree.map(lambda *parts: np.stack([np.asarray(part) for part in parts]), *rows)


def assert_the_same(rows, hand):
    for mine, theirs in zip(rows, hand, strict=False):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), mine, theirs)


def assert_bootstrapped(rows):
    """Checks that a truncation bootstraps from the final observation, and that a termination does not."""
    values = 1 + sum(np.abs(leaf.reshape(len(leaf), -1)).mean(1) for leaf in jax.tree.leaves(rows.observations))
    values = values.astype(np.float32)
    advantages, _ = gaejax.gae(
        rewards=rows.rewards[:-1],
        values=values[:-1],
        next_values=values[1:],
        terminated=rows.terminated[:-1],
        truncated=rows.truncated[:-1],
        mask=rows.mask[:-1],
        discount=DISCOUNT,
        gae_lambda=0.0,
    )
    for t in np.flatnonzero((rows.terminated | rows.truncated)[:-1]):
        assert not rows.mask[t + 1]  # the row of the final observation
        successor = 0.0 if rows.terminated[t] else values[t + 1]
        expected = rows.rewards[t] + DISCOUNT * successor - values[t]
        np.testing.assert_allclose(advantages[t], expected, rtol=1e-4)


def keys_for(steps):
    return jax.random.split(jax.random.key(1), steps)


# Brax.


@pytest.fixture(scope="module")
def brax():
    pytest.importorskip("brax")
    return gaejax.make("brax:inverted_pendulum", pool_size=0)


def test_rows_of_brax_are_the_packages_with_actions_clipped(brax):
    from brax import envs

    check_environment(brax)
    source = envs.get_environment("inverted_pendulum")
    keys, actions = keys_for(40), jnp.full((40, 1), 7.0)

    def reset(key):
        state = source.reset(key)
        return state, state.obs

    def step(key, state, action):
        state = source.step(state, jnp.clip(action, -1, 1))
        return state, state.obs, state.reward, state.done > 0

    for limit in (1, 1000):  # it falls after 2 steps
        rows = recorded(brax.replace(params=brax.params._replace(max_steps_in_episode=limit)), keys, actions)
        assert_the_same(rows, by_hand(reset, step, keys, actions, limit))
        assert_bootstrapped(rows)
        assert rows.truncated.any() == (limit == 1) and rows.terminated.any() == (limit == 1000)


def test_a_reset_of_brax_is_a_draw_from_the_pool(brax):
    pooled = gaejax.make("brax:inverted_pendulum", pool_size=4, pool_seed=3)
    check_environment(pooled)
    reset = jax.jit(jax.vmap(brax.reset, (0, None)))
    pool = reset(jax.random.split(jax.random.key(3), 4), brax.params)[1]
    _, drawn = jax.vmap(pooled.reset, (0, None))(jax.random.split(jax.random.key(0), 400), pooled.params)
    where = np.abs(drawn[:, None] - pool[None]).max(-1) < 1e-6
    assert np.all(where.sum(1) == 1)
    assert np.all(np.abs(where.mean(0) - 0.25) < 0.1)  # 4.6 standard errors
    assert "dot_general" not in str(jax.make_jaxpr(pooled.reset)(jax.random.key(0), pooled.params))  # no physics


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"backend": "warp"}, "cannot be made with .*warp"),
        ({"time_limit": "ignore"}, "time_limit must be"),
        ({"max_steps_in_episode": 0}, "max_steps_in_episode must be at least 1"),
        ({"pool_size": -1}, "pool_size must be at least 0"),
        ({"pool_seed": 1.5}, "pool_seed must be a whole number"),
    ],
)
def test_bad_arguments_for_brax_are_named(brax, kwargs, words):
    with pytest.raises(ValueError, match=words):
        gaejax.make("brax:inverted_pendulum", **{"pool_size": 0} | kwargs)


# The wrappers that suites share, on an environment of one's own.


def drifting():
    """An environment whose state holds a key: it starts at a random place, and moves by noise."""

    def reset(key, params):
        state = {"x": jax.random.normal(key), "key": key}
        return state, state["x"][None]

    def step(key, state, action, params):
        own, key = jax.random.split(state["key"])
        state = {"x": state["x"] + jax.random.normal(own), "key": key}
        return state, state["x"][None], 0.0, jnp.bool_(False), jnp.bool_(False), {}

    return gaejax.Environment("drifting", reset, step, gaejax.Box(-9, 9, (1,)), gaejax.Discrete(2))


def test_two_episodes_from_one_initial_state_have_noise_of_their_own():
    def second(environment, seed):
        state, _ = environment.reset(jax.random.key(seed), environment.params)
        return float(environment.step(jax.random.key(0), state, 0, environment.params)[1][0])

    stale = pool_resets(drifting(), size=1)
    fresh = pool_resets(drifting(), size=1, renew=lambda state, key: {**state, "key": key})
    check_environment(fresh)
    assert second(stale, 1) == second(stale, 2)
    assert second(fresh, 1) != second(fresh, 2)


def test_a_limit_counts_from_each_reset_and_may_be_a_death():
    keys, actions = keys_for(9), jnp.zeros(9, jnp.int32)
    for time_limit in ("truncate", "terminate"):
        environment = limit_steps(drifting(), 3, time_limit)
        check_environment(environment)
        rows = recorded(environment, keys, actions)
        ends = [False, False, True, False, False, False, True, False, False]
        assert (rows.truncated if time_limit == "truncate" else rows.terminated).tolist() == ends
        assert not (rows.terminated if time_limit == "truncate" else rows.truncated).any()
        assert_bootstrapped(rows)


# Navix.


@pytest.mark.parametrize("limit", [3, 100])
def test_rows_of_navix_are_the_packages(limit):
    navix = pytest.importorskip("navix")
    environment = gaejax.make("navix:Navix-Empty-5x5-v0", max_steps_in_episode=limit)
    check_environment(environment)
    source = navix.make("Navix-Empty-5x5-v0", max_steps=limit)
    forward, right = 2, 1
    keys, actions = keys_for(12), jnp.array([forward, forward, right, forward, forward, 0] * 2, jnp.int32)

    def reset(key):
        timestep = source.reset(key)
        return timestep, timestep.observation

    def step(key, timestep, action):
        timestep = source._step(timestep, action)
        return timestep, timestep.observation, timestep.reward, timestep.is_termination()

    rows = recorded(environment, keys, actions)
    assert_the_same(rows, by_hand(reset, step, keys, actions, limit))
    assert_bootstrapped(rows)
    assert rows.truncated.any() == (limit == 3) and rows.terminated.any() == (limit == 100)
    assert rows.rewards.sum() == rows.terminated.sum()  # 1 for each goal that was reached


# Jumanji.


@pytest.mark.parametrize("limit", [3, None])
def test_rows_of_jumanji_are_the_packages(limit):
    jumanji = pytest.importorskip("jumanji")
    environment = gaejax.make("jumanji:Snake-v1", max_steps_in_episode=limit)
    check_environment(environment)
    limit = limit or 4000
    source = jumanji.make("Snake-v1")
    keys, actions = keys_for(30), jnp.zeros(30, jnp.int32)  # upwards, into the wall after at most 12 steps

    def seen(observation):
        return {**observation._asdict(), "step_count": observation.step_count / limit}

    def reset(key):
        state, timestep = source.reset(key)
        return state, seen(timestep.observation)

    def step(key, state, action):
        state, timestep = source.step(state, action)
        return state, seen(timestep.observation), timestep.reward, timestep.last()

    rows = recorded(environment, keys, actions)
    assert_the_same(rows, by_hand(reset, step, keys, actions, limit))
    assert_bootstrapped(rows)
    assert rows.truncated.any() == (limit == 3) and (rows.terminated.any() or limit == 3)


@pytest.mark.parametrize("name", ["Tetris-v0", "Cleaner-v0", "RubiksCube-v0", "TSP-v1", "BinPack-v2", "MultiCVRP-v0"])
def test_spaces_of_jumanji_fit_policies_and_actions_mean_the_same(name):
    jumanji = pytest.importorskip("jumanji")
    environment = gaejax.make(f"jumanji:{name}")
    check_environment(environment)
    gaejax.mlp_policy(environment)
    source = jumanji.make(name)
    _, timestep = source.reset(jax.random.key(0))
    _, observation = environment.reset(jax.random.key(0), environment.params)
    if name == "Tetris-v0":  # a choice of 4 x 10 at once
        assert environment.action_space == gaejax.Discrete(40)
        np.testing.assert_array_equal(observation["action_mask"], timestep.observation.action_mask.reshape(-1))
    if name == "Cleaner-v0":  # three choices of 4, each with a mask
        assert environment.action_space == gaejax.MultiDiscrete((4, 4, 4))
        np.testing.assert_array_equal(observation["action_mask"], timestep.observation.action_mask.reshape(-1))


def test_a_joint_action_of_jumanji_is_the_packages():
    jumanji = pytest.importorskip("jumanji")
    environment, source = gaejax.make("jumanji:Tetris-v0"), jumanji.make("Tetris-v0")
    state, _ = environment.reset(jax.random.key(0), environment.params)
    _, observation, reward, *_ = environment.step(jax.random.key(0), state, jnp.int32(27), environment.params)
    _, timestep = source.step(source.reset(jax.random.key(0))[0], jnp.array([2, 7]))
    np.testing.assert_array_equal(observation["grid"], timestep.observation.grid)
    assert reward == timestep.reward


def test_jumanji_with_several_rewards_is_refused():
    pytest.importorskip("jumanji")
    with pytest.raises(ValueError, match="'Connector-v3' is not usable: it has a reward for each"):
        gaejax.make("jumanji:Connector-v3")


# Craftax.


@pytest.mark.parametrize("limit", [3, 10000])
def test_rows_of_craftax_are_the_packages(limit):
    craftax = pytest.importorskip("craftax.craftax_env")
    constants = pytest.importorskip("craftax.craftax_classic.constants")
    name = "Craftax-Classic-Symbolic-v1"
    environment = gaejax.make(f"craftax:{name}", max_steps_in_episode=limit)
    check_environment(environment)
    source = craftax.make_craftax_env_from_name(name, auto_reset=False)
    keys, actions = keys_for(8), jnp.full(8, 5, jnp.int32)  # 5 collects
    place = constants.Achievement.COLLECT_COAL.value

    def changed(state):
        state = state.replace(achievements=state.achievements.at[place].set(True))
        return state.replace(player_health=0) if limit > 3 else state

    def reset(key):
        observation, state = source.reset_env(key, source.default_params)
        return state, observation

    def step(key, state, action):
        observation, state, reward, done, _ = source.step_env(key, state, action, source.default_params)
        return state, observation, reward, done

    rows = recorded(environment, keys, actions, changed)
    assert_the_same(rows, by_hand(reset, step, keys, actions, limit, changed))
    assert_bootstrapped(rows)
    assert rows.truncated.any() == (limit == 3) and rows.terminated.any() == (limit > 3)
    last = np.flatnonzero(rows.truncated | rows.terminated)[0]  # achievements are there at a time limit too
    assert rows.metrics["collect_coal"][last] == 100 and rows.metrics["make_iron_sword"][last] == 0


def test_what_craftax_does_not_take_is_named():
    pytest.importorskip("craftax")
    with pytest.raises(ValueError, match="has no argument 'zombie_helth': did you mean 'zombie_health'"):
        gaejax.make("craftax:Craftax-Classic-Symbolic-v1", zombie_helth=3)


# Classes of gymnax 0.0.x.


@flax.struct.dataclass
class OldState:
    x: jax.Array
    time: jax.Array


@flax.struct.dataclass
class OldParams:
    max_steps_in_episode: int = 4
    edge: float = 2.5


class Old:
    """As gymnax 0.0.x had them: `step_env` ends at the limit as it does at the edge."""

    name = "old"

    def reset_env(self, key, params):
        return jnp.zeros(1), OldState(jnp.zeros(()), jnp.int32(0))

    def step_env(self, key, state, action, params):
        state = OldState(state.x + action, state.time + 1)
        return state.x[None], state, 1.0, self.is_terminal(state, params), {}

    def is_terminal(self, state, params):
        return (state.x > params.edge) | (state.time >= params.max_steps_in_episode)

    def observation_space(self, params):
        return gaejax.Box(-9, 9, (1,))

    def action_space(self, params):
        return gaejax.Discrete(2)


class OldWithTheNewBase(Old, gymnax_environment.Environment):
    """The same where gymnax 1.x is installed: it inherits `is_truncated`, but its done wins."""


@pytest.mark.parametrize("kind", [Old, OldWithTheNewBase])
def test_the_time_limit_of_an_old_class_is_a_truncation_and_its_other_ends_are_deaths(kind):
    environment = from_gymnax(kind(), OldParams())
    check_environment(environment)
    rows = recorded(environment, keys_for(7), jnp.array([0, 0, 0, 0, 1, 1, 1], jnp.int32))
    assert rows.truncated.tolist() == [False, False, False, True, False, False, False]
    assert not rows.terminated.any()
    rows = recorded(environment, keys_for(7), jnp.array([1, 0, 1, 1, 1, 1, 1], jnp.int32))
    assert rows.terminated.tolist() == [False, False, False, True, False, False, False]  # at the limit, but a death
    assert not rows.truncated.any()
    assert_bootstrapped(rows)
    two = recorded(environment.replace(params=OldParams(max_steps_in_episode=2)), keys_for(4), jnp.zeros(4, jnp.int32))
    assert two.truncated.tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "params, words", [(flax.struct.dataclass(type("P", (), {}))(), "its params have no max_steps_in_episode")]
)
def test_an_old_class_without_a_limit_to_be_found_is_refused(params, words):
    with pytest.raises(ValueError, match=f"old has gymnax's old form, .*{words}: give it is_truncated"):
        from_gymnax(Old(), params)


def test_an_old_class_without_a_clock_is_refused():
    class Timeless(Old):
        def reset_env(self, key, params):
            return jnp.zeros(1), jnp.zeros(())

    with pytest.raises(ValueError, match="its state has no time: give it is_truncated"):
        from_gymnax(Timeless(), OldParams())


# MuJoCo Playground.


def test_rows_of_playground_are_the_packages():
    package = pytest.importorskip("mujoco_playground")
    environment = gaejax.make("playground:CartpoleBalance", max_steps_in_episode=3, pool_size=0)
    check_environment(environment)
    assert "reward/upright" in gaejax.environments.metric_names(environment)
    source = package.registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
    keys, actions = keys_for(9), jnp.full((9, 1), 0.5)

    def reset(key):
        state = source.reset(key)
        return state, state.obs

    def step(key, state, action):
        state = source.step(state, action)
        return state, state.obs, state.reward, state.done > 0

    def broken(state):  # the only death of this environment is a number that is none
        return state.replace(data=state.data.replace(qpos=state.data.qpos.at[0].set(jnp.nan)))

    def inside(state):
        return state._replace(environment=state.environment._replace(environment=broken(state.environment.environment)))

    rows = recorded(environment, keys, actions)
    assert_the_same(rows, by_hand(reset, step, keys, actions, 3))
    assert_bootstrapped(rows)
    assert rows.truncated.tolist() == [False, False, True, False] * 2 + [False] and not rows.terminated.any()
    state, _ = environment.reset(keys[0], environment.params)
    *_, terminated, truncated, _ = jax.jit(environment.step)(keys[0], inside(state), actions[0], environment.params)
    assert terminated and not truncated


def test_two_episodes_of_playground_from_one_state_have_keys_of_their_own():
    pytest.importorskip("mujoco_playground")
    environment = gaejax.make("playground:CartpoleBalance", pool_size=1)
    check_environment(environment)
    states = [environment.reset(jax.random.key(seed), environment.params)[0] for seed in (0, 1)]
    first, second = (jax.random.key_data(state.environment.environment.info["rng"]) for state in states)
    assert np.any(first != second)


def test_what_playground_does_not_take_is_named():
    pytest.importorskip("mujoco_playground")
    with pytest.raises(ValueError, match=r"playground:CartpoleBalance cannot be made with .*ctrl_dtt"):
        gaejax.make("playground:CartpoleBalance", ctrl_dtt=0.1)


# Resets that call Python.


@pytest.mark.parametrize("where", ["reset", "step", "inside", "nowhere"])
def test_a_reset_that_calls_python_gets_a_warning(where):
    def host(x):
        return jax.pure_callback(lambda x: np.asarray(x), jax.ShapeDtypeStruct((), jnp.float32), x)

    def reset(key, params):
        x = jax.random.normal(key)
        x = host(x) if where == "reset" else x
        x = jax.lax.cond(x > 0, jax.jit(host), lambda x: x, x) if where == "inside" else x
        return x, x[None]

    def step(key, state, action, params):
        state = host(state) if where == "step" else state
        return state, state[None], 0.0, jnp.bool_(False), jnp.bool_(False), {}

    environment = gaejax.Environment("hosted", reset, step, gaejax.Box(-9, 9, (1,)), gaejax.Discrete(2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_environment(environment)
    assert len(caught) == (where in ("reset", "inside"))
    assert all("hosted: reset calls Python" in str(each.message) for each in caught)
