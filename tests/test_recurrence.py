"""The recurrence by every method: equal to each other, exact to the digits that they promise, on any layout."""

import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import gaejax
from gaejax.recurrence import METHODS, choose, tpu

SHAPES = [
    ((37, 5), 0),
    ((5, 37), 1),
    ((700, 3), 0),
    ((3, 700), -1),
    ((13,), 0),
    ((1, 1), 0),
    ((16, 20), 1),
    ((4, 9, 3), 1),
]


def problem(shape, axis, seed=0):
    rng = np.random.default_rng(seed)
    one_step = np.delete(shape, axis)
    return dict(
        drive=jnp.asarray(rng.normal(size=shape), jnp.float32),
        decay=jnp.asarray(rng.uniform(0.5, 1, size=shape), jnp.float32),
        initial=jnp.asarray(rng.normal(size=one_step), jnp.float32),
        reset=jnp.asarray(rng.random(shape) < 0.1),
    )


def by_hand(drive, decay, initial, reset, axis):
    drive, decay = np.moveaxis(np.float64(drive), axis, 0), np.broadcast_to(np.float64(decay), drive.shape)
    decay, reset, x = np.moveaxis(decay, axis, 0), np.moveaxis(reset, axis, 0), np.float64(initial)
    rows = []
    for t in reversed(range(len(drive))):
        x = drive[t] + decay[t] * np.where(reset[t], 0, x)
        rows.append(x)
    return np.moveaxis(np.stack(rows[::-1]), 0, axis)


@pytest.mark.parametrize("shape, axis", SHAPES)
def test_all_methods_agree_on_any_layout(shape, axis):
    given = problem(shape, axis)
    for decay in (given["decay"], 0.9):
        given["decay"] = decay
        expected = by_hand(**given, axis=axis)
        for method in METHODS:
            x = gaejax.reverse_linear_recurrence(**given, time_axis=axis, method=method)
            np.testing.assert_allclose(x, expected, atol=4e-6, err_msg=method)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_after_a_reset_is_seen_and_a_decay_of_zero_is_no_reset(method):
    given = problem((40, 3), 0)
    reset = given["reset"].at[20].set(True)
    poisoned = {**given, "reset": reset, "drive": given["drive"].at[21:].set(jnp.nan)}
    x = gaejax.reverse_linear_recurrence(**poisoned, method=method)
    np.testing.assert_allclose(
        x[:21], gaejax.reverse_linear_recurrence(**{**given, "reset": reset}, method="scan")[:21], atol=2e-6
    )
    leaks = gaejax.reverse_linear_recurrence(jnp.array([1.0, jnp.nan]), 0.0, method=method)
    assert np.all(np.isnan(leaks))


