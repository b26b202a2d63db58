"""Trust regions: the Fisher matrix, conjugate gradients, what an accepted step keeps, the GAE paper's values."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import gaejax
from gaejax.algorithms import acting, collect, make_batch, training_environment
from gaejax.algorithms.trpo import TRPOConfig, measures, value_metric
from gaejax.algorithms.trust_region import conjugate_gradient, trust_region_step
from gaejax.estimators import ESTIMATORS
from gaejax.policies import actor_critic, mlp

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def small():
    """A rollout of a policy with few parameters, and its batch."""
    environment = gaejax.make("CartPole-v1")
    policy = actor_critic(environment, mlp((2,)), mlp((2,)))
    config, algorithm = TRPOConfig(num_envs=3, num_steps=40), gaejax.trpo(environment, policy)

    @jax.jit
    def collected():
        state = algorithm.init(KEY, config)
        state = state._replace(params=jax.tree.map(lambda x: x + 0.3 * jax.random.normal(KEY, x.shape), state.params))
        act = acting(policy, state)
        experience = collect(KEY, training_environment(environment), policy, act, state, config)
        return state.params, make_batch(ESTIMATORS["decoupled_gae"], act, state, experience, config)

    return policy, *collected()


def products_with(matrix, params):
    """The rows of a matrix that is given as a function of vectors like `params`."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return jax.vmap(lambda vector: jax.flatten_util.ravel_pytree(matrix(unravel(vector)))[0])(jnp.eye(flat.size))


def test_the_hessian_of_the_divergence_is_the_fisher_matrix(small):
    """Products with it equal the mean outer product of the gradients of all actions' log-probabilities."""
    policy, params, batch = small
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def kl(params, old):
        return measures(policy, batch, (), old, params).kl

    @jax.jit
    def fisher_products(params):
        old = policy.apply(params, (), *batch[:2])[1]
        return products_with(jax.linearize(lambda params: jax.grad(kl)(params, old), params)[1], params)

    def log_probs(vector):
        return jax.nn.log_softmax(policy.apply(unravel(vector), (), *batch[:2])[1].logits)

    @jax.jit
    def explicit_fisher(flat):
        gradients = jax.jacobian(log_probs)(flat)  # [T, N, actions, parameters]
        weights = jnp.exp(log_probs(flat)) * batch.mask[..., None] / batch.mask.sum()
        return jnp.einsum("tna,tnap,tnaq->pq", weights, gradients, gradients)

    products, explicit = fisher_products(params), explicit_fisher(flat)
    assert jnp.abs(explicit).max() > 1e-2
    np.testing.assert_allclose(products, explicit, atol=1e-5)


def test_the_value_metric_is_that_of_the_gae_paper(small):
    policy, params, batch = small
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    products = jax.jit(lambda params: products_with(value_metric(policy, batch, (), params), params))(params)
    values = lambda vector: policy.apply(unravel(vector), (), *batch[:2])[2]  # noqa: E731
    gradients = jax.jit(jax.jacobian(values))(flat)[batch.mask]
    variance = np.mean((batch.values - batch.value_targets)[batch.mask] ** 2)
    explicit = gradients.T @ gradients / len(gradients) / variance
    np.testing.assert_allclose(products, explicit, rtol=1e-3, atol=1e-6)


def test_conjugate_gradients_solve_and_a_step_is_as_long_as_its_region():
    matrix = jax.random.normal(KEY, (6, 6))
    matrix = matrix @ matrix.T + jnp.eye(6)
    target = jax.random.normal(jax.random.key(1), (6,))
    solution = conjugate_gradient(lambda x: matrix @ x, target, 12)
    np.testing.assert_allclose(solution, np.linalg.solve(matrix, target), rtol=1e-3, atol=1e-4)
    assert not conjugate_gradient(lambda x: matrix @ x, jnp.zeros(6), 4).any()
    step = trust_region_step(target, lambda x: matrix @ x, jnp.float32(0.02), damping=0.0, num_steps=12)
    np.testing.assert_allclose(step @ matrix @ step / 2, 0.02, rtol=1e-4)
    assert step @ target < 0


@pytest.mark.parametrize("shared", [False, True])
def test_no_step_leaves_its_region_or_makes_the_surrogate_worse(shared):
    """Two seeds in one call, 15 updates; where actor and critic share a body, the critic's steps keep to it too."""
    environment = gaejax.make("CartPole-v1")
    algorithm = gaejax.trpo(environment, gaejax.mlp_policy(environment, (16,), shared=shared))
    config = TRPOConfig(num_envs=4, num_steps=64, max_kl=0.005)
    keys = jax.random.split(KEY, 2)
    _, info = jax.jit(jax.vmap(lambda key: gaejax.train(algorithm, key, config, 15 * 256)))(keys)
    assert np.all(info.approx_kl <= 0.005 * (1 + 1e-5))
    assert np.all(info.extra["surrogate_gain"] >= 0)
    steps = info.extra["policy_step"]
    assert np.mean(steps > 0) > 0.8
    assert np.all(info.extra["surrogate_gain"][steps > 0] > 0)
    assert np.all((info.approx_kl > 1e-4)[steps == 1])


def test_a_step_that_is_not_a_number_is_refused_and_changes_nothing():
    environment = gaejax.make("CartPole-v1")
    broken = lambda *, values, **_: (jnp.full_like(values, jnp.nan), values)  # noqa: E731
    algorithm = gaejax.trpo(environment, gaejax.mlp_policy(environment, (4,)), estimator=broken)
    state = algorithm.init(KEY, TRPOConfig(num_envs=2, num_steps=8))
    following, info = jax.jit(algorithm.step)(state)
    assert info.extra["policy_step"] == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, following.params)
