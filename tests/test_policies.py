"""The policy protocol on the MLP: any spaces, either body, and time that may be cut anywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_environments import counter

import gaejax
from gaejax.distributions import Categorical, DiagonalGaussian
from gaejax.policies.initializers import orthogonal

SPACES = {
    "CartPole-v1": Categorical,
    "Pendulum-v1": DiagonalGaussian,
    "FrozenLake-misc": Categorical,
    "FourRooms-misc": Categorical,
    "Breakout-MinAtar": Categorical,
    "Reacher-misc": DiagonalGaussian,
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("shared", [False, True])
def test_fits_the_spaces_and_time_may_be_cut_anywhere(name, shared):
    environment = gaejax.make(name)
    policy = gaejax.mlp_policy(environment, hidden_sizes=(16, 8), shared=shared)
    params = policy.init(jax.random.key(0))
    reset = jax.vmap(environment.reset, in_axes=(0, None))
    _, rows = reset(jax.random.split(jax.random.key(1), 12), environment.params)
    observations = rows.reshape(4, 3, *rows.shape[1:])
    resets = jnp.zeros((4, 3), bool)
    carry, distributions, values = policy.apply(params, policy.initial_carry(3), observations, resets)
    assert carry == () and values.shape == (4, 3)
    assert isinstance(distributions, SPACES[name])
    actions = distributions.sample(jax.random.key(2))
    assert actions.shape == (4, 3, *environment.action_space.shape)
    assert distributions.log_prob(actions).shape == distributions.entropy().shape == (4, 3)
    for t in range(4):
        _, one, value = policy.apply(params, (), observations[t : t + 1], resets[t : t + 1])
        np.testing.assert_allclose(value[0], values[t], atol=1e-6)
        np.testing.assert_allclose(one.mode()[0], distributions.mode()[t], atol=1e-6)


def test_the_first_policy_is_nearly_uniform_and_the_critic_nearly_separate():
    environment = gaejax.make("CartPole-v1")
    policy = gaejax.mlp_policy(environment)
    params = policy.init(jax.random.key(0))
    observations = jax.random.normal(jax.random.key(1), (1, 100, 4))
    _, distributions, _ = policy.apply(params, (), observations, jnp.zeros((1, 100), bool))
    np.testing.assert_allclose(jax.nn.softmax(distributions.logits), 0.5, atol=0.02)
    gradient = jax.grad(lambda p: policy.apply(p, (), observations, jnp.zeros((1, 100), bool))[2].sum())(params)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient["actor"]))


@pytest.mark.parametrize("shape", [(4, 64), (64, 64), (64, 3), (1, 8)])
def test_orthogonal_weights(shape):
    weights = orthogonal(2.0)(jax.random.key(0), shape)
    product = weights @ weights.T if shape[0] <= shape[1] else weights.T @ weights
    np.testing.assert_allclose(product, 4 * np.eye(min(shape)), atol=2e-5)


def test_orthogonal_weights_are_uniformly_distributed():
    """Entries of a uniform orthogonal matrix have mean 0, variance 1 / n, and any sign alike."""
    weights = jax.vmap(lambda key: orthogonal(1.0)(key, (5, 5)))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(weights.mean(axis=0), 0, atol=0.035)
    np.testing.assert_allclose(weights.var(axis=0), 0.2, atol=0.025)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(activation="sigmoidal"), "activation must be one of tanh, relu"),
        (dict(hidden_sizes=(64, 0)), "hidden_sizes must be positive integers, got (64, 0)"),
        (dict(hidden_sizes=(6.5,)), "hidden_sizes must be positive integers, got (6.5,)"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words):
    with pytest.raises(ValueError) as caught:
        gaejax.mlp_policy(counter(), **arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (2, 2)])
def test_real_actions_have_one_axis(shape):
    with pytest.raises(ValueError, match="action_space of counter must be a Box of one axis"):
        gaejax.mlp_policy(counter().replace(action_space=gaejax.Box(-1, 1, shape)))
