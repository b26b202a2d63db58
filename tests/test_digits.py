"""How many digits the recurrence keeps over a million steps, by every method."""

import numpy as np
import pytest
from test_recurrence import by_hand

import gaejax
from gaejax.recurrence import METHODS


@pytest.mark.parametrize("method", [method for method in METHODS if "pallas" not in method])
@pytest.mark.parametrize("discount, tolerance", [(0.9990234375, 4e-6), (1.0, 3e-5)])
def test_a_million_steps_lose_no_more_digits_than_promised(method, discount, tolerance):
    rng = np.random.default_rng(0)
    deltas = rng.normal(size=1_000_000).astype(np.float32)
    expected, total = np.zeros(len(deltas)), 0.0
    for t in reversed(range(len(deltas))):
        expected[t] = total = float(deltas[t]) + discount * total
    x = gaejax.reverse_linear_recurrence(deltas, discount, method=method)
    assert np.abs(x - expected).max() <= tolerance * max(1, np.abs(expected).max())


@pytest.mark.parametrize("method", ["pallas", "pallas_lanes"])
@pytest.mark.parametrize("discount, tolerance", [(0.9990234375, 4e-6), (1.0, 3e-5)])
def test_the_interpreted_kernels_lose_no_more_digits_either(method, discount, tolerance):
    deltas = np.random.default_rng(0).normal(size=(1_000_000, 1)).astype(np.float32)
    given = dict(drive=deltas, decay=discount, initial=np.zeros(1), reset=np.zeros(deltas.shape, bool))
    expected = by_hand(**given, axis=0)
    x = gaejax.reverse_linear_recurrence(deltas, discount, method=method)
    assert np.abs(x - expected).max() <= tolerance * max(1, np.abs(expected).max())
