"""The recurrence and GAE: hand-computed values, a float64 forward view, boundaries, gradients, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gaejax
from gaejax.testing import reference_gae

STEPS, ROWS = 12, 3
jitted_gae = jax.jit(lambda arrays: gaejax.gae(**arrays))


def random_trajectory(seed, steps=STEPS, rows=ROWS, masked=True):
    rng = np.random.default_rng(seed)
    floats = {name: rng.normal(size=(steps, rows)).astype(np.float32) for name in ("rewards", "values", "next_values")}
    return dict(
        **floats,
        terminated=rng.random((steps, rows)) < 0.15,
        truncated=rng.random((steps, rows)) < 0.15,
        discount=np.float32(rng.uniform(0.8, 1)),
        gae_lambda=np.float32(rng.uniform(0, 1)),
        mask=rng.random((steps, rows)) < (0.7 if masked else 2),
    )


def oracle(trajectory, **changes):
    return reference_gae(**{**trajectory, **changes})[0]


def test_recurrence_by_hand():
    x = gaejax.reverse_linear_recurrence(jnp.array([1.0, 2.0, 3.0]), 0.5, jnp.array(4.0))
    np.testing.assert_array_equal(x, [1 + 0.5 * 4.5, 2 + 0.5 * 5, 3 + 0.5 * 4])
    reset = jnp.array([False, True, False])
    x = gaejax.reverse_linear_recurrence(jnp.array([1.0, 2.0, 3.0]), 0.5, jnp.array(4.0), reset=reset)
    np.testing.assert_array_equal(x, [2, 2, 5])


def test_gae_by_hand():
    """Three steps, the second truncated: gamma .5, lambda .5."""
    advantages, targets = gaejax.gae(
        rewards=jnp.array([1.0, 1.0, 1.0]),
        values=jnp.array([2.0, 4.0, 6.0]),
        next_values=jnp.array([4.0, 8.0, 2.0]),
        terminated=jnp.array([False, False, True]),
        truncated=jnp.array([False, True, False]),
        discount=0.5,
        gae_lambda=0.5,
    )
    deltas = np.array([1 + 0.5 * 4 - 2, 1 + 0.5 * 8 - 4, 1 + 0 - 6])
    np.testing.assert_array_equal(advantages, [deltas[0] + 0.25 * deltas[1], deltas[1], deltas[2]])
    np.testing.assert_array_equal(targets, np.asarray(advantages) + [2, 4, 6])


def test_interior_masked_steps_are_passed_over():
    """Tool tokens between response tokens (lambda .9, terminal reward 1), with and without rewards of their own."""
    for tool_reward in (0.0, -0.3, 5.0, np.nan):
        advantages, _ = gaejax.gae(
            rewards=jnp.array([0, 0, tool_reward, tool_reward, 1.0]),
            values=jnp.array([0.2, 0.4, 5.0, np.nan, 0.6]),
            next_values=jnp.array([0.4, 5.0, np.nan, 0.6, np.inf]),
            terminated=jnp.array([False] * 4 + [True]),
            truncated=jnp.zeros(5, bool),
            discount=1.0,
            gae_lambda=0.9,
            mask=jnp.array([True, True, False, False, True]),
        )
        np.testing.assert_allclose(np.asarray(advantages)[[0, 1, 4]], [0.704, 0.560, 0.400], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_equals_the_float64_forward_view(seed):
    trajectory = random_trajectory(seed)
    advantages, targets = jitted_gae(trajectory)
    np.testing.assert_allclose(advantages, oracle(trajectory), atol=2e-5)
    kept = trajectory["mask"]
    np.testing.assert_allclose(np.asarray(targets)[kept], (oracle(trajectory) + trajectory["values"])[kept], atol=2e-5)
    assert np.all(np.asarray(targets)[~kept] == 0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_equals_the_forward_view_with_per_step_discounts_and_lambdas(seed):
    rng = np.random.default_rng(seed)
    trajectory = random_trajectory(seed)
    for name, shape in (("discount", (STEPS, 1)), ("gae_lambda", (STEPS, ROWS))):
        trajectory[name] = rng.uniform(0, 1, shape).astype(np.float32)
    np.testing.assert_allclose(jitted_gae(trajectory)[0], oracle(trajectory), atol=2e-5)


def test_without_a_mask_the_next_values_are_the_callers():
    trajectory = random_trajectory(0, masked=False)
    masked, _ = gaejax.gae(**trajectory)  # an all-true mask reads the next row's value, except at boundaries
    del trajectory["mask"]
    explicit, _ = gaejax.gae(**trajectory)
    np.testing.assert_allclose(explicit, oracle(trajectory), atol=1e-5)
    assert np.abs(masked - explicit).max() > 0.1
    trajectory["next_values"][:-1] = np.where(
        trajectory["truncated"][:-1], trajectory["next_values"][:-1], trajectory["values"][1:]
    )
    explicit, _ = gaejax.gae(**trajectory)
    np.testing.assert_allclose(gaejax.gae(**trajectory, mask=np.ones((STEPS, ROWS), bool))[0], explicit, atol=1e-6)


@pytest.mark.parametrize("cut", range(1, STEPS))
def test_a_trajectory_cut_in_two_second_half_first_equals_the_whole(cut):
    trajectory = random_trajectory(7)
    del trajectory["mask"]
    whole = gaejax.gae(**trajectory)[0]
    arrays = {name: value for name, value in trajectory.items() if np.ndim(value)}
    scalars = {name: value for name, value in trajectory.items() if not np.ndim(value)}
    late = gaejax.gae(**{name: value[cut:] for name, value in arrays.items()}, **scalars)[0]
    early = gaejax.gae(**{name: value[:cut] for name, value in arrays.items()}, **scalars, final_advantage=late[0])[0]
    np.testing.assert_array_equal(np.concatenate([early, late]), whole)


@pytest.mark.parametrize("cut", range(1, STEPS))
def test_the_cut_law_holds_with_masks(cut):
    """The value at the cut is that of the next kept step: what the first half's `next_values` must say there."""
    trajectory = random_trajectory(8)
    arrays = {name: value for name, value in trajectory.items() if np.ndim(value)}
    scalars = {name: value for name, value in trajectory.items() if not np.ndim(value)}
    whole = gaejax.gae(**trajectory)[0]
    late = gaejax.gae(**{name: value[cut:] for name, value in arrays.items()}, **scalars)[0]
    early = {name: value[:cut].copy() for name, value in arrays.items()}
    for row in range(ROWS):
        flags = [trajectory[name][:, row] for name in ("terminated", "truncated", "mask")]
        if not flags[1][cut - 1]:
            early["next_values"][cut - 1, row] = next_kept_value(trajectory, row, cut, *flags)
    early = gaejax.gae(**early, **scalars, final_advantage=late[0])[0]
    np.testing.assert_allclose(np.concatenate([early, late]), whole, atol=1e-6)


