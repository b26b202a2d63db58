"""Every usable environment resets, steps and auto-resets; time limits, units and flags mean what the contract says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gaejax
from gaejax.environments import from_gymnax, rescale_actions, time_limit_terminates

NUM_ROWS = 3


def counter(limit=3, terminates=False, reward=1.0):
    """An environment that counts its steps: the observation is the count, and the episode ends at `limit`."""

    def reset(key, params):
        return jnp.zeros((), jnp.int32), jnp.zeros(1)

    def step(key, state, action, params):
        state = state + 1
        ends = state >= params["limit"]
        observation = state.astype(jnp.float32)[None]
        return state, observation, jnp.float32(reward), ends & terminates, ends & (not terminates), {}

    space = gaejax.Box(0, np.inf, (1,))
    return gaejax.Environment("counter", reset, step, space, gaejax.Discrete(2), {"limit": limit})


def play(environment, actions, params=None, key=None):
    """The rows of one episode after another: `observation, reward, terminated, truncated, info` stacked over time."""
    params = environment.params if params is None else params
    key = jax.random.key(0) if key is None else key

    def step(carry, action):
        key, state, observation = carry
        key, step_key = jax.random.split(key)
        state, following, *outcome = environment.step(step_key, state, action, params)
        return (key, state, following), (observation, *outcome)

    state, observation = environment.reset(key, params)
    return jax.lax.scan(step, (key, state, observation), actions)[1]


def test_there_are_24_usable_environments_and_two_with_a_reason():
    assert len(gaejax.environment_names()) == 24
    for name in ("SimpleBandit-bsuite", "MNISTBandit-bsuite"):
        with pytest.raises(ValueError, match="not usable: it"):
            gaejax.make(name)


@pytest.mark.parametrize("name", gaejax.environment_names())
def test_resets_steps_and_auto_resets_vmapped_over_rows_and_params(name):
    """Limits of 2 and 3 steps in one vmapped call: each row ends, shows its final observation, and starts anew."""
    environment = gaejax.make(name)
    resetting = gaejax.auto_reset(environment)
    fields = vars(environment.params)
    limit = next(
        field for field in ("max_steps_in_episode", "size", "memory_length", "chain_length") if field in fields
    )
    short = limit == "max_steps_in_episode"
    limits = jnp.array([2, 3, 3]) if short else jnp.array([fields[limit]] * NUM_ROWS)
    params = jax.vmap(lambda limit_: environment.params.replace(**{limit: limit_}))(limits)
    axes = jax.tree.map(lambda leaf: 0, params)
    shape = environment.action_space.shape

    @jax.jit
    def run(key):
        actions = jnp.zeros((8, *shape), jnp.float32 if shape else jnp.int32)
        one = lambda key, params: play(resetting, actions, params, key)  # noqa: E731
        return jax.vmap(one, in_axes=(0, axes))(jax.random.split(key, NUM_ROWS), params)

    observations, rewards, terminated, truncated, info = run(jax.random.key(0))
    assert observations.shape == (NUM_ROWS, 8, *environment.observation_space.shape)
    assert rewards.shape == (NUM_ROWS, 8) and rewards.dtype == jnp.float32
    assert terminated.dtype == truncated.dtype == info["trainable"].dtype == jnp.bool_
    assert not np.any(terminated & truncated)
    assert np.all(np.isfinite(rewards)) and np.all(np.isfinite(observations))
    ended = np.asarray(terminated | truncated)
    np.testing.assert_array_equal(~np.asarray(info["trainable"])[:, 1:], ended[:, :-1])
    np.testing.assert_array_equal(np.asarray(info["reset"])[:, 1:], ended[:, :-1])
    assert np.all(np.asarray(rewards)[np.asarray(info["reset"])] == 0)
    if short:
        natural_ends = np.asarray(terminated).any()
        assert ended.any(axis=1).all()
        assert natural_ends or (ended[0, 1] and ended[1, 2] and not ended[1, 1])


def test_the_final_observation_is_a_row_of_its_own():
    environment = gaejax.auto_reset(counter(limit=2))
    observations, rewards, terminated, truncated, info = play(environment, jnp.zeros(7, jnp.int32))
    np.testing.assert_array_equal(observations[:, 0], [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(rewards, [1, 1, 0, 1, 1, 0, 1])
    np.testing.assert_array_equal(truncated, [0, 1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(info["trainable"], [1, 1, 0, 1, 1, 0, 1])
    np.testing.assert_array_equal(info["reset"], [0, 0, 1, 0, 0, 1, 0])
    assert not terminated.any()


def test_where_both_flags_are_set_termination_wins():
    """DeepSea ends and reaches its limit on the same step."""
    environment = gaejax.make("DeepSea-bsuite")
    for wrap in (lambda e: e, gaejax.auto_reset):
        _, _, terminated, truncated, _ = play(wrap(environment), jnp.zeros(8, jnp.int32))
        assert terminated[7] and not truncated.any()


def test_the_time_limit_is_an_option_of_the_environment():
    for time_limit, flags in (("truncate", (False, True)), ("terminate", (True, False))):
        environment = gaejax.make("Pendulum-v1", max_steps_in_episode=5, time_limit=time_limit)
        _, _, terminated, truncated, _ = play(environment, jnp.zeros((5, 1)))
        assert (bool(terminated[-1]), bool(truncated[-1])) == flags
        assert not (terminated | truncated)[:-1].any()
    _, _, terminated, truncated, _ = play(time_limit_terminates(counter()), jnp.zeros(3, jnp.int32))
    assert terminated[-1] and not truncated.any()


def test_actions_are_rescaled_and_clipped_at_the_edge():
    environment = gaejax.make("Pendulum-v1")  # torque in [-2, 2]
    state, _ = environment.reset(jax.random.key(0), environment.params)

    def speed(action):
        _, observation, *_ = environment.step(jax.random.key(1), state, jnp.array([action]), environment.params)
        return observation[2]

    change = float(speed(0.5) - speed(0.0))  # speed changes by 3 * torque * dt, dt = .05
    np.testing.assert_allclose(change, 3 * (0.5 * 2) * 0.05, rtol=1e-4)
    assert speed(1.0) == speed(7.0) and speed(-1.0) == speed(-7.0)


def test_rescaling_twice_is_rescaling_once_and_unbounded_dimensions_pass():
    received = []

    def step(key, state, action, params):
        received.append(np.asarray(action))
        return state, jnp.zeros(1), jnp.float32(0), jnp.bool_(False), jnp.bool_(False), {}

    space = gaejax.Box(np.array([0.0, -np.inf]), np.array([10.0, np.inf]), (2,))
    environment = gaejax.Environment("e", lambda key, params: (0, jnp.zeros(1)), step, space, space)
    for wrapped in (rescale_actions(environment), rescale_actions(rescale_actions(environment))):
        wrapped.step(None, 0, jnp.array([0.5, 30.0]), ())
        wrapped.step(None, 0, jnp.array([9.0, -30.0]), ())
    np.testing.assert_allclose(received, [[7.5, 30], [10, -30]] * 2)


def test_arguments_are_routed_by_name():

    def best_arm(seed):  # a constructor's argument: which arm pays 1.1 instead of 1
        chain = gaejax.make("DiscountingChain-bsuite", mapping_seed=seed)
        arms = jnp.repeat(jnp.arange(5)[:, None], 100, axis=1)
        return int(np.argmax(jax.vmap(lambda actions: play(chain, actions)[1])(arms).sum(axis=1)))

    assert [best_arm(seed) for seed in (0, 1, 3)] == [0, 1, 3]
    assert gaejax.make("Pendulum-v1", max_steps_in_episode=50).params.max_steps_in_episode == 50
    both = gaejax.make("Catch-bsuite", rows=6, columns=4)
    assert both.observation_space.shape == (6, 4)


def test_integer_rewards_and_observations_are_cast_once_at_the_edge():
    umbrella = gaejax.make("UmbrellaChain-bsuite")
    state, _ = umbrella.reset(jax.random.key(0), umbrella.params)
    assert umbrella.step(jax.random.key(0), state, 0, umbrella.params)[2].dtype == jnp.float32
    rooms = gaejax.make("FourRooms-misc")
    assert rooms.reset(jax.random.key(0), rooms.params)[1].dtype == jnp.float32
    lake = gaejax.make("FrozenLake-misc")
    assert lake.reset(jax.random.key(0), lake.params)[1].dtype == jnp.int32


@pytest.mark.parametrize(
    "name, kwargs, words",
    [
        ("CartPole", {}, "unknown environment 'CartPole': did you mean CartPole-v1"),
        (None, {}, "environment must be a gaejax.Environment, got None"),
        ("Pendulum-v1", {"g": "hello"}, "Pendulum-v1: g must be a number, such as 10.0, got 'hello'"),
        ("Pendulum-v1", {"max_steps": 5}, "Pendulum-v1 has no argument 'max_steps'"),
        ("Pendulum-v1", {"time_limit": "ignore"}, "time_limit must be 'truncate' or 'terminate', got 'ignore'"),
    ],
)
def test_bad_input_is_one_line(name, kwargs, words):
    with pytest.raises(ValueError) as caught:
        gaejax.make(name, **kwargs)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_unsupported_space_is_named():
    import gymnax
    from gymnax.environments import spaces

    source, params = gymnax.make("CartPole-v1")
    source.action_space = lambda params=None: spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3)))
    with pytest.raises(ValueError, match="action space of odd is a Tuple: only Discrete, Box"):
        from_gymnax(source, params, "odd")
    with pytest.raises(ValueError, match="action_space of odd must be Discrete, MultiDiscrete or Box, got Tuple"):
        gaejax.mlp_policy(counter().replace(name="odd", action_space=source.action_space()))


# Spaces and infos of other packages, as from_gymnax reads them.


class Shifted:
    """An environment with gymnax's methods, whose actions and observations are discrete and start at 10."""

    name = "shifted"

    def __init__(self, actions, observations):
        self.actions, self.observations = actions, observations

    def action_space(self, params):
        return self.actions

    def observation_space(self, params):
        return self.observations

    def reset_env(self, key, params):
        return self.observed(jnp.int32(10)), jnp.zeros((), jnp.int32)

    def step_env(self, key, state, action, params):
        return self.observed(action), state, action, False, {"metrics": {"action": action}, "other": state}

    def observed(self, number):
        return {"number": number, "vector": jnp.zeros(2)} if hasattr(self.observations, "spaces") else number

    def is_truncated(self, state, params):
        return False


