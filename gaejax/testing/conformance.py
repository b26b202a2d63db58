"""Conformance: point `check_gae` at a GAE of your own and read what is wrong with it, and why."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gaejax.testing.cases import base_cases, base_trajectory, mask_cases, masked_trajectory, rng_of, simple_trajectory
from gaejax.testing.causes import WRONG, WRONG_MASKS, plain_gae
from gaejax.testing.reference import reference_gae

DIGITS_LOST = "digits are lost over long times: by dividing by powers of discount * gae_lambda, or in low precision"
FEATURES = ("mask", "gradient", "nan_isolation", "errors")


@dataclass(frozen=True, eq=False)
class Failure:
    """A property that does not hold, the smallest trajectory found on which it does not, and the likely cause."""

    property: str
    cause: str
    trajectory: dict[str, Any]
    expected: Any
    got: Any

    def __str__(self) -> str:
        arrays = ", ".join(f"{name}={_short(value)}" for name, value in self.trajectory.items())
        found = f"{self.property}: expected {_short(self.expected)}, got {_short(self.got)}; likely cause: {self.cause}"
        return f"{found}; with {arrays}" if arrays else found


@dataclass(frozen=True, eq=False)
class Report:
    """What `check_gae` found."""

    failures: tuple[Failure, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        return "passed" if self.passed else "\n".join(map(str, self.failures))


def check_gae(fn: Callable, features: Any = ()) -> Report:
    """Tests a GAE against a float64 forward view, and says which property fails, on what, and likely why.

    Args:
      fn: takes `rewards`, `values`, `next_values` (floats), `terminated`, `truncated` (booleans), all JAX arrays
        `[T, N]` and all by keyword, and `discount` and `gae_lambda`, scalars or `[T, N]`; returns `(advantages,
        value_targets)`. What they must be is said at `gaejax.gae`.
      features: what it can do besides: `"mask"` (takes `mask`), `"gradient"` (is differentiable by JAX in all floats),
        `"nan_isolation"` (nothing behind a boundary is seen, not even a NaN), `"errors"` (refuses wrong shapes, ranks
        and dtypes with a TypeError or ValueError that names the argument).

    Returns:
      A `Report`, to be printed; `report.passed` says whether all is well.
    """
    features = (features,) if isinstance(features, str) else tuple(features or ())
    unknown = [feature for feature in features if feature not in FEATURES]
    if unknown:
        raise ValueError(f"features must be among {', '.join(FEATURES)}, got {', '.join(map(repr, unknown))}")
    failures = _collect(_check_values, fn, base_cases(), WRONG, base_trajectory(0), base_trajectory(1))
    changing = [failure for failure in _collect(_check_repeats, fn) if "raises" not in failure.property]
    failures = changing or failures or _collect(_check_long, fn) + _collect(_check_splits, fn)
    if failures:
        return Report(tuple(failures))  # what is built on a wrong base is not worth reading
    if "mask" in features:
        failures += _collect(_check_values, fn, mask_cases(), WRONG_MASKS, masked_trajectory(2), masked_trajectory(3))
    if "gradient" in features:
        failures += _collect(_check_gradient, fn, "mask" in features)
    if "nan_isolation" in features:
        failures += _collect(_check_nan_isolation, fn, "gradient" in features, "mask" in features)
    if "errors" in features:
        failures += _collect(_check_errors, fn)
    return Report(tuple(failures))


def _collect(check: Callable, *arguments: Any) -> list[Failure]:
    """The failures of a check; an exception is one too."""
    failures = []
    try:
        failures.extend(check(*arguments))
    except Exception as error:  # whatever it is, it is the answer
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        failures.append(Failure(f"{check.__name__.removeprefix('_check_')} (raises)", said, {}, "a result", said))
    return failures


def _check_values(fn: Callable, cases: Any, wrong: tuple, *probes: dict) -> Iterator[Failure]:
    """Compares with the reference; of one property only the smallest failure is reported, and of a known cause only the
    first."""
    seen, cause = set(), None
    for name, trajectory, default_cause in cases:
        failure = None if name in seen else _compare(fn, name, trajectory, default_cause)
        if failure is None:
            continue
        seen.add(name)
        if failure.property != name:  # raises, or has the wrong shape or type
            yield failure
            return
        cause = _diagnose(fn, wrong, probes) if cause is None else cause
        if name.startswith("random"):
            failure = _shrink(fn, failure)
        if cause:
            yield replace(failure, cause=cause)
            return
        cause = ""
        yield failure


def _call(fn: Callable, trajectory: dict) -> tuple[np.ndarray, np.ndarray]:
    import jax.numpy as jnp

    arguments = {
        name: jnp.asarray(x, bool if np.asarray(x).dtype == bool else jnp.float32) if np.ndim(x) else x
        for name, x in trajectory.items()
    }
    results = fn(**arguments)
    if isinstance(results, dict) or not hasattr(results, "__len__") or len(results) != 2:
        raise TypeError(f"it must return (advantages, value_targets), got a {type(results).__name__}")
    return tuple(np.array(x) for x in results)  # copies: they may be buffers of its own


def _tolerance(expected: np.ndarray) -> float:
    return 2e-5 * max(1.0, float(np.abs(expected).max(initial=0)))


def _compare(fn: Callable, name: str, trajectory: dict, cause: str) -> Failure | None:
    expected, expected_targets = reference_gae(**trajectory)
    kept = trajectory.get("mask", np.ones(expected.shape, bool))
    try:
        got, targets = _call(fn, trajectory)
    except Exception as error:  # whatever it is, it is the answer
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return Failure(f"{name} (raises)", said, trajectory, expected, said)
    for what, result, wanted in (("advantages", got, expected), ("value_targets", targets, expected_targets)):
        if result.shape != expected.shape:
            said = f"{what} must have the shape of rewards, {expected.shape}, got {result.shape}"
            return Failure(f"{name} (shape)", said, trajectory, wanted, result)
        if result.dtype not in (np.float32, np.float64):
            said = f"{what} must be float32 like rewards, got {result.dtype}: digits or more are lost"
            return Failure(f"{name} (dtype)", said, trajectory, wanted, str(result.dtype))
        if not np.all(np.isfinite(result)):
            said = f"{what} are not finite, also where masked" if "mask" in trajectory else f"{what} are not finite"
            return Failure(f"{name} (not finite)", said, trajectory, wanted, result)
    if not _close(np.where(kept, got, 0), np.where(kept, expected, 0)):
        if np.any(np.abs(expected) > 1e-3) and _close(targets, expected) and _close(got, expected_targets):
            cause = "the results are swapped: it is (advantages, value_targets)"
            return Failure(f"{name} (swapped)", cause, trajectory, expected, got)
        return Failure(name, cause, trajectory, expected, got)
    if not _close(np.where(kept, targets, 0), np.where(kept, expected_targets, 0)):
        cause = "value_targets is advantages + values, with the same lambda"
        return Failure(f"{name} (value_targets)", cause, trajectory, expected_targets, targets)
    return None


def _close(got: np.ndarray, expected: np.ndarray) -> bool:
    got = np.asarray(got, np.float64)
    return bool(np.all(np.isfinite(got)) and np.abs(got - expected).max(initial=0) <= _tolerance(expected))


def _diagnose(fn: Callable, wrong: tuple, probes: tuple) -> str | None:
    """The cause whose consequence is what `fn` returns, on every probe."""
    try:
        results = [_call(fn, probe)[0] for probe in probes]
    except Exception:
        try:  # perhaps it takes scalars only
            probes = [{**probe, "discount": 0.9, "gae_lambda": 0.7} for probe in probes]
            results = [_call(fn, probe)[0] for probe in probes]
        except Exception:
            return None
    for cause, change in wrong:
        predictions = [change(probe) for probe in probes]
        kept = [probe.get("mask", True) for probe in probes]
        same = (
            got.shape == np.shape(predicted) and _close(np.where(keep, got, 0), np.where(keep, predicted, 0))
            for got, predicted, keep in zip(results, predictions, kept, strict=True)
        )
        if all(same):
            return cause
    return None


def _shrink(fn: Callable, failure: Failure) -> Failure:
    """The shortest piece of one row, or of all of them, on which the same property fails."""
    steps, rows = failure.trajectory["rewards"].shape
    for length in range(1, steps):
        for start in range(steps - length + 1):
            for those in (*(slice(row, row + 1) for row in range(rows)), slice(None)):
                piece = {
                    key: x[start : start + length, those] if np.ndim(x) else x for key, x in failure.trajectory.items()
                }
                smaller = _compare(fn, failure.property, piece, failure.cause)
                if smaller is not None:
                    return smaller
    return failure


def _check_repeats(fn: Callable) -> Iterator[Failure]:
    """The same input twice, with another between, and with other coefficients of the same shapes."""
    one, other = base_trajectory(70), base_trajectory(71)
    first = _call(fn, one)
    _call(fn, other)
    again = _call(fn, one)
    if not all(_close(a, b) for a, b in zip(again, first, strict=True)):
        yield Failure("the same twice", "something is kept from call to call", one, first[0], again[0])


def _check_long(fn: Callable) -> Iterator[Failure]:
    """Many steps: boundaries far from both ends, and what is lost to rounding."""
    many = base_trajectory(31, 700, 5, flags=0.03)
    many = {name: x if x.dtype == bool else np.float64(np.float32(x)) for name, x in many.items()}
    expected, (got, targets) = plain_gae(**many), _call(fn, many)
    if got.shape != expected.shape or targets.shape != expected.shape:
        yield Failure(
            "700 steps of 5 rows", "the result's shape is another for long arrays", {}, expected.shape, got.shape
        )
        return
    if not _close(got, expected) or not _close(targets, expected + many["values"]):
        worst = np.argmax(np.abs(got - expected).max(1) + np.abs(targets - expected - many["values"]).max(1))
        cause = f"right for short arrays only (here wrong up to step {worst}): something is not passed on between parts"
        cause = cause if np.all(np.isfinite(got)) else DIGITS_LOST
        yield Failure("700 steps of 5 rows", cause, {}, expected[worst], got[worst])
        return
    rng = rng_of(30)
    steps = {name: rng.normal(size=(10_000, 1)).astype(np.float32) for name in ("rewards", "values", "next_values")}
    steps["next_values"][:-1] = steps["values"][1:]
    flags = {name: np.zeros((10_000, 1), bool) for name in ("terminated", "truncated")}
    # Numbers that float32 holds exactly, so that the only rounding is the estimator's.
    for discount, gae_lambda, tolerance in ((1 - 2**-10, 1.0, 4e-6), (1.0, 1.0, 3e-5), (0.9921875, 0.9375, 4e-6)):
        trajectory = {**steps, **flags, "discount": discount, "gae_lambda": gae_lambda}
        double = {name: x if name in flags else np.float64(x) for name, x in trajectory.items()}
        expected, (got, targets) = plain_gae(**double), _call(fn, trajectory)
        error = max(np.abs(got - expected).max(), np.abs(targets - expected - double["values"]).max())
        if not error <= tolerance * max(1, np.abs(expected).max()):
            cause = DIGITS_LOST
            if got.shape == expected.shape and np.abs(got).max() < 0.99 * np.abs(expected).max():
                cause = "large advantages are clipped, or digits are lost over long times"
            yield Failure("ten thousand steps", cause, {"discount": discount, "gae_lambda": gae_lambda}, 0, error)
            return


def _check_splits(fn: Callable) -> Iterator[Failure]:
    """Two episodes at once give what each gives alone."""
    both = simple_trajectory(6, rows=2, seed=40, truncated=[2])
    whole = _call(fn, both)[0]
    for part in (slice(0, 3), slice(3, 6)):
        alone = _call(fn, {name: x[part] if np.ndim(x) else x for name, x in both.items()})[0]
        if not _close(alone, whole[part]):
            yield Failure(
                "episodes apart", "an episode's advantages depend on its neighbours", both, alone, whole[part]
            )
            return


def _check_gradient(fn: Callable, masks: bool) -> Iterator[Failure]:
    """Gradients of weighted sums against differences of the float64 reference."""
    import jax
    import jax.numpy as jnp

    per_step = base_trajectory(50, 6, 2)
    cases = [{**per_step, "discount": 0.9, "gae_lambda": 0.7}, per_step]
    if masks:
        cases.append({**per_step, "mask": rng_of(53).random((6, 2)) < 0.6})
    floats = ("rewards", "values", "next_values", "discount", "gae_lambda")
    for trajectory in cases:
        mask = trajectory.get("mask", np.ones((6, 2), bool))
        weights = mask * rng_of(51).normal(size=(2, 6, 2))
        rest = {name: jnp.asarray(x) for name, x in trajectory.items() if name not in floats}
        inputs = {name: jnp.asarray(trajectory[name], jnp.float32) for name in floats}
        total = lambda inputs: sum(  # noqa: E731
            jnp.sum(w * x)
            for w, x in zip(weights, fn(**inputs, **rest), strict=True)  # noqa: B023
        )
        gradients = jax.grad(total)(inputs)
        for name in floats:
            direction = rng_of(52).normal(size=np.shape(trajectory[name]))
            value = lambda sign: np.sum(  # noqa: E731
                weights * reference_gae(**{**trajectory, name: trajectory[name] + sign * 1e-5 * direction})  # noqa: B023
            )
            expected, got = (value(1) - value(-1)) / 2e-5, float(np.sum(np.asarray(gradients[name]) * direction))
            if not abs(got - expected) <= 1e-4 * max(1, abs(expected)):
                cause = "the gradient is not finite" if not np.isfinite(got) else "a derivative of its own is wrong"
                cause = "the gradient is stopped inside" if not np.any(gradients[name]) else cause
                yield Failure(f"gradient with respect to {name}", cause, trajectory, expected, got)
                return


def _check_nan_isolation(fn: Callable, gradient: bool, masks: bool) -> Iterator[Failure]:
    """What lies behind a boundary is NaN or infinite; what lies before must not notice."""
    import jax
    import jax.numpy as jnp

    for flag in ("terminated", "truncated"):
        clean = simple_trajectory(4, seed=60, **{flag: [1]})
        for poison in (np.nan, np.inf):
            poisoned = {name: x.copy() if np.ndim(x) else x for name, x in clean.items()}
            for name in ("rewards", "values", "next_values"):
                poisoned[name][2:] = poison
            if flag == "terminated":
                poisoned["next_values"][1] = poison
            expected, got = reference_gae(**clean)[0][:2], _call(fn, poisoned)[0][:2]
            if not _close(got, expected):
                cause = "something multiplies where it should select: 0 * NaN is NaN, so use where before the product"
                yield Failure(f"{poison} behind a {flag} step", cause, poisoned, expected, got)
                return
            if not gradient:
                continue
            arguments = {name: jnp.asarray(x, None if np.ndim(x) else jnp.float32) for name, x in poisoned.items()}
            floats = {name: x.astype(jnp.float32) for name, x in arguments.items() if x.dtype != bool}
            rest = {name: x for name, x in arguments.items() if x.dtype == bool}
            gradients = jax.grad(lambda floats: jnp.sum(fn(**floats, **rest)[0][:2]))(floats)  # noqa: B023
            bad = [name for name, x in gradients.items() if not np.all(np.isfinite(x))]
            if bad:
                cause = (
                    "a product's derivative in discount or gae_lambda is 0 * NaN: select the operand before the product"
                )
                if set(bad) <= {"discount", "gae_lambda"}:
                    cause += ", and a finite operand in the derivative of what all steps share (see isolated_product)"
                yield Failure(f"gradient with {poison} behind a {flag} step", cause, poisoned, "finite", ", ".join(bad))
                return
    rows = simple_trajectory(4, rows=2, seed=61, terminated=[3])
    poisoned = {name: x.copy() if np.ndim(x) else x for name, x in rows.items()}
    for name in ("rewards", "values", "next_values"):
        poisoned[name][:, 1] = np.nan
    poisoned["next_values"][3, 0] = np.nan
    expected, got = reference_gae(**rows)[0][:, 0], _call(fn, poisoned)[0][:, 0]
    if not _close(got, expected):
        cause = "NaN passes from row to row, or from behind the last step, where that is terminated"
        yield Failure("nan in another row and behind the end", cause, poisoned, expected, got)
        return
    if masks:
        masked = {**simple_trajectory(4, seed=62), "mask": np.array([True, False, True, False])[:, None]}
        poisoned = {name: x.copy() if np.ndim(x) else x for name, x in masked.items()}
        for name in ("rewards", "values"):
            poisoned[name][[1, 3]] = np.nan
        expected, got = reference_gae(**masked)[0][[0, 2]], _call(fn, poisoned)[0][[0, 2]]
        if not _close(got, expected):
            cause = "the mask multiplies where it should select: what masked steps hold, even NaN, must not be seen"
            yield Failure("nan at masked steps", cause, poisoned, expected, got)


def _check_errors(fn: Callable) -> Iterator[Failure]:
    good = {
        name: np.asarray(x, np.float32 if np.asarray(x).dtype != bool else bool)
        for name, x in simple_trajectory(4, 3).items()
    }
    _call_raw(fn, good)  # what is right is not refused
    bad = [
        ("rewards", np.zeros((4, 3), np.int32), "integer rewards lose fractions"),
        ("values", np.zeros((5, 3), np.float32), "its shape is not that of rewards"),
        ("next_values", np.zeros(3, np.float32), "its rank is not that of rewards, and broadcasting hides it"),
        ("terminated", np.zeros((4, 3), np.float32), "flags are boolean: floats may be anything"),
        ("terminated", np.zeros((4, 1), bool), "its shape is not that of rewards"),
        ("truncated", np.zeros((3, 4), bool), "its shape is not that of rewards"),
        ("truncated", np.zeros((4, 3), np.int32), "flags are boolean: integers may be anything"),
        ("discount", np.ones(3, np.float32), "a bare vector may mean steps or rows"),
        ("gae_lambda", np.ones(3, np.float32), "a bare vector may mean steps or rows"),
    ]
    for name, value, why in bad:
        try:
            _call_raw(fn, {**good, name: value})
            said = "nothing"
        except (TypeError, ValueError) as error:
            said = str(error)
            if re.search(rf"\b{name}\b", said):
                continue
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        wanted = f"a TypeError or ValueError that names {name}"
        yield Failure(f"errors: {name}", f"not refused in that way ({why})", {name: value}, wanted, said)


def _call_raw(fn: Callable, arguments: dict) -> Any:
    import jax.numpy as jnp

    return fn(**{name: jnp.asarray(x) for name, x in arguments.items()})


def _short(value: Any) -> str:
    if isinstance(value, str | tuple):
        return str(value)
    array = np.asarray(value)
    if array.dtype.kind == "f":
        array = array.astype(np.float64).round(4)
    text = str(array.tolist() if array.ndim < 2 or array.shape[1] > 1 else array[:, 0].tolist())
    return text if len(text) < 200 else text[:197] + "..."
