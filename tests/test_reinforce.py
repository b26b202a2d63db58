"""REINFORCE and its baselines, and what the four errors of the usual first lesson cost."""

import jax
import jax.numpy as jnp
import numpy as np

import gaejax
from gaejax.algorithms.reinforce import time_baseline, without_baseline

GAMMA, LAMBDA = 0.99, 0.95


def lesson_advantages(rewards, values, *, mixed):
    """The recursion as the lesson has it: from `reward - value` (error 1), with `(1 - lambda)` mixed in (error 2)."""
    advantages, following = [], 0.0
    for reward, value in zip(rewards[::-1], values[::-1], strict=True):
        following = reward - value + GAMMA * LAMBDA * (1 - LAMBDA if mixed else 1) * following
        advantages.append(following)
    return np.array(advantages[::-1])


def endless(steps=20):
    """Reward 1 for ever, and the value that is exactly right, 100; the rollout is cut."""
    ones = np.ones(steps, np.float32)
    return dict(
        rewards=ones,
        values=100 * ones,
        next_values=100 * ones,
        terminated=np.zeros(steps, bool),
        truncated=np.zeros(steps, bool),
        discount=GAMMA,
    )


def test_error_1_a_right_critic_leaves_no_advantage_but_reward_minus_value_does():
    steps = endless()
    np.testing.assert_allclose(gaejax.gae(**steps, gae_lambda=LAMBDA)[0], 0, atol=1e-4)
    wrong = lesson_advantages(steps["rewards"], steps["values"], mixed=False)
    np.testing.assert_allclose(wrong[[0, -1]], [-1176.0, -99], rtol=1e-3)  # every action looks like a catastrophe


def test_error_2_with_one_minus_lambda_mixed_in_a_reward_ten_steps_away_is_lost():
    """A reward behind ten steps, values 0: its weight at the first is (gamma lambda)^10 = .54; as the lesson has it
    (gamma lambda (1 - lambda))^10, 5e-14, and at lambda 1 nothing."""
    rewards = np.zeros(11, np.float32)
    rewards[-1] = 1
    steps = endless(11) | dict(rewards=rewards, values=0 * rewards, next_values=0 * rewards)
    np.testing.assert_allclose(gaejax.gae(**steps, gae_lambda=LAMBDA)[0][0], 0.5415, rtol=1e-3)
    assert lesson_advantages(rewards, 0 * rewards, mixed=True)[0] < 1e-12


def test_error_3_a_probability_is_no_value():
    """A policy's output lies in [0, 1] whatever the state is worth: as a baseline it leaves nearly all of the variance
    that the value removes, here that of the lengths of episodes."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 100, 1000)  # what 1000 states are worth
    returns = values + rng.normal(size=1000)
    outputs = rng.uniform(0.3, 0.7, 1000)
    assert np.var(returns - values) < 1.2 < 800 < np.var(returns - outputs)


def test_error_4_sigmoids_are_no_distribution_and_their_gradient_is_another():
    """Two outputs, action 0 drawn. The probability of drawing it from the normalized sigmoids is not what the lesson
    takes the logarithm of; its gradient pushes action 0 alone, the right one pushes action 1 down as much."""
    outputs = jnp.array([1.0, -0.5])
    np.testing.assert_allclose(jax.nn.sigmoid(outputs).sum(), 1.1086, rtol=1e-4)
    wrong = jax.grad(lambda x: jnp.log(jax.nn.sigmoid(x[0])))(outputs)
    right = jax.grad(lambda x: gaejax.distributions.Categorical(x).log_prob(jnp.int32(0)))(outputs)
    np.testing.assert_allclose(wrong, [0.2689, 0], atol=1e-4)
    np.testing.assert_allclose(right, [0.1824, -0.1824], atol=1e-4)


def test_without_a_baseline_it_is_the_reward_to_come():
    steps = endless(4) | dict(rewards=np.array([1, 2, 3, 4], np.float32), discount=0.5)
    steps["terminated"] = np.array([False, True, False, False])
    advantages, targets = without_baseline(**steps, mask=np.ones(4, bool))
    np.testing.assert_allclose(advantages, [2, 2, 5, 4])
    np.testing.assert_allclose(targets, advantages)


def test_a_time_baseline_is_the_mean_of_the_steps_of_one_number():
    rewards = jnp.array([[1.0, 3.0], [1.0, 5.0], [7.0, 100.0]])
    mask = jnp.array([[True, True], [True, True], [True, False]])
    steps = dict(values=0 * rewards, next_values=0 * rewards, discount=1.0, mask=mask)
    ends = jnp.array([[False, False], [True, True], [True, False]])
    numbers = jnp.array([[0, 0], [1, 1], [0, 2]])
    advantages, returns = time_baseline(
        rewards=rewards, terminated=ends, truncated=ends & False, episode_steps=numbers, **steps
    )
    np.testing.assert_allclose(returns[:2], [[2, 8], [1, 5]])
    first = (2 + 8 + 7) / 3
    np.testing.assert_allclose(advantages[:2], [[2 - first, 8 - first], [1 - 3, 5 - 3]], rtol=1e-6)


def test_each_baseline_learns_what_pays():
    """One step, action 1 pays 1 and action 0 pays .5: also without a baseline, from whole episodes."""

    def step(key, state, action, params):
        return state, jnp.ones(1), 0.5 + 0.5 * action, jnp.bool_(True), jnp.bool_(False), {}

    box = gaejax.Box(0, 1, (1,))
    environment = gaejax.Environment("pays", lambda key, _: (0, jnp.ones(1)), step, box, gaejax.Discrete(2))
    config = gaejax.algorithms.ReinforceConfig(num_envs=8, num_steps=16, learning_rate=0.02)

    def late_return(baseline):
        algorithm = gaejax.reinforce(environment, gaejax.mlp_policy(environment, ()), baseline=baseline)
        return jax.jit(lambda key: gaejax.train(algorithm, key, config, 40_000))(jax.random.key(0))[1].episode_return[
            -1
        ]

    for baseline in ("value", "time", "none"):
        assert late_return(baseline) > 0.95
    default = gaejax.reinforce(environment).init(jax.random.key(0), config).params
    assert default["actor"]["params"]["Dense_0"]["kernel"].shape == (1, 128)
