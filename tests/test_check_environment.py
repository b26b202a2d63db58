"""What an environment returns is checked before anything is compiled: one line says what came and what is wanted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import constant_reward, forced_actions, remembered_reward, spaces

import gaejax
from gaejax.environments import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    check_environment,
    check_is_environment,
    metric_names,
)

OBSERVATION = np.zeros(2, np.float32)
EVERY_SPACE = Dict(
    {
        "vector": Box(-1, 1, (2,)),
        "inner": Dict({"cell": Discrete(4), "choices": MultiDiscrete((2, 3))}),
        "switches": MultiBinary((3,)),
        "nothing": Box(-1, 1, (0,)),
    }
)


def environment(space=None, params=(), **changes):
    """An environment called "mine", some of whose results are replaced: by a value, or by a function of the rest."""

    def reset(key, params):
        made = {"state": jnp.zeros((), jnp.int32), "observation": OBSERVATION} | changes.get("at_reset", {})
        return changes["reset"](made) if "reset" in changes else (made["state"], made["observation"])

    def step(key, state, action, params):
        made = {
            "state": state + 1 if isinstance(state, jax.Array) else state,
            "observation": OBSERVATION,
            "reward": jnp.float32(0),
            "terminated": jnp.bool_(False),
            "truncated": jnp.bool_(False),
            "info": {},
        } | changes.get("at_step", {})
        return changes["step"](made) if "step" in changes else tuple(made.values())

    return gaejax.Environment("mine", reset, step, space or Box(-1, 1, (2,)), Discrete(2), params)


def observed(observation, space):
    return environment(space, at_reset={"observation": observation}, at_step={"observation": observation})


def element(**changes):
    return {
        "vector": np.zeros(2, np.float32),
        "inner": {"cell": np.int32(0), "choices": np.zeros(2, np.int32)},
        "switches": np.zeros(3, bool),
        "nothing": np.zeros(0, np.float32),
    } | changes


def without(made, name):
    return tuple(value for key, value in made.items() if key != name)


def stepped(**results):
    return environment(at_step=results)


WANTED = "mine: step must return (state, observation, reward, terminated, truncated, info)"
FAULTS = {
    "five results": (environment(step=lambda made: without(made, "state")), f"{WANTED}, got a tuple of 5"),
    "one result": (environment(step=lambda made: made["reward"]), f"{WANTED}, got float32 of shape ()"),
    "none": (environment(step=lambda made: None), f"{WANTED}, got None"),
    "gymnax's order": (
        environment(step=lambda made: (made["observation"], made["state"], *list(made.values())[2:])),
        ": return the state first, then the observation",
    ),
    "gymnax's order at the reset": (
        environment(reset=lambda made: (made["observation"], made["state"])),
        "mine: reset must return (state, observation), but its observation must be real numbers of shape (2,), as its "
        "Box says, got int32 of shape (): return the state first, then the observation",
    ),
    "a reset without a state": (
        environment(reset=lambda made: made["observation"]),
        "mine: reset must return (state, observation), got float32 of shape (2,)",
    ),
    "a reset of three": (
        environment(reset=lambda made: (made["state"], made["observation"], {})),
        "mine: reset must return (state, observation), got a tuple of 3",
    ),
    "a reward with an axis": (
        stepped(reward=jnp.zeros(1)),
        "mine: reward of step must be a number of shape (), got float32 of shape (1,)",
    ),
    "no reward": (stepped(reward=None), "mine: reward of step must be a number of shape (), got None"),
    "a flag with an axis": (
        stepped(terminated=jnp.zeros(1, bool)),
        "mine: terminated of step must be a boolean of shape (), got bool of shape (1,)",
    ),
    "another flag with axes": (stepped(truncated=jnp.zeros((2, 1), bool)), "mine: truncated of step must be a boolean"),
    "no flag": (stepped(truncated=None), "mine: truncated of step must be a boolean of shape (), got None"),
    "no info": (stepped(info=None), "mine: info of step must be a dict (it may be empty), got None"),
    "another info": (stepped(info=()), "mine: info of step must be a dict (it may be empty), got a tuple of 0"),
    "a text in the info": (stepped(info={"a": "b"}), "mine: info['a'] must be an array or a number, got a str"),
    "trainable with an axis": (
        stepped(info={"trainable": jnp.ones(1, bool)}),
        "mine: info['trainable'] must be a boolean of shape (), got bool of shape (1,)",
    ),
    "metrics that are no dict": (
        stepped(info={"metrics": jnp.zeros(3)}),
        "mine: info['metrics'] must be a dict of scalars, got float32 of shape (3,)",
    ),
    "a metric with an axis": (
        stepped(info={"metrics": {"speed": jnp.zeros(3)}}),
        "mine: info['metrics']['speed'] must be a number of shape (), got float32 of shape (3,)",
    ),
    "a metric in a dict": (
        stepped(info={"metrics": {"speed": {"x": 1.0}}}),
        "mine: info['metrics']['speed'] must be a number of shape (), got a dict with 'x'",
    ),
    "a metric that is a text": (
        stepped(info={"metrics": {"speed": "fast"}}),
        "must be a number of shape (), got a str",
    ),
    "a metric without a name": (stepped(info={"metrics": {3: 1.0}}), "the names in info['metrics'] must be strings"),
    "another shape of observations": (
        observed(np.zeros(3, np.float32), Box(-1, 1, (2,))),
        "observation must be real numbers of shape (2,), as its Box says, got float32 of shape (3,)",
    ),
    "another shape at the step only": (
        stepped(observation=np.zeros((2, 1), np.float32)),
        f"{WANTED}, but its observation must be real numbers of shape (2,), as its Box says, got float32 of "
        "shape (2, 1)",
    ),
    "complex numbers": (observed(np.zeros(2, np.complex64), Box(-1, 1, (2,))), "got complex64 of shape (2,)"),
    "floats for integers": (
        observed(jnp.float32(0), Discrete(3)),
        "observation must be integers of shape (), as its Discrete says, got float32 of shape ()",
    ),
    "one-hot for an integer": (
        observed(np.zeros(3, np.float32), Discrete(3)),
        "observation must be integers of shape (), as its Discrete says, got float32 of shape (3,)",
    ),
    "too few choices": (
        observed(np.zeros(1, np.int32), MultiDiscrete((2, 3))),
        "observation must be integers of shape (2,), as its MultiDiscrete says, got int32 of shape (1,)",
    ),
    "floats for booleans": (
        observed(np.zeros(3, np.float32), MultiBinary((3,))),
        "observation must be booleans of shape (3,), as its MultiBinary says, got float32 of shape (3,)",
    ),
    "an array for a dict": (
        observed(OBSERVATION, EVERY_SPACE),
        "observation must be a dict with 'vector', 'inner', 'switches', 'nothing', got float32 of shape (2,)",
    ),
    "a name too many": (
        observed(element(more=np.zeros(1)), EVERY_SPACE),
        "got one with 'vector', 'inner', 'switches', 'nothing', 'more'",
    ),
    "a name too few": (observed({"vector": OBSERVATION}, EVERY_SPACE), "got one with 'vector'"),
    "an inner name too few": (
        observed(element(inner={"cell": np.int32(0)}), EVERY_SPACE),
        "observation['inner'] must be a dict with 'cell', 'choices', got one with 'cell'",
    ),
    "an inner shape": (
        observed(element(inner={"cell": np.zeros(1, np.int32), "choices": np.zeros(2, np.int32)}), EVERY_SPACE),
        "observation['inner']['cell'] must be integers of shape (), as its Discrete says, got int32 of shape (1,)",
    ),
    "a state of another shape": (
        stepped(state=jnp.zeros(1, jnp.int32)),
        f"{WANTED}, but its state must keep the shape and type of reset's, int32 of shape (), got int32 of shape (1,)",
    ),
    "a state of another type": (stepped(state=jnp.float32(0)), "int32 of shape (), got float32 of shape ()"),
    "a state with more in it": (
        environment(at_reset={"state": {"x": 0}}, at_step={"state": {"x": 0, "y": 1.0}}),
        "state['y'] must be in what reset and step return: step has float32 of shape () there, reset has nothing",
    ),
    "a state with less in it": (
        environment(at_reset={"state": {"x": 0, "y": 1.0}}, at_step={"state": {"x": 0}}),
        "state['y'] must be in what reset and step return: reset has float32 of shape () there, step has nothing",
    ),
    "a state of another structure": (
        environment(at_reset={"state": (0, 0)}, at_step={"state": [0, 0]}),
        "state must have the structure of reset's, a tuple of 2, got a list of 2",
    ),
    "a text in the state": (
        environment(at_reset={"state": {"phase": "start"}}),
        "mine: state of reset['phase'] must be an array or a number, got a str",
    ),
    "a text in the params": (
        environment(params={"mode": "hard"}),
        "mine: params['mode'] must be an array or a number, got a str",
    ),
    "missing params": (
        gaejax.Environment("mine", lambda key, params: params["x"], None, Box(0, 1, (1,)), Discrete(2)),
        "mine: reset(key, params) raised TypeError: tuple indices must be integers or slices, not str",
    ),
    "no function": (
        gaejax.Environment("mine", None, None, Box(0, 1, (1,)), Discrete(2)),
        "mine: reset must be a function, got None",
    ),
    "too few arguments": (
        gaejax.Environment("mine", lambda key: 0, None, Box(0, 1, (1,)), Discrete(2)),
        "mine: reset(key, params) raised TypeError: ",
    ),
    "ordinary Python": (
        environment(step=lambda made: tuple(made.values()) if made["state"] > 3 else None),
        "mine: step(key, state, action, params) raised TracerBoolConversionError: ",
    ),
    "no space": (
        gaejax.Environment("mine", None, None, None, Discrete(2)),
        "observation_space of mine must be one of gaejax.environments', got NoneType",
    ),
    "no action space": (
        gaejax.Environment("mine", None, None, Discrete(2), 4),
        "action_space of mine must be one of gaejax.environments', got int",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_breaks_the_protocol_is_said_in_one_line(name):
    faulty, words = FAULTS[name]
    with pytest.raises(ValueError) as caught:
        check_environment(faulty)
    assert words in str(caught.value) and "mine" in str(caught.value) and "\n" not in str(caught.value)


def mixed_state(key):
    return {"key": key, "old_key": jax.random.PRNGKey(0), "none": None, "count": 0, "x": np.zeros(2)}


RIGHT = {
    "integer rewards": stepped(reward=1),
    "boolean rewards": stepped(reward=jnp.bool_(True)),
    "integer flags": stepped(terminated=0, truncated=jnp.int32(1)),
    "Python's numbers": stepped(reward=1.0, terminated=False, truncated=True),
    "a list of results": environment(step=lambda made: list(made.values())),
    "integers in a box": observed(np.zeros(2, np.uint8), Box(0, 255, (2,))),
    "a state that is weakly typed at first": environment(at_reset={"state": 0}),
    "a state that widens": environment(at_reset={"state": 0.0}, at_step={"state": jnp.int32(1)}),
    "keys in the state": environment(
        reset=lambda made: (mixed_state(jax.random.key(0)), made["observation"]),
        at_step={"state": mixed_state(jax.random.key(1))},
    ),
    "every space": observed(element(), EVERY_SPACE),
    "infos and metrics": stepped(info={"trainable": True, "seen": jnp.zeros(3), "metrics": {"speed": 1, "won": False}}),
    "params": environment(params={"limit": 3, "gravity": np.ones(2), "none": None}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_training_can_use_is_accepted(name):
    check_environment(RIGHT[name])


def test_the_given_params_are_checked_and_not_the_environments_own():
    def reset(key, params):
        return params["start"], params["start"][None]

    mine = gaejax.Environment(
        "mine",
        reset,
        lambda key, state, action, params: (state, state[None], state, False, False, {}),
        Box(-1, 1, (1,)),
        Discrete(2),
    )
    with pytest.raises(ValueError, match="reset\\(key, params\\) raised TypeError"):
        check_environment(mine)
    check_environment(mine, {"start": jnp.float32(0)})
    with pytest.raises(ValueError, match="observation must be real numbers of shape \\(1,\\)"):
        check_environment(mine, {"start": jnp.zeros(2)})


@pytest.mark.parametrize("name", gaejax.environment_names())
def test_the_environments_of_gymnax_keep_to_the_protocol(name):
    made = gaejax.make(name)
    for checked in (made, gaejax.auto_reset(made)):
        check_environment(checked)
    assert metric_names(made) == ()


def test_actions_of_every_kind_are_tried_in_their_own_shape_and_type():
    for probe in (constant_reward(), forced_actions(), remembered_reward()):
        check_environment(probe)
    for actions in (Discrete(2), MultiDiscrete((2, 3)), Box(-1, 1, (3,)), MultiBinary((2,)), EVERY_SPACE):
        seen = []
        made = spaces(EVERY_SPACE, actions)

        def step(key, state, action, params, made=made, seen=seen):
            seen.append(jax.tree.map(lambda x: (x.shape, str(x.dtype)), action))
            return made.step(key, state, action, params)

        check_environment(made.replace(step=step))
        if actions == MultiDiscrete((2, 3)):
            assert seen == [((2,), "int32")]


def test_nothing_is_computed():
    def reset(key, params):
        jax.debug.callback(lambda: pytest.fail("computed"))
        return jnp.zeros(()), OBSERVATION

    check_environment(environment().replace(reset=reset, step=lambda *_: (0.0, OBSERVATION, 0, False, False, {})))


def test_the_names_of_metrics_are_sorted():
    assert metric_names(stepped(info={"metrics": {"won": False, "speed": 1.0}})) == ("speed", "won")
    assert metric_names(gaejax.auto_reset(stepped(info={"metrics": {"speed": 1.0}}))) == ("speed",)
    assert metric_names(stepped(info={"metrics": {}})) == metric_names(environment()) == ()


class Stranger:
    """An object with the methods of a Gymnasium environment."""

    unwrapped = reset = step = action_space = observation_space = None


class GymnaxLike:
    def step_env(self):
        pass


def test_objects_that_are_no_environment_are_refused_in_one_line():
    import gymnasium

    pythonic = "its step is ordinary Python, which JAX cannot compile"
    for stranger, words in (
        (None, "got None: make one with gaejax.make(name) or gaejax.Environment(...)"),
        ({}, "got a dict: make one with"),
        (3, "got a int: make one with"),
        ("CartPole-v1", "got a str: make it with gaejax.make('CartPole-v1')"),
        (constant_reward, "got a function: call it, if it returns one"),
        (gymnasium.make("CartPole-v1"), f"got a gymnasium.wrappers.common.TimeLimit: {pythonic}"),
        (Stranger(), pythonic),
        (GymnaxLike(), "convert it with gaejax.environments.from_gymnax(environment, params)"),
    ):
        for check in (check_environment, check_is_environment, metric_names):
            with pytest.raises(TypeError) as caught:
                check(stranger)
            message = str(caught.value)
            assert "environment must be a gaejax.Environment, " in message and words in message, message
            assert "\n" not in message