def next_kept_value(trajectory, row, t, terminated, truncated, mask):
    for step in range(t, STEPS):
        if mask[step]:
            return trajectory["values"][step, row]
        if terminated[step]:
            return 0
        if truncated[step]:
            return trajectory["next_values"][step, row]
    return trajectory["next_values"][-1, row]


def test_lambda_zero_is_the_td_error_and_lambda_one_the_return():
    trajectory = random_trajectory(1)
    del trajectory["mask"]
    terminated, next_values = trajectory["terminated"], trajectory["next_values"]
    td_error = trajectory["rewards"] + trajectory["discount"] * np.where(terminated, 0, next_values)
    np.testing.assert_allclose(
        gaejax.gae(**{**trajectory, "gae_lambda": 0})[0], td_error - trajectory["values"], atol=1e-6
    )
    np.testing.assert_allclose(
        gaejax.gae(**{**trajectory, "gae_lambda": 1})[0], oracle(trajectory, gae_lambda=1.0, mask=None), atol=1e-5
    )


def test_where_both_flags_are_set_termination_wins():
    flags = dict(terminated=jnp.array([True]), truncated=jnp.array([True]))
    arrays = dict(rewards=jnp.array([1.0]), values=jnp.array([0.5]), next_values=jnp.array([100.0]))
    assert gaejax.gae(**arrays, **flags, discount=0.9, gae_lambda=0.9)[0] == 0.5


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.9])
def test_what_lies_after_a_boundary_reaches_neither_results_nor_gradients(poison, gae_lambda):
    boundary = 5
    trajectory = random_trajectory(2)
    trajectory["terminated"][boundary], trajectory["truncated"][boundary] = [True, False, True], [False, True, True]
    trajectory["next_values"][boundary] = np.where(trajectory["terminated"][boundary], poison, 1.0)
    poisoned = {name: trajectory[name].copy() for name in ("rewards", "values", "next_values")}
    for array in poisoned.values():
        array[boundary + 1 :] = poison

    def early_advantages(floats, use_mask):
        advantages, targets = gaejax.gae(
            **floats,
            terminated=trajectory["terminated"],
            truncated=trajectory["truncated"],
            mask=trajectory["mask"] if use_mask else None,
        )
        return jnp.sum(advantages[: boundary + 1] ** 2 + jnp.sin(targets[: boundary + 1]))

    for use_mask in (False, True):
        scalars = dict(discount=jnp.float32(0.9), gae_lambda=jnp.float32(gae_lambda))
        clean = {name: trajectory[name] for name in poisoned}
        clean["next_values"] = np.where(np.isfinite(clean["next_values"]), clean["next_values"], 0)
        function = jax.value_and_grad(lambda floats: early_advantages(floats, use_mask))  # noqa: B023
        value, gradients = function({**poisoned, **scalars})
        expected_value, expected_gradients = function({**clean, **scalars})
        np.testing.assert_array_equal(value, expected_value)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, expected_gradients[name], rtol=1e-6, err_msg=name)
        assert gradients["gae_lambda"] != 0


