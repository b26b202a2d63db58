"""Tiny environments whose optimal values are known, in the manner of Andy Jones's probes."""

import jax
import jax.numpy as jnp

import gaejax
from gaejax.policies import expected_values
from gaejax.rollout import with_last
from gaejax.testing.policies import draw


def constant_reward(limit=5):
    """Pays 1 a step for ever; episodes are only ever cut. Every state is worth 1 / (1 - discount)."""

    def reset(key, params):
        return jnp.zeros((), jnp.int32), jnp.ones(1)

    def step(key, state, action, params):
        state = state + 1
        return state, jnp.ones(1), jnp.float32(1), jnp.bool_(False), state >= limit, {}

    return gaejax.Environment("constant", reset, step, gaejax.Box(0, 1, (1,)), gaejax.Discrete(2))


def forced_actions(period=3):
    """Pays for action 1, but every `period`-th action is forced to 0 (as a prompt's tokens are): not trainable."""

    def reset(key, params):
        return jnp.zeros((), jnp.int32), jnp.zeros(1)

    def step(key, state, action, params):
        forced = state % period == 0
        reward = jnp.where(forced, 100.0, (action == 1).astype(jnp.float32))
        state = state + 1
        ends = state >= 4 * period
        return state, (state % period)[None] / period, reward, ends, jnp.bool_(False), {"trainable": ~forced}

    return gaejax.Environment("forced", reset, step, gaejax.Box(0, 1, (1,)), gaejax.Discrete(2))


def spaces(observation_space, action_space, name="drawn"):
    """An endless environment of any spaces, whose observations are drawn anew at every step."""

    def reset(key, params):
        return jnp.zeros((), jnp.int32), draw(key, observation_space, ())

    def step(key, state, action, params):
        return state + 1, draw(key, observation_space, ()), jnp.float32(0), jnp.bool_(False), state >= 6, {}

    return gaejax.Environment(name, reset, step, observation_space, action_space)


def remembered_reward(limit=5):
    """Pays + or - 1 a step for ever, which only the first observation shows; episodes are only ever cut. Every state is
    worth that reward / (1 - discount), to whoever remembers it."""

    def reset(key, params):
        reward = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return (reward, jnp.zeros((), jnp.int32)), jnp.stack([reward, 1.0])

    def step(key, state, action, params):
        reward, time = state
        return (reward, time + 1), jnp.array([0.0, 1.0]), reward, jnp.bool_(False), time + 1 >= limit, {}

    return gaejax.Environment("remembered", reset, step, gaejax.Box(-1, 1, (2,)), gaejax.Discrete(2))


def values_of(act, trajectory):
    """The critic's values of every step and of its successor, each `[T, N]`."""
    values = expected_values(act(trajectory.initial_carry, *with_last(trajectory))[2])
    return values[:-1], values[1:]
