"""The law of policies, for every body and every head; and that what breaks it is told how to mend it."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import print_saved_residuals
from probes import spaces

import gaejax
from gaejax.distributions import Categorical, DiagonalGaussian, ValueBins
from gaejax.environments import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gaejax.environments.spaces import zeros
from gaejax.policies import (
    Policy,
    actor_critic,
    chain,
    cnn,
    gru,
    linear_recurrent,
    make_policy,
    mlp,
    parallel,
    recurrent,
    skip,
    transformer,
    truncated_backpropagation,
)
from gaejax.policies.layers import orthogonal
from gaejax.testing import check_policy
from gaejax.testing.policies import NUM_ROWS, NUM_STEPS

VECTOR, IMAGE, CELL = Box(-np.inf, np.inf, (5,)), Box(0, 1, (5, 4, 2)), Discrete(6)
SENSES = Dict({"image": IMAGE, "cell": CELL, "choices": MultiDiscrete((2, 3)), "switches": MultiBinary((2,))})
MASKED = Dict({"vector": VECTOR, "action_mask": MultiBinary((3,))})


class NNXCell(nnx.Module):
    """A recurrent cell as nnx has them."""

    def __init__(self, size, rngs):
        self.cell = nnx.GRUCell(5, size, rngs=rngs)

    def __call__(self, state, inputs):
        return self.cell(state, inputs)


def nnx_body(size=8):
    structure, _ = nnx.split(nnx.eval_shape(lambda: NNXCell(size, nnx.Rngs(0))))

    def init(key, inputs):
        return nnx.state(NNXCell(size, nnx.Rngs(key)))

    def step(params, state, inputs):
        return nnx.merge(structure, params)(state, inputs)

    return recurrent(init, step, lambda batch: jnp.zeros((batch, size)))


def equinox_body(size=8):
    import equinox

    def init(key, inputs):
        return equinox.filter(equinox.nn.GRUCell(5, size, key=key), equinox.is_array)

    blank = equinox.nn.GRUCell(5, size, key=jax.random.key(0))

    def step(params, state, inputs):
        cell = equinox.combine(params, equinox.filter(blank, equinox.is_array, inverse=True))
        state = jax.vmap(cell)(inputs, state)
        return state, state

    return recurrent(init, step, lambda batch: jnp.zeros((batch, size)))


def hand_written_body():
    """A memory of two functions: the running sum of the inputs."""

    def step(params, state, inputs):
        state = state + inputs
        return state, jnp.tanh(params["weight"] * state)

    return recurrent(lambda key, inputs: {"weight": jnp.ones(5)}, step, lambda batch: jnp.zeros((batch, 5)))


BODIES = {
    "mlp": (mlp((8,)), VECTOR),
    "mlp on integers": (mlp((8,)), CELL),
    "mlp on a dict": (mlp((8,)), SENSES),
    "cnn": (cnn(3, hidden_sizes=(8,)), IMAGE),
    "parallel": (chain(parallel({"image": cnn(2, hidden_sizes=(4,)), "cell": mlp((4,))}), gru(8)), SENSES),
    "gru": (chain(mlp((8,)), skip(gru(8))), VECTOR),
    "gru with remat": (gru(8, remat=True), VECTOR),
    "linear_recurrent": (linear_recurrent(8), VECTOR),
    "transformer": (transformer(8, 2, 2, context=4), VECTOR),
    "transformer, rotary, remat": (transformer(8, 1, 2, context=7, positions="rotary", remat=True), VECTOR),
    "transformer that sees all": (transformer(8, 1, 2, context=32), CELL),
    "truncated backpropagation": (truncated_backpropagation(gru(8), 3), VECTOR),
    "flax nnx": (nnx_body(), VECTOR),
    "equinox": (equinox_body(), VECTOR),
    "two functions": (hand_written_body(), VECTOR),
}


@pytest.mark.parametrize("name", BODIES)
def test_every_body_obeys_the_law(name):
    """Cut anywhere, warm, with resets anywhere; rows apart; what was before a reset is gone, its gradient exactly 0."""
    body, space = BODIES[name]
    report = check_policy(actor_critic(spaces(space, Discrete(3)), body))
    assert report.passed, report


HEADS = {
    "discrete": (Discrete(3), VECTOR, {}),
    "multi-discrete": (MultiDiscrete((2, 3)), VECTOR, {}),
    "gaussian": (Box(-1, 1, (2,)), VECTOR, {}),
    "tanh-gaussian": (Box(-1, 1, (2,)), VECTOR, dict(squash=True)),
    "masked": (Discrete(3), MASKED, {}),
    "masked multi-discrete": (MultiDiscrete((1, 2)), MASKED, {}),
    "lazy": (Discrete(7), VECTOR, dict(logits_chunk=5)),
    "histogram of values": (Discrete(3), VECTOR, dict(value_bins=ValueBins(-3, 3))),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_obeys_the_law(name):
    actions, observations, options = HEADS[name]
    report = check_policy(actor_critic(spaces(observations, actions), gru(8), **options))
    assert report.passed, report


def test_an_asymmetric_critic_sees_what_the_actor_does_not():
    both = Dict({"seen": Box(-1, 1, (2,)), "hidden": Box(-1, 1, (2,))})
    environment = spaces(both, Discrete(3))
    policy = actor_critic(environment, gru(8), gru(8), actor_observations=["seen"])
    assert check_policy(policy).passed
    params, resets = jax.jit(policy.init)(jax.random.key(0)), jnp.zeros((4, 2), bool)
    seen = jax.random.normal(jax.random.key(1), (4, 2, 2))

    @jax.jit
    def act(hidden):
        _, distributions, values = policy.apply(
            params, policy.initial_carry(2), {"seen": seen, "hidden": hidden}, resets
        )
        return distributions.logits, values

    (logits, values), (other_logits, other_values) = act(seen), act(-seen)
    np.testing.assert_array_equal(logits, other_logits)
    assert np.all(values != other_values)


def test_memory_tells_two_histories_apart_and_a_reset_makes_them_one():
    for body in (gru(8), linear_recurrent(8), transformer(8, 1, 2, 8)):
        policy = actor_critic(spaces(VECTOR, Discrete(3)), body)
        params = jax.jit(policy.init)(jax.random.key(0))
        observations = jax.random.normal(jax.random.key(1), (4, 2, 5)).at[-1].set(1.0)
        for resets, same in ((jnp.zeros((4, 2), bool), False), (jnp.zeros((4, 2), bool).at[-1].set(True), True)):
            values = jax.jit(policy.apply)(params, policy.initial_carry(2), observations, resets)[2][-1]
            assert (abs(float(values[0] - values[1])) < 1e-6) is same


# Policies with the mistakes that people make, and the words that must be among the report's.


def faulty(apply, init=lambda key: {"w": jnp.full(5, 0.3)}, initial_carry=lambda batch: jnp.zeros((batch, 5))):
    """A policy whose features are `apply(params, carry, observations, resets) -> (carry, [T, N, 5])`."""

    def policy(params, carry, observations, resets):
        carry, features = apply(params, carry, observations, resets)
        return carry, Categorical(params["w"] * features), features[..., 0]

    return Policy(init, initial_carry, policy, VECTOR)


def sums(clear):
    """The sum of the observations, where `clear(carry, following, reset, t)` says what a step starts from."""

    def apply(params, carry, observations, resets):
        def step(carry, now):
            observation, reset, t = now
            before, after = clear(carry, reset[:, None], t)
            following = jnp.tanh(before + observation)
            return jnp.where(after, 0, following), following

        return jax.lax.scan(step, carry, (observations, resets, jnp.arange(resets.shape[0])))

    return faulty(apply)


def whole_row_attention(params, carry, observations, resets):
    weights = jax.nn.softmax(jnp.einsum("tnd,snd->nts", observations, observations))
    return carry, jnp.einsum("nts,snd->tnd", weights, observations)


def batch_norm(params, carry, observations, resets):
    return carry, (observations - observations.mean(axis=1, keepdims=True)) / observations.std(axis=1, keepdims=True)


def hidden_memory(params, carry, observations, resets):
    return carry, jnp.cumsum(observations, axis=0)


def multiplied(params, carry, observations, resets):
    def step(carry, now):
        observation, reset = now
        carry = jnp.tanh(carry * ~reset[:, None] + observation)
        return carry, carry

    return jax.lax.scan(step, carry, (observations, resets))


right = sums(lambda carry, reset, t: (jnp.where(reset, 0, carry), False))
FAULTS = {
    "resets are ignored": (sums(lambda carry, reset, t: (carry, False)), "clear the carry where resets[t]"),
    "cleared behind the step": (sums(lambda carry, reset, t: (carry, reset)), "cleared one step late"),
    "cleared at a call's start only": (
        sums(lambda carry, reset, t: (jnp.where(reset & (t == 0), 0, carry), False)),
        "clear the carry where resets[t]",
    ),
    "a product in place of a selection": (faulty(multiplied), "select with jnp.where, for 0 times NaN is NaN"),
    "attention sees the future": (faulty(whole_row_attention), "step t must not see later steps"),
    "a statistic over rows": (faulty(batch_norm), "environments must not affect each other"),
    "a memory outside of the carry": (faulty(hidden_memory), "must be in the carry"),
    "the carry of one call only": (
        faulty(lambda params, carry, *batch: (jnp.zeros_like(carry), right.apply(params, carry, *batch)[1].logits)),
        "must be in the carry",
    ),
    "no axis of rows": (faulty(hidden_memory, initial_carry=lambda batch: jnp.zeros(5)), "must be the environments"),
    "another type of carry": (
        faulty(lambda params, carry, x, resets: (carry.astype(jnp.float16), x)),
        "structure, shapes and types of initial_carry",
    ),
    "a value with an axis too many": (
        Policy(
            right.init, right.initial_carry, lambda *a: (*right.apply(*a)[:2], right.apply(*a)[2][..., None]), VECTOR
        ),
        "drop the last axis of a value head",
    ),
    "an exception": (faulty(lambda *_: 1 / 0), "ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_policy_is_told_how_to_mend_it_in_one_line(name):
    policy, words = FAULTS[name]
    report = check_policy(policy)
    assert not report.passed and words in str(report) and "\n" not in str(report), report


def test_a_right_policy_of_two_functions_passes():
    assert check_policy(right).passed
    observations = jax.random.normal(jax.random.key(0), (NUM_STEPS, NUM_ROWS, 5))
    assert check_policy(right._replace(observation_space=None), observations).passed
    with pytest.raises(ValueError, match=r"check_policy needs observations \[12, 4, ...\]"):
        check_policy(right._replace(observation_space=None))
    with pytest.raises(ValueError, match=r"observations must be \[12, 4, ...\]"):
        check_policy(right, observations[1:])


# Options of the actor-critic.


def count(text, policy, steps=4):
    """How often `text` occurs in the lowered `apply`."""
    params = jax.eval_shape(policy.init, jax.random.key(0))
    carry = jax.eval_shape(lambda: policy.initial_carry(2))
    shapes = jax.ShapeDtypeStruct((steps, 2, 5), jnp.float32), jax.ShapeDtypeStruct((steps, 2), bool)
    return jax.jit(policy.apply).lower(params, carry, *shapes).as_text().count(text)


@pytest.mark.parametrize("body", [mlp((8,)), gru(8), linear_recurrent(8), transformer(8, 1, 2, 4)])
def test_products_are_in_bfloat16_where_that_is_asked_for(body):
    environment = spaces(VECTOR, Discrete(3))
    half, full = (actor_critic(environment, body, compute_dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
    assert count("bf16", full) == 0
    assert count("xbf16>, tensor", half) > 0  # operands of products


def test_all_but_the_products_is_float32():
    environment = spaces(VECTOR, Discrete(3))
    half, full = (actor_critic(environment, gru(8), compute_dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
    params = jax.jit(half.init)(jax.random.key(0))
    inputs = half.initial_carry(2), jnp.ones((3, 2, 5)), jnp.zeros((3, 2), bool)
    outputs = jax.jit(half.apply)(params, *inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, outputs))} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    report = check_policy(half, tolerance=0.03)
    assert report.passed, report
    expected = jax.jit(full.apply)(params, *inputs)
    np.testing.assert_allclose(outputs[2], expected[2], atol=0.1)


@pytest.mark.parametrize("make", [lambda remat: gru(32, remat), lambda remat: transformer(32, 3, 2, 8, remat=remat)])
def test_remat_changes_what_is_kept_for_the_gradient_not_the_gradient(make, capsys):
    inputs, resets = jax.random.normal(jax.random.key(0), (64, 4, 5)), jnp.zeros((64, 4), bool)
    gradients, kept = [], []
    for remat in (False, True):
        body = make(remat)

        def loss(params, body=body):
            return jnp.sum(body.apply(params, body.initial_carry(4), inputs, resets)[1] ** 2)

        params = jax.jit(body.init)(jax.random.key(1), inputs)
        gradients.append(jax.jit(jax.grad(loss))(params))
        print_saved_residuals(loss, params)
        shapes = re.findall(r"^f32\[([\d,]*)\]", capsys.readouterr().out, re.MULTILINE)
        kept.append(sum(math.prod(map(int, filter(None, shape.split(",")))) for shape in shapes))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *gradients)
    assert kept[1] < 0.6 * kept[0]


def test_backpropagation_is_cut_but_memory_is_not():
    body, cut = gru(4), truncated_backpropagation(gru(4), 3)
    inputs, resets = jax.random.normal(jax.random.key(0), (8, 2, 5)), jnp.zeros((8, 2), bool)
    params = jax.jit(body.init)(jax.random.key(1), inputs)

    def last(body):
        outputs = lambda inputs: jnp.sum(body.apply(params, body.initial_carry(2), inputs, resets)[1][-1])  # noqa: E731
        return jax.jit(jax.value_and_grad(outputs))(inputs)

    (output, whole), (same, part) = last(body), last(cut)
    np.testing.assert_allclose(output, same, rtol=1e-6)
    whole, part = (np.abs(gradient).max(axis=(1, 2)) for gradient in (whole, part))
    assert np.all(whole > 0)
    assert np.all(part[:6] == 0) and np.all(part[6:] > 0)


def test_options_by_name():
    environment = gaejax.make("Breakout-MinAtar")
    for options in (dict(encoder="cnn", hidden_sizes=(16,)), dict(memory="gru", shared=True), {}):
        policy = make_policy(environment, **options)
        params = jax.eval_shape(policy.init, jax.random.key(0))
        shape = jax.eval_shape(lambda: policy.initial_carry(3))  # noqa: B023
        observations = jax.ShapeDtypeStruct((2, 3, *environment.observation_space.shape), jnp.float32)
        _, _, values = jax.eval_shape(policy.apply, params, shape, observations, jax.ShapeDtypeStruct((2, 3), bool))
        assert values.shape == (2, 3) and bool(jax.tree.leaves(shape)) is ("memory" in options)


def test_the_first_policy_is_nearly_uniform_and_the_critic_nearly_separate():
    environment = gaejax.make("CartPole-v1")
    policy = gaejax.mlp_policy(environment)
    params = jax.jit(policy.init)(jax.random.key(0))
    observations = jax.random.normal(jax.random.key(1), (1, 100, 4))

    def total_value(params):
        _, distributions, values = policy.apply(params, (), observations, jnp.zeros((1, 100), bool))
        return values.sum(), distributions.logits

    gradient, logits = jax.jit(jax.grad(total_value, has_aux=True))(params)
    np.testing.assert_allclose(jax.nn.softmax(logits), 0.5, atol=0.02)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient["actor"]))


SPACES = {
    "CartPole-v1": Categorical,
    "Pendulum-v1": DiagonalGaussian,
    "FrozenLake-misc": Categorical,
    "FourRooms-misc": Categorical,
    "Breakout-MinAtar": Categorical,
    "Reacher-misc": DiagonalGaussian,
}


@pytest.mark.parametrize("name", SPACES)
def test_fits_the_spaces_of_environments(name):
    environment = gaejax.make(name)
    policy = gaejax.mlp_policy(environment, hidden_sizes=(16, 8), shared=True)

    def act(key):
        keys = jax.random.split(key, 12)
        _, rows = jax.vmap(environment.reset, in_axes=(0, None))(keys, environment.params)
        observations = rows.reshape(4, 3, *rows.shape[1:])
        resets = jnp.zeros((4, 3), bool)
        carry, distributions, values = policy.apply(policy.init(key), policy.initial_carry(3), observations, resets)
        actions = distributions.sample(key)
        return carry, distributions, values, actions, distributions.log_prob(actions), distributions.entropy()

    carry, distributions, values, actions, log_probs, entropies = jax.jit(act)(jax.random.key(0))
    assert carry == () and isinstance(distributions, SPACES[name])
    assert actions.shape == (4, 3, *environment.action_space.shape)
    assert values.shape == log_probs.shape == entropies.shape == (4, 3)


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


# Bad input: one line that names the argument and the remedy.

DISCRETE, REAL = spaces(VECTOR, Discrete(3)), spaces(VECTOR, Box(-1, 1, (2,)))


def small_mask():
    return actor_critic(spaces(Dict({"vector": VECTOR, "action_mask": MultiBinary((2,))}), Discrete(3)), mlp((4,)))


def mask_of_another_shape():
    policy = actor_critic(spaces(MASKED, Discrete(3)), mlp((4,)))
    observations = {"vector": jnp.zeros((2, 3, 5)), "action_mask": jnp.ones((2, 3, 4), bool)}
    policy.apply(policy.init(jax.random.key(0)), (), observations, jnp.zeros((2, 3), bool))


def longer_memory_than_its_cache():
    short, long = (actor_critic(DISCRETE, transformer(8, 1, 2, context)) for context in (4, 16))
    long.apply(long.init(jax.random.key(0)), short.initial_carry(3), jnp.zeros((2, 3, 5)), jnp.zeros((2, 3), bool))


@pytest.mark.parametrize(
    "call, words",
    [
        (
            small_mask,
            "action_mask of drawn must be MultiBinary((3,)), one boolean per action, got MultiBinary(shape=(2,))",
        ),
        (mask_of_another_shape, "action_mask must have the shape of the logits, (2, 3, 3), got (2, 3, 4)"),
        (longer_memory_than_its_cache, "carry must hold 16 steps, the transformer's context, got 4: use this policy's"),
        (lambda: transformer(10, 1, 4), "size must be a multiple of 2 * num_heads = 8, got 10"),
        (lambda: transformer(8, context=0), "context of transformer must be at least 1, got 0"),
        (lambda: transformer(8, positions="sine"), "positions must be 'learned' or 'rotary', got 'sine'"),
        (lambda: gru(0), "size of gru must be at least 1, got 0"),
        (lambda: linear_recurrent(8, 0), "num_layers of linear_recurrent must be at least 1, got 0"),
        (lambda: truncated_backpropagation(gru(4), 0), "num_steps of truncated_backpropagation must be at least 1"),
        (lambda: mlp((64, 0)), "hidden_sizes must be positive integers, got (64, 0)"),
        (lambda: mlp((6.5,)), "hidden_sizes must be positive integers, got (6.5,)"),
        (lambda: mlp(activation="sigmoidal"), "activation must be one of tanh, relu"),
        (lambda: cnn(0), "channels and window must be positive integers, got (0, 3)"),
        (lambda: actor_critic(DISCRETE, cnn()).init(jax.random.key(0)), "the inputs of cnn must be images [H, W, C]"),
        (lambda: actor_critic(DISCRETE, mlp(), squash=True), "squash needs real actions, but the actions of drawn are"),
        (lambda: actor_critic(spaces(VECTOR, VECTOR), mlp(), squash=True), "squash needs actions with two finite"),
        (lambda: actor_critic(spaces(MASKED, VECTOR), mlp()), "drawn has an action_mask, but its actions are real"),
        (lambda: actor_critic(REAL, mlp(), logits_chunk=8), "logits_chunk must be at least 1, for one discrete action"),
        (lambda: actor_critic(DISCRETE, mlp(), value_bins=ValueBins(1, 0)), "value_bins must have low < high"),
        (lambda: actor_critic(DISCRETE, mlp(), actor_observations=["a"]), "actor_observations needs a Dict"),
        (lambda: actor_critic(spaces(SENSES, CELL), mlp(), actor_observations=["a"]), "must be among image, cell"),
        (lambda: actor_critic(spaces(SENSES, CELL), mlp(), critic_observations=["cell"]), "needs a critic_body"),
        (lambda: actor_critic(spaces(VECTOR, Box(-1, 1, ())), mlp()), "must be a Box with one axis, got shape ()"),
        (lambda: actor_critic(spaces(VECTOR, Box(-1, 1, (2, 2))), mlp()), "must be a Box with one axis"),
        (lambda: make_policy(DISCRETE, size=3), "policy has no option 'size'"),
        (lambda: make_policy(DISCRETE, memory="lstm"), "memory must be one of none, gru"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


# Sizes of 0, and numbers of 64 bits.

EMPTY = Box(-1, 1, (0,))


@pytest.mark.parametrize("name", ["mlp", "gru", "linear_recurrent", "transformer"])
def test_an_observation_of_size_0_changes_nothing(name):
    """The parameters, the features and the memory are those of a policy that does not get it."""
    bodies = dict(
        mlp=mlp((4,)), gru=gru(4), linear_recurrent=linear_recurrent(4, 1), transformer=transformer(4, 1, 2, 3)
    )
    results = []
    for nothing in ({}, {"b": EMPTY}, {"b": Box(-1, 1, (2, 0)), "c": MultiDiscrete(()), "d": Dict({"e": EMPTY})}):
        policy = actor_critic(spaces(Dict({"a": Box(-5, 5, (2,))} | nothing), Discrete(3)), bodies[name])
        observations = {"a": jax.random.normal(jax.random.key(1), (3, 2, 2))}
        for part, space in nothing.items():
            observations[part] = jax.tree.map(lambda x: jnp.zeros((3, 2, *x.shape), x.dtype), zeros(space))
        params = jax.jit(policy.init)(jax.random.key(0))
        output = jax.jit(policy.apply)(params, policy.initial_carry(2), observations, jnp.zeros((3, 2), bool))
        results.append(jax.tree.leaves((params, output)))
    for other in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, results[0], other)


def test_a_policy_may_have_no_inputs_at_all():
    report = check_policy(actor_critic(spaces(Box(-1, 1, (3, 0)), Discrete(3)), gru(4)))
    assert report.passed, report
    apart = parallel({"a": mlp((4,)), "b": mlp((4,))})
    masked = Dict({"a": EMPTY, "action_mask": MultiBinary((3,))})
    for space, body in ((EMPTY, mlp(())), (masked, mlp((4,))), (Dict({"a": VECTOR, "b": EMPTY}), apart)):
        policy = actor_critic(spaces(space, Discrete(3)), body)
        resets = jnp.zeros((2, 3), bool)
        observations = jax.tree.map(lambda x: jnp.zeros((2, 3, *x.shape), x.dtype), zeros(space))
        _, distributions, values = policy.apply(policy.init(jax.random.key(0)), (), observations, resets)
        assert values.shape == (2, 3) and distributions.logits.shape == (2, 3, 3)


@pytest.mark.parametrize("actions", [EMPTY, MultiDiscrete(())])
def test_an_action_space_without_actions_is_refused(actions):
    with pytest.raises(ValueError, match="action_space of drawn must have at least one action, got "):
        actor_critic(spaces(VECTOR, actions), mlp())


def test_a_dict_without_observations_is_refused():
    for space in (Dict({}), Dict({"inner": Dict({})}), Dict({"action_mask": MultiBinary((3,))})):
        with pytest.raises(ValueError, match="a Dict of observations must have one besides an action mask"):
            actor_critic(spaces(space, Discrete(3)), mlp())


@pytest.mark.parametrize("options", [{}, {"positions": "rotary"}, "gru", "linear_recurrent", "none"])
def test_every_memory_trains_with_64_bits_enabled(options):
    """Parameters and memories keep their 32 bits, so that a scan over training steps takes them."""
    with jax.enable_x64(True):
        environment = spaces(Dict({"vector": VECTOR, "cell": CELL}), Discrete(3))
        if isinstance(options, str):
            policy = make_policy(environment, memory=options, hidden_sizes=(4,), memory_size=4)
        else:
            policy = actor_critic(environment, transformer(4, 1, 2, context=3, **options))
        algorithm = gaejax.ppo(environment, policy)
        config = gaejax.PPOConfig(num_envs=2, num_steps=4, num_minibatches=1, num_epochs=1)
        state = algorithm.init(jax.random.key(0), config)
        following, _ = jax.jit(algorithm.step)(state)
        types = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]  # noqa: E731
        assert types(following) == types(state)
        kept = types((following.params, following.rollout.carry))
        assert set(map(str, kept)) <= {"float32", "int32"}
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(following.params))
