"""Rollouts: what a row shows, which episodes are counted, and that a policy with memory passes through them whole."""

import jax
import jax.numpy as jnp
import numpy as np
from probes import values_of
from test_environments import counter

import gaejax
from gaejax.distributions import Categorical
from gaejax.rollout import init_rollout, rollout


def remembering_policy():
    """Its memory is the sum of the episode's observations; its value is that memory, its logits too."""

    def apply(params, carry, observations, resets):
        def step(memory, inputs):
            observation, reset = inputs
            memory = jnp.where(reset, 0, memory) + observation[:, 0]
            return memory, memory

        carry, memories = jax.lax.scan(step, carry, (observations, resets))
        return carry, Categorical(params["w"] * jnp.stack([memories, -memories], -1)), params["v"] * memories

    init = lambda key: {"w": jnp.float32(0.1), "v": jnp.float32(1)}  # noqa: E731
    return gaejax.Policy(init, jnp.zeros, apply)


def bound(policy, params):
    return lambda *batch: policy.apply(params, *batch)


def collect(limit=3, num_steps=9, rows=2, rollouts=1):
    environment, policy = gaejax.auto_reset(counter(limit)), remembering_policy()
    act = bound(policy, policy.init(None))
    state = init_rollout(jax.random.key(0), environment, environment.params, policy.initial_carry(rows), rows)
    run = jax.jit(lambda key, state: rollout(key, environment, environment.params, act, state, num_steps))
    parts = []
    for index in range(rollouts):
        state, trajectory, episodes = run(jax.random.key(index), state)
        parts.append((trajectory, episodes))
    return act, state, parts


def test_rows_flags_and_episode_statistics():
    _, state, [(trajectory, episodes)] = collect()
    np.testing.assert_array_equal(trajectory.observations[:, 0, 0], [0, 1, 2, 3, 0, 1, 2, 3, 0])
    np.testing.assert_array_equal(trajectory.resets[:, 0], [1, 0, 0, 0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(trajectory.mask[:, 0], [1, 1, 1, 0, 1, 1, 1, 0, 1])
    np.testing.assert_array_equal(trajectory.truncated[:, 0], [0, 0, 1, 0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(trajectory.rewards[:, 0], [1, 1, 1, 0, 1, 1, 1, 0, 1])
    assert not trajectory.last_reset.any() and np.all(trajectory.last_observation == 1)
    assert (episodes.count, episodes.return_sum, episodes.length_sum) == (4, 12, 12)
    np.testing.assert_array_equal(state.episode_length, [1, 1])


def test_episodes_are_counted_across_rollouts():
    """Two rollouts of five steps are one of ten, whatever is cut."""
    _, _, parts = collect(num_steps=5, rollouts=2)
    _, _, [(whole, whole_episodes)] = collect(num_steps=10)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), parts[0][0].observations, parts[1][0].observations)
    np.testing.assert_array_equal(joined, whole.observations)
    assert whole_episodes == jax.tree.map(lambda first, second: first + second, parts[0][1], parts[1][1])


def test_the_value_of_a_successor_is_the_next_rows_memory_included():
    """The final observation is valued with the memory that led there, not with an empty one (3 instead of 0+1+2+3)."""
    act, _, [(trajectory, _)] = collect()
    values, next_values = values_of(act, trajectory)
    np.testing.assert_array_equal(values[:, 0], [0, 1, 3, 6, 0, 1, 3, 6, 0])
    np.testing.assert_array_equal(next_values[:, 0], [1, 3, 6, 0, 1, 3, 6, 0, 1])
    truncated = np.asarray(trajectory.truncated[:, 0])
    np.testing.assert_array_equal(np.asarray(next_values[:, 0])[truncated], [6, 6])


def test_memory_is_carried_from_one_rollout_to_the_next():
    act, _, parts = collect(num_steps=5, rollouts=3)
    _, _, [(whole, _)] = collect(num_steps=15)
    cut = jnp.concatenate([values_of(act, trajectory)[0] for trajectory, _ in parts])
    np.testing.assert_array_equal(cut, values_of(act, whole)[0])


def test_stored_log_probs_are_those_of_the_stored_actions():
    act, _, [(trajectory, _)] = collect()
    _, distributions, _ = act(trajectory.initial_carry, trajectory.observations, trajectory.resets)
    np.testing.assert_array_equal(distributions.log_prob(trajectory.actions), trajectory.log_probs)


def test_an_unbounded_action_keeps_its_own_log_probability():
    """What is clipped at the environment's edge is stored, and judged, as the policy sampled it."""
    environment = gaejax.auto_reset(gaejax.make("Pendulum-v1"))
    policy = gaejax.mlp_policy(environment)
    act = bound(policy, policy.init(jax.random.key(0)))
    state = init_rollout(jax.random.key(1), environment, environment.params, (), 64)
    _, trajectory, _ = rollout(jax.random.key(2), environment, environment.params, act, state, 4)
    assert np.abs(trajectory.actions).max() > 1.5
    _, distributions, _ = act((), trajectory.observations, trajectory.resets)
    np.testing.assert_allclose(distributions.log_prob(trajectory.actions), trajectory.log_probs, atol=1e-6)