def test_discrete_spaces_that_do_not_start_at_0_are_shifted():
    from gymnasium import spaces

    number, box = spaces.Discrete(2, start=10), spaces.Box(-1, 1, (2,))
    for observations in (number, spaces.Dict({"number": number, "vector": box})):
        environment = from_gymnax(Shifted(number, observations), ())
        gaejax.environments.check_environment(environment)
        assert environment.action_space == gaejax.Discrete(2)
        state, first = environment.reset(jax.random.key(0), ())
        for action in (0, 1):
            _, following, reward, *_ = environment.step(jax.random.key(0), state, jnp.int32(action), ())
            assert reward == 10 + action  # what the source was given
            for observation, expected in ((first, 0), (following, action)):
                seen = observation["number"] if isinstance(observation, dict) else observation
                assert seen == expected and seen.dtype == jnp.int32


def test_the_metrics_of_the_source_are_passed_on_and_nothing_else():
    from gymnasium import spaces

    environment = from_gymnax(Shifted(spaces.Discrete(3), spaces.Discrete(3)), ())
    assert gaejax.environments.metric_names(environment) == ("action",)
    info = environment.step(jax.random.key(0), jnp.int32(0), jnp.int32(2), ())[-1]
    assert set(info) == {"metrics"} and info["metrics"]["action"] == 2