@pytest.mark.parametrize("method", METHODS)
def test_derivatives_are_those_of_the_plain_scan_in_every_mode_and_order(method):
    given = problem((9, 3), 0)
    reset = given.pop("reset")

    def loss(arguments, method):
        return jnp.sum(gaejax.reverse_linear_recurrence(**arguments, reset=reset, method=method) ** 3)

    for derivative in (jax.grad, jax.jacfwd):
        ours, scans = derivative(loss)(given, method), derivative(loss)(given, "scan")
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, scans)
    along = lambda size: loss({**given, "decay": size * given["decay"]}, method)  # noqa: E731
    np.testing.assert_allclose(jax.grad(jax.grad(along))(1.0), jax.jacfwd(jax.jacfwd(along))(1.0), rtol=1e-4)
    _, tangent = jax.jvp(along, (1.0,), (1.0,))
    np.testing.assert_allclose(tangent, jax.grad(along)(1.0), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_batching_equals_a_loop(method):
    given = problem((30, 2), 0)
    decays = jnp.array([0.3, 0.9])
    solve_one = lambda decay: gaejax.reverse_linear_recurrence(  # noqa: E731
        given["drive"], decay, given["initial"], reset=given["reset"], method=method
    )
    batched = jax.vmap(solve_one)(decays)
    np.testing.assert_allclose(batched, jnp.stack([solve_one(decay) for decay in decays]), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("out_axis", [0, 1, 2])
def test_gradients_of_a_batch_are_the_batch_of_gradients(method, out_axis):
    given = problem((14, 4), 0)
    decays = jnp.stack([given["decay"], given["decay"] ** 2, given["decay"] ** 3])
    weights = jnp.moveaxis(jnp.arange(3 * 14 * 4.0).reshape(3, 14, 4) / 100, 0, out_axis)
    one = lambda drive, decay: gaejax.reverse_linear_recurrence(  # noqa: E731
        drive, decay, given["initial"], reset=given["reset"], method=method
    )

    def batched(drive, decays):
        return jnp.sum(weights * jax.vmap(one, (None, 0), out_axis)(drive, decays) ** 2)

    def looped(drive, decays):
        results = jnp.stack([one(drive, decay) for decay in decays], axis=out_axis)
        return jnp.sum(weights * results**2)

    for function in (batched, jax.jit(batched)):
        ours = jax.value_and_grad(function, (0, 1))(given["drive"], decays)
        expected = jax.value_and_grad(looped, (0, 1))(given["drive"], decays)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, expected)
    per_batch = jax.vmap(jax.grad(lambda decay: jnp.sum(one(given["drive"], decay) ** 2)))(decays)
    loop = jnp.stack([jax.grad(lambda decay: jnp.sum(one(given["drive"], decay) ** 2))(decay) for decay in decays])
    np.testing.assert_allclose(per_batch, loop, rtol=1e-4, atol=1e-4)


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


def test_the_table_has_a_choice_for_every_shape_and_platform():
    for platform in ("cpu", "tpu", "cuda"):
        for shape in ((1, 1), (128, 4), (10, 8192), (2048, 16), (1_000_000, 1), (1, 1_000_000)):
            assert all(choose(platform, shape, axis) in METHODS for axis in (0, 1))
    assert choose("tpu", (128, 2048), 0) == "pallas" and choose("tpu", (8, 4096), 1) == "pallas_lanes"


def test_a_program_lowered_for_tpu_holds_the_kernel_and_one_for_cpu_does_not():
    def gae(**steps):
        return gaejax.gae(**steps, discount=0.99, gae_lambda=0.95)

    steps = {name: jax.ShapeDtypeStruct((128, 256), jnp.float32) for name in ("rewards", "values", "next_values")}
    steps |= {name: jax.ShapeDtypeStruct((128, 256), jnp.bool_) for name in ("terminated", "truncated")}
    traced = jax.jit(gae).trace(**steps)
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "tpu_custom_call" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "tpu_custom_call" not in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_a_program_exported_from_here_for_a_tpu_holds_the_kernel_vmapped_too():
    drives = jax.ShapeDtypeStruct((2, 128, 256), jnp.float32)
    program = jax.jit(jax.vmap(lambda drive: gaejax.reverse_linear_recurrence(drive, 0.9)))
    for platforms, kernel in ((("tpu",), True), (("cpu",), False), (("cuda",), False)):
        module = jax.export.export(program, platforms=platforms)(drives).mlir_module()
        assert ("tpu_custom_call" in module) == kernel, platforms


def test_only_the_method_of_the_platform_is_traced(monkeypatch):
    def refused(*_):
        raise AssertionError("traced on a CPU")

    for name in ("pallas", "pallas_lanes"):
        monkeypatch.setattr(tpu, name, refused)
    assert choose("tpu", (128, 77), 0) == "pallas"
    gaejax.reverse_linear_recurrence(jnp.ones((128, 77)), 0.9)


@pytest.mark.parametrize("out_axis", [0, 2])
def test_batches_of_batches_equal_loops_with_and_without_jit(out_axis):
    given = problem((6, 2), 0)
    decays = jnp.linspace(0, 1, 12).reshape(3, 4)

    def one(drive, decay):
        return gaejax.reverse_linear_recurrence(drive, decay, given["initial"], reset=given["reset"])

    drives = given["drive"] * jnp.arange(1.0, 5)[:, None, None]
    expected = np.array([[one(drive, decay) for drive, decay in zip(drives, row, strict=True)] for row in decays])
    batched = jax.vmap(jax.vmap(one), (None, 0), out_axis)
    np.testing.assert_allclose(np.moveaxis(batched(drives, decays), out_axis, 0), expected, atol=1e-6)
    with jax.disable_jit():
        np.testing.assert_allclose(np.moveaxis(batched(drives, decays), out_axis, 0), expected, atol=1e-6)


def test_an_unknown_method_or_axis_is_named():
    with pytest.raises(ValueError, match="method must be one of auto, scan"):
        gaejax.reverse_linear_recurrence(jnp.ones(3), 0.9, method="fast")
    with pytest.raises(ValueError, match="drive must have a time axis at time_axis=2"):
        gaejax.reverse_linear_recurrence(jnp.ones((3, 2)), 0.9, time_axis=2)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
import gaejax
rng = np.random.default_rng(0)
shape = (64, 8)
floats = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name in ("rewards", "values", "next_values")}
flags = {name: jnp.asarray(rng.random(shape) < 0.05) for name in ("terminated", "truncated")}
steps = floats | flags
ratios = jnp.asarray(rng.normal(size=shape), jnp.float32)
mesh = jax.make_mesh((8,), ("parts",), axis_types=(jax.sharding.AxisType.Auto,))
estimators = {
    "gae": lambda s, **how: gaejax.gae(**s, discount=0.99, gae_lambda=0.95, **how),
    "masked gae": lambda s, **how: gaejax.gae(**s, discount=0.99, gae_lambda=0.95, **how),
    "vtrace": lambda s, **how: gaejax.vtrace(**s, discount=0.99, log_ratios=0.3 * s["rewards"], **how),
    "upgo": lambda s, **how: gaejax.upgo(**s, discount=0.99, **how),
    "n_step": lambda s, **how: gaejax.n_step(**s, discount=0.99, n=11, **how),
}
for name, estimator in estimators.items():
    given = steps | ({"mask": jnp.asarray(rng.random(shape) < 0.7)} if "masked" in name else {})
    serial = estimator(given)
    for axis_name, spec in (("parts", jax.P("parts")), (None, jax.P(None, "parts"))):
        parts = jax.shard_map(
            lambda s: estimator(s, axis_name=axis_name), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
        at = jax.device_put(given, jax.NamedSharding(mesh, spec))
        for one, other in zip(jax.jit(parts)(at), serial):
            np.testing.assert_allclose(one, other, atol=2e-6, err_msg=f"{name} {spec}")
    placed = jax.device_put(given, jax.NamedSharding(mesh, jax.P(None, "parts")))
    np.testing.assert_allclose(jax.jit(estimator)(placed)[0], serial[0], atol=2e-6)
poisoned = {**steps, "rewards": floats["rewards"].at[40:].set(jnp.nan)}
poisoned["truncated"] = flags["truncated"].at[39].set(True)
split = jax.shard_map(
    lambda s: estimators["gae"](s, axis_name="parts"), mesh=mesh, in_specs=jax.P("parts"), out_specs=jax.P("parts"),
    check_vma=False)
results = []
for estimator in (split, estimators["gae"]):
    loss = lambda rewards: jnp.sum(estimator({**poisoned, "rewards": rewards})[0][:40])
    results.append(jax.jit(jax.value_and_grad(loss))(poisoned["rewards"]))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *results)
print("equal")
"""


def test_time_or_rows_split_over_eight_devices_is_the_serial_result():
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "equal", done.stderr[-3000:]
