"""NumPy arrays and PyTorch tensors: results are of their kind, and lengths that change do not compile anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gaejax


def steps_of(steps, rows=3, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    shape = (steps, rows)
    arrays = {name: rng.normal(size=shape).astype(dtype) for name in ("rewards", "values", "next_values")}
    return arrays | {name: rng.random(shape) < 0.1 for name in ("terminated", "truncated")}


def expected(steps, **more):
    return gaejax.gae(**{name: jnp.asarray(x) for name, x in steps.items()}, discount=0.9, gae_lambda=0.8, **more)


def test_numpy_in_numpy_out_for_every_length():
    for length in (1, 2, 3, 5, 7, 12, 13, 100):
        steps = steps_of(length)
        results = gaejax.gae(**steps, discount=0.9, gae_lambda=0.8)
        assert all(type(x) is np.ndarray and x.dtype == np.float32 and x.flags.writeable for x in results)
        np.testing.assert_allclose(results, expected(steps), atol=1e-6)
    masked = {**steps, "mask": np.random.default_rng(1).random((100, 3)) < 0.5}
    results = gaejax.gae(**masked, discount=0.9, gae_lambda=0.8, final_advantage=np.ones(3, np.float32))
    np.testing.assert_allclose(results, expected(masked, final_advantage=jnp.ones(3)), atol=1e-6)
    by_rows = {name: x.T for name, x in steps.items()}
    results = gaejax.gae(**by_rows, discount=0.9, gae_lambda=0.8, time_axis=1)
    np.testing.assert_allclose(results[0].T, expected(steps)[0], atol=1e-6)
    per_step = gaejax.gae(**steps, discount=np.full((100, 1), 0.9, np.float32), gae_lambda=np.float32(0.8))
    np.testing.assert_allclose(per_step, expected(steps), atol=1e-6)


def test_float64_is_computed_in_float64():
    steps = steps_of(50, dtype=np.float64)
    results = gaejax.gae(**steps, discount=0.9, gae_lambda=0.8)
    assert results[0].dtype == np.float64
    exact = gaejax.testing.reference_gae(**steps, discount=0.9, gae_lambda=0.8)
    np.testing.assert_allclose(results, exact, rtol=1e-12, atol=1e-12)
    assert jnp.ones(1, float).dtype == jnp.float32  # and the caller's mode is as it was


def test_lengths_that_change_do_not_compile_each_time():
    compiled = []
    count = lambda name, *_, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(count)
    lengths = range(65, 97)  # all padded to 96
    for length in lengths:
        gaejax.gae(**steps_of(length, rows=5), discount=1 - 1 / length, gae_lambda=0.8)
    assert len(compiled) == 1
    gaejax.gae(**steps_of(97, rows=5), discount=0.5, gae_lambda=0.1)  # padded to 128
    assert len(compiled) == 2


def test_errors_speak_of_what_was_given():
    steps = steps_of(13)
    with pytest.raises(ValueError, match=r"values must have the shape of rewards, \(13, 3\), got \(14, 3\)"):
        gaejax.gae(**{**steps, "values": np.zeros((14, 3), np.float32)}, discount=0.9, gae_lambda=0.8)
    with pytest.raises(TypeError, match="rewards must be floating-point, got int"):
        gaejax.gae(**{**steps, "rewards": np.zeros((13, 3), int)}, discount=0.9, gae_lambda=0.8)
    with pytest.raises(ValueError, match=r"discount must be a scalar or have the rank of rewards, \(13, 3\)"):
        gaejax.gae(**steps, discount=np.full(13, 0.9, np.float32), gae_lambda=0.8)
    with pytest.raises(ValueError, match=r"final_advantage must have the shape of one step of rewards, \(3,\)"):
        gaejax.gae(**steps, discount=0.9, gae_lambda=0.8, final_advantage=np.zeros((13, 3), np.float32))
    with pytest.raises(TypeError, match="discount must be an array, got str"):
        gaejax.gae(**steps, discount="0.9", gae_lambda=0.8)
    with pytest.raises(TypeError, match="mask must be an array, got dict"):
        gaejax.gae(**steps, discount=0.9, gae_lambda=0.8, mask={})


def test_lists_among_arrays_are_arrays():
    steps = steps_of(5)
    listed = {**steps, "terminated": steps["terminated"].tolist()}
    np.testing.assert_allclose(gaejax.gae(**listed, discount=0.9, gae_lambda=0.8), expected(steps), atol=1e-6)


def test_within_a_program_numpy_constants_are_constants():
    steps = steps_of(6)
    traced = jax.jit(lambda: gaejax.gae(**steps, discount=0.9, gae_lambda=0.8))()
    np.testing.assert_allclose(traced, expected(steps), atol=1e-6)
    mixed = gaejax.gae(**{**steps, "rewards": jnp.asarray(steps["rewards"])}, discount=0.9, gae_lambda=0.8)
    assert isinstance(mixed[0], jax.Array)


def test_other_estimators_take_them_too():
    steps = steps_of(9)
    results = gaejax.vtrace(**steps, discount=0.9, log_ratios=np.zeros((9, 3), np.float32), gae_lambda=0.8)
    assert type(results[0]) is np.ndarray
    np.testing.assert_allclose(results, expected(steps), atol=1e-6)
    assert type(gaejax.n_step(**steps, discount=0.9, n=2)[0]) is np.ndarray


def test_torch_tensors_of_every_make():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; .ci/run has an environment that has it")
    steps = steps_of(13)
    tensors = {name: torch.from_numpy(x) for name, x in steps.items()}
    tensors["values"] = tensors["values"].clone().requires_grad_()
    tensors["rewards"] = tensors["rewards"].T.contiguous().T  # not contiguous
    results = gaejax.gae(**tensors, discount=0.9, gae_lambda=0.8)
    assert all(isinstance(x, torch.Tensor) and x.dtype == torch.float32 for x in results)
    results[0].add_(0)  # one's own, which may be written to
    for one, other in zip(results, expected(steps), strict=True):
        np.testing.assert_allclose(one.numpy(), other, atol=1e-6)
    by_rows = {name: x.T for name, x in tensors.items()}
    results = gaejax.gae(**by_rows, discount=0.9, gae_lambda=0.8, time_axis=1, mask=torch.ones(3, 13, dtype=torch.bool))
    assert results[0].shape == (3, 13)
    double = {name: x.detach().double() if x.is_floating_point() else x for name, x in tensors.items()}
    assert gaejax.gae(**double, discount=0.9, gae_lambda=torch.tensor(0.8).double())[0].dtype == torch.float64
