"""Spaces that cannot be are refused when they are made, in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaejax.environments import Box, Dict, Discrete, MultiBinary, MultiDiscrete

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Box(NAN, 1, (1,)), "low of Box must not be NaN, got nan"),
        (lambda: Box(-1, np.array([1, NAN]), (2,)), "high of Box must not be NaN, got array"),
        (lambda: Box(None, 1, (1,)), "low of Box must not be NaN, got None"),
        (lambda: Box(1, -1, (3,)), "low of Box must not exceed high, got low=1, high=-1"),
        (lambda: Box(np.array([0, 2]), np.array([1, 1]), (2,)), "low of Box must not exceed high"),
        (lambda: Box(INFINITY, INFINITY, (1,)), "low of Box must not exceed high"),
        (lambda: Box(-INFINITY, -INFINITY, (1,)), "low of Box must not exceed high"),
        (lambda: Box(np.zeros(3), 1, (2,)), "low of Box must broadcast to its shape (2,), got shape (3,)"),
        (lambda: Box(0, jnp.ones((2, 2)), (2,)), "high of Box must broadcast to its shape (2,), got shape (2, 2)"),
        (lambda: Box("small", 1, (2,)), "low of Box must be a number or an array of numbers, got 'small'"),
        (lambda: Box(0, 1, 4), "shape of Box must be a tuple of whole numbers, got 4"),
        (lambda: Box(0, 1, (2.5,)), "each entry of the shape of Box must be a whole number of at least 0, got 2.5"),
        (lambda: Box(0, 1, (-1,)), "each entry of the shape of Box must be a whole number of at least 0, got -1"),
        (lambda: Discrete(0), "n of Discrete must be a whole number of at least 1, got 0"),
        (lambda: Discrete(-3), "n of Discrete must be a whole number of at least 1, got -3"),
        (lambda: Discrete(2.0), "n of Discrete must be a whole number of at least 1, got 2.0"),
        (lambda: Discrete(True), "n of Discrete must be a whole number of at least 1, got True"),
        (lambda: Discrete("two"), "n of Discrete must be a whole number of at least 1, got 'two'"),
        (
            lambda: MultiDiscrete((2, 0)),
            "each entry of the sizes of MultiDiscrete must be a whole number of at least 1",
        ),
        (lambda: MultiDiscrete(3), "sizes of MultiDiscrete must be a tuple of whole numbers, got 3"),
        (lambda: MultiBinary(3), "shape of MultiBinary must be a tuple of whole numbers, got 3"),
        (lambda: Dict([Discrete(2)]), "spaces of Dict must be a mapping from names to spaces"),
        (lambda: Dict({0: Discrete(2)}), "names of Dict must be strings, got 0"),
        (lambda: Dict({"a": 3}), "'a' of Dict must be a space of gaejax.environments, got 3"),
        (lambda: Dict({"a": Dict({"b": None})}), "'b' of Dict must be a space of gaejax.environments, got None"),
    ],
)
def test_an_impossible_space_is_refused_when_it_is_made(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_bounds_may_be_infinite_equal_arrays_or_traced():
    assert Box(-np.inf, np.inf, (2,)).shape == (2,)
    assert Box(np.zeros(3), jnp.zeros(3), (3,)).shape == (3,)
    assert Box([0, -1], 2, [2]).shape == (2,)
    assert Box(0, 1, ()).shape == () and Box(0, 1, (0,)).shape == (0,)
    assert float(jax.jit(lambda low: jnp.sum(Box(low, 1, (2,)).low))(jnp.zeros(2))) == 0


def test_sizes_are_python_integers_however_they_were_given():
    assert Discrete(np.int64(3)) == Discrete(3) and Discrete(3).shape == ()
    assert MultiDiscrete(np.array([2, 3])) == MultiDiscrete((2, 3)) and MultiDiscrete([2, 3]).shape == (2,)
    assert hash(MultiBinary([2, 3])) == hash(MultiBinary((2, 3)))