def test_gradients_equal_the_float64_gradient_of_the_forward_view():
    trajectory = random_trajectory(3, steps=7, rows=2)
    weights = np.random.default_rng(4).normal(size=(7, 2))
    floats = {name: trajectory[name] for name in ("rewards", "values", "next_values", "discount", "gae_lambda")}
    rest = {name: trajectory[name] for name in ("terminated", "truncated", "mask")}
    gradients = jax.grad(lambda floats: jnp.sum(weights * gaejax.gae(**floats, **rest)[0]))(floats)
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(value, jnp.float64) for name, value in floats.items()}
        expected = jax.grad(lambda floats: jnp.sum(weights * reference_gae(**floats, **rest)[0]))(exact)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_gradients_of_any_order_and_mode_exist():
    trajectory = random_trajectory(5)
    del trajectory["discount"]

    def loss(discount):
        return jnp.sum(gaejax.gae(**trajectory, discount=discount)[0] ** 2)

    reverse_twice = jax.grad(jax.grad(loss))(0.9)
    forward_twice = jax.jacfwd(jax.jacfwd(loss))(0.9)
    np.testing.assert_allclose(reverse_twice, forward_twice, rtol=1e-4)


def test_batching_over_lambdas_equals_a_loop():
    trajectory = random_trajectory(6)
    del trajectory["gae_lambda"]
    lambdas = jnp.linspace(0, 1, 5)
    batched = jax.vmap(lambda gae_lambda: gaejax.gae(**trajectory, gae_lambda=gae_lambda)[0])(lambdas)
    for one, gae_lambda in zip(batched, lambdas, strict=True):
        np.testing.assert_allclose(one, gaejax.gae(**trajectory, gae_lambda=gae_lambda)[0], atol=1e-6)


@pytest.mark.parametrize(
    "changes, error, words",
    [
        (dict(rewards=np.zeros((STEPS, ROWS), np.int32)), TypeError, "rewards must be floating"),
        (dict(terminated=np.zeros((STEPS, ROWS))), TypeError, "terminated must be boolean"),
        (dict(truncated=np.zeros((STEPS, ROWS), np.int32)), TypeError, "truncated must be boolean"),
        (dict(mask=np.ones((STEPS, ROWS))), TypeError, "mask must be boolean"),
        (dict(values=np.zeros((STEPS + 1, ROWS), np.float32)), ValueError, "values must have the shape of rewards"),
        (dict(next_values=np.zeros(ROWS, np.float32)), ValueError, "next_values must have the shape of rewards"),
        (dict(terminated=np.zeros((ROWS, STEPS), bool)), ValueError, "terminated must have the shape of rewards"),
        (dict(discount=np.ones(STEPS, np.float32)), ValueError, "discount must be a scalar or have the rank"),
        (dict(gae_lambda=np.ones((ROWS, 1), np.float32)), ValueError, "gae_lambda must be a scalar or have the rank"),
        (dict(final_advantage=np.zeros((1, ROWS), np.float32)), ValueError, "final_advantage must have the shape"),
        (dict(rewards=np.float32(0)), ValueError, "rewards must have a leading time axis"),
        (dict(values=None), TypeError, "values must be an array"),
        (dict(discount="0.9"), TypeError, "discount must be an array"),
    ],
)
def test_bad_input_is_one_line_that_names_the_argument(changes, error, words):
    with pytest.raises(error) as caught:
        gaejax.gae(**{**random_trajectory(0), **changes})
    assert words in str(caught.value) and "\n" not in str(caught.value)