def named(name, **attributes):
    """An object whose class has this name, and these attributes."""
    return type(name, (), attributes)()


@pytest.mark.parametrize(
    "space, words",
    [
        (named("Discrete"), "the action space of shifted is not usable: 'Discrete' object has no attribute 'shape'"),
        (named("Discrete", shape=(3,), n=2), "not usable: a Discrete must have shape (), got (3,)"),
        (named("Discrete", shape=(), n=0), "not usable: n of Discrete must be a whole number of at least 1, got 0"),
        (named("Discrete", shape=(), n=2, start="a"), "not usable: invalid literal for int()"),
        (named("Box", shape=(2,), low=float("nan"), high=1), "not usable: low of Box must not be NaN"),
        (named("Box", shape=(2,), low=1, high=0), "not usable: low of Box must not exceed high"),
        (named("Box", shape=(2,), low=0), "not usable: 'Box' object has no attribute 'high'"),
        (named("Dict"), "is a Dict: only Discrete, Box and a Dict of them are supported"),
        (named("Dict", spaces={"a": named("Graph")}), "the a in the action space of shifted is a Graph: only"),
        (None, "is a NoneType: only"),
    ],
)
def test_a_space_that_cannot_be_read_is_refused_in_one_line(space, words):
    with pytest.raises(ValueError) as caught:
        from_gymnax(Shifted(space, gaejax.Discrete(2)), ())
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_subclasses_of_spaces_and_our_own_spaces_are_read():
    from gymnax.environments import spaces

    class Moves(spaces.Discrete):
        pass

    environment = from_gymnax(Shifted(Moves(4), gaejax.MultiDiscrete((2, 3))), ())
    assert environment.action_space == gaejax.Discrete(4)
    assert environment.observation_space == gaejax.MultiDiscrete((2, 3))


def test_from_gymnax_refuses_other_objects_in_one_line():
    import gymnasium

    for stranger, kind in ((gymnasium.make("CartPole-v1"), "TimeLimit"), (None, "NoneType"), ("CartPole-v1", "str")):
        with pytest.raises(
            TypeError, match=rf"^source must be an environment of gymnax, got a \S*{kind} without reset"
        ):
            from_gymnax(stranger, ())
