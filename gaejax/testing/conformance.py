"""Conformance: give `check_gae` your own GAE and read what is wrong with it, and why."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from gaejax.testing.cases import base_cases, base_trajectory, mask_cases, masked_trajectory, rng_of, simple_trajectory
from gaejax.testing.causes import WRONG, WRONG_MASKS, plain_gae
from gaejax.testing.reference import reference_gae

DIGITS_LOST = "digits are lost over long times: by dividing by powers of discount * gae_lambda, or in low precision"
Estimator = Callable[..., tuple[Any, Any]]
FEATURES = ("mask", "gradient", "nan_isolation", "errors")


@dataclass(frozen=True, eq=False)
class Failure:
    """A property that does not hold, the smallest trajectory found that shows it, and the likely cause."""

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
    """The failures that a conformance suite found."""

    failures: tuple[Failure, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        return "passed" if self.passed else "\n".join(map(str, self.failures))


def check_gae(fn: Estimator, features: str | Iterable[str] = ()) -> Report:
    """Tests a GAE against a float64 forward view, and reports which property fails, on what, and the likely cause.

    Args:
      fn: A function that takes `rewards`, `values`, `next_values` (floats), `terminated`, `truncated` (booleans), JAX
        arrays `[T, N]`, and `discount` and `gae_lambda`, scalars or `[T, N]`, all by keyword, and returns `(advantages,
        value_targets)`. `gaejax.gae` describes them.
      features: What else it can do, one or more of `"mask"` (takes `mask`), `"gradient"` (JAX can differentiate it in
        all floats), `"nan_isolation"` (nothing after a boundary has an effect, not even a NaN) and `"errors"` (refuses
        wrong shapes, ranks and dtypes with a TypeError or ValueError that names the argument).

    Returns:
      A `Report`: print it to read the failures; `report.passed` is true if there are none.

    Raises:
      ValueError: If a feature is unknown.
    """
    features = (features,) if isinstance(features, str) else tuple(features)
    unknown = [feature for feature in features if feature not in FEATURES]
    if unknown:
        raise ValueError(f"features must be among {', '.join(FEATURES)}, got {', '.join(map(repr, unknown))}")
    failures = _collect(_check_values, fn, base_cases(), WRONG, base_trajectory(0), base_trajectory(1))
    changing = [failure for failure in _collect(_check_repeats, fn) if "raises" not in failure.property]
    failures = changing or failures or _collect(_check_long, fn) + _collect(_check_splits, fn)
    if failures:
        return Report(tuple(failures))  # further failures would only follow from these
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
    """Returns the failures of a check; an exception is one too."""
    failures = []
    try:
        failures.extend(check(*arguments))
    except Exception as error:  # whatever it is, it is the answer
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        failures.append(Failure(f"{check.__name__.removeprefix('_check_')} (raises)", said, {}, "a result", said))
    return failures


def _check_values(fn: Estimator, cases: Any, wrong: tuple, *probes: dict) -> Iterator[Failure]:
    """Compares with the reference; yields the smallest failure of a property, and only the first of a known cause."""
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


def _call(fn: Estimator, trajectory: dict) -> tuple[np.ndarray, np.ndarray]:
    import jax.numpy as jnp

    arguments = {
        name: jnp.asarray(x, bool if np.asarray(x).dtype == bool else jnp.float32) if np.ndim(x) else x
        for name, x in trajectory.items()
    }
    results = fn(**arguments)
    if isinstance(results, dict) or not hasattr(results, "__len__") or len(results) != 2:
        raise TypeError(f"it must return (advantages, value_targets), got a {type(results).__name__}")
    advantages, value_targets = (np.array(x) for x in results)  # copies: they may be buffers that `fn` reuses
    return advantages, value_targets


def _tolerance(expected: np.ndarray) -> float:
    return 2e-5 * max(1.0, float(np.abs(expected).max(initial=0)))


def _compare(fn: Estimator, name: str, trajectory: dict, cause: str) -> Failure | None:
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


def _diagnose(fn: Estimator, wrong: tuple, probes: tuple) -> str | None:
    """Returns the cause that leads to what `fn` returns on every probe, if there is one."""
    try:
        results = [_call(fn, probe)[0] for probe in probes]
    except Exception:
        try:  # perhaps it takes scalars only
            probes = tuple({**probe, "discount": 0.9, "gae_lambda": 0.7} for probe in probes)
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


def _shrink(fn: Estimator, failure: Failure) -> Failure:
    """Returns the shortest piece of one environment, or of all, on which the same property fails."""
    steps, num_envs = failure.trajectory["rewards"].shape
    for length in range(1, steps):
        for start in range(steps - length + 1):
            for those in (*(slice(env, env + 1) for env in range(num_envs)), slice(None)):
                piece = {
                    key: x[start : start + length, those] if np.ndim(x) else x for key, x in failure.trajectory.items()
                }
                smaller = _compare(fn, failure.property, piece, failure.cause)
                if smaller is not None:
                    return smaller
    return failure


def _check_repeats(fn: Estimator) -> Iterator[Failure]:
    """Calls it twice with the same input, and with another input in between."""
    one, other = base_trajectory(70), base_trajectory(71)
    first = _call(fn, one)
    _call(fn, other)
    again = _call(fn, one)
    if not all(_close(a, b) for a, b in zip(again, first, strict=True)):
        yield Failure("the same twice", "something is kept from call to call", one, first[0], again[0])


def _check_long(fn: Estimator) -> Iterator[Failure]:
    """Takes many steps: boundaries far from both ends, and what rounding loses."""
    many = base_trajectory(31, 700, 5, flags=0.03)
    many = {name: x if x.dtype == bool else np.float64(np.float32(x)) for name, x in many.items()}
    expected, (got, targets) = plain_gae(**many), _call(fn, many)
    if got.shape != expected.shape or targets.shape != expected.shape:
        yield Failure(
            "700 steps of 5 environments", "long arrays give results of another shape", {}, expected.shape, got.shape
        )
        return
    if not _close(got, expected) or not _close(targets, expected + many["values"]):
        worst = np.argmax(np.abs(got - expected).max(1) + np.abs(targets - expected - many["values"]).max(1))
        cause = f"right for short arrays only (here wrong up to step {worst}): something is not passed on between parts"
        cause = cause if np.all(np.isfinite(got)) else DIGITS_LOST
        yield Failure("700 steps of 5 environments", cause, {}, expected[worst], got[worst])
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


def _check_splits(fn: Estimator) -> Iterator[Failure]:
    """Compares two episodes together with each alone."""
    both = simple_trajectory(6, num_envs=2, seed=40, truncated=[2])
    whole = _call(fn, both)[0]
    for part in (slice(0, 3), slice(3, 6)):
        alone = _call(fn, {name: x[part] if np.ndim(x) else x for name, x in both.items()})[0]
        if not _close(alone, whole[part]):
            yield Failure(
                "episodes apart", "an episode's advantages depend on its neighbours", both, alone, whole[part]
            )
            return


def _check_gradient(fn: Estimator, masks: bool) -> Iterator[Failure]:
    """Compares gradients of weighted sums with differences of the float64 reference."""
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
        total = lambda inputs: sum(
            jnp.sum(w * x)
            for w, x in zip(weights, fn(**inputs, **rest), strict=True)  # noqa: B023
        )
        gradients = jax.grad(total)(inputs)
        for name in floats:
            direction = rng_of(52).normal(size=np.shape(trajectory[name]))
            value = lambda sign: np.sum(
                weights * reference_gae(**{**trajectory, name: trajectory[name] + sign * 1e-5 * direction})  # noqa: B023
            )
            expected, got = (value(1) - value(-1)) / 2e-5, float(np.sum(np.asarray(gradients[name]) * direction))
            if not abs(got - expected) <= 1e-4 * max(1, abs(expected)):
                cause = "the gradient is not finite" if not np.isfinite(got) else "a custom derivative is wrong"
                cause = "the gradient is stopped inside" if not np.any(gradients[name]) else cause
                yield Failure(f"gradient with respect to {name}", cause, trajectory, expected, got)
                return


class Poisoning(NamedTuple):
    """A trajectory, the same with NaN or infinities where nothing may be seen, and the steps that must not notice."""

    property: str
    clean: dict
    poisoned: dict
    seen: tuple  # index of the advantages to compare
    cause: str


SELECT = "something multiplies where it should select: 0 * NaN is NaN, so use where before the product"
NAN_PASSES = "NaN passes from one environment to another, or from after the last step although it is terminated"
MASK_MULTIPLIES = "the mask multiplies where it should select: what masked steps hold, even NaN, must not be seen"


def _poisonings(masks: bool) -> Iterator[Poisoning]:
    for flag in ("terminated", "truncated"):
        clean = simple_trajectory(
            4, seed=60, terminated=[1] * (flag == "terminated"), truncated=[1] * (flag != "terminated")
        )
        for poison in (np.nan, np.inf):
            where = dict(rewards=np.s_[2:], values=np.s_[2:], next_values=np.s_[2 - (flag == "terminated") :])
            poisoned = _poisoned(clean, where, poison)
            yield Poisoning(f"{poison} after a {flag} step", clean, poisoned, np.s_[:2,], SELECT)
    clean = simple_trajectory(4, num_envs=2, seed=61, terminated=[3])
    poisoned = _poisoned(clean, dict.fromkeys(("rewards", "values", "next_values"), np.s_[:, 1]), np.nan)
    poisoned = _poisoned(poisoned, dict(next_values=np.s_[3, 0]), np.nan)
    yield Poisoning("nan in another environment and after the end", clean, poisoned, np.s_[:, 0], NAN_PASSES)
    if masks:
        clean = {**simple_trajectory(4, seed=62), "mask": np.array([True, False, True, False])[:, None]}
        poisoned = _poisoned(clean, dict(rewards=[1, 3], values=[1, 3]), np.nan)
        yield Poisoning("nan at masked steps", clean, poisoned, ([0, 2],), MASK_MULTIPLIES)


def _poisoned(trajectory: dict, where: dict[str, Any], poison: float) -> dict:
    poisoned = {name: trajectory[name].copy() for name in where}
    for name, index in where.items():
        poisoned[name][index] = poison
    return trajectory | poisoned


def _check_nan_isolation(fn: Estimator, gradient: bool, masks: bool) -> Iterator[Failure]:
    """Poisons what lies after a boundary, in another environment or at masked steps; the rest must not notice."""
    for name, clean, poisoned, seen, cause in _poisonings(masks):
        expected, got = reference_gae(**clean)[0][seen], _call(fn, poisoned)[0][seen]
        if not _close(got, expected):
            yield Failure(name, cause, poisoned, expected, got)
            return
        bad = _infinite_gradients(fn, poisoned, seen) if gradient and cause == SELECT else []
        if bad:
            cause = "a product's derivative in discount or gae_lambda is 0 * NaN: select the operand before the product"
            if set(bad) <= {"discount", "gae_lambda"}:
                cause += ", and a finite operand in the derivative of what all steps share (see isolated_product)"
            yield Failure(f"gradient with {name}", cause, poisoned, "finite", ", ".join(bad))
            return


def _infinite_gradients(fn: Estimator, trajectory: dict, seen: tuple) -> list[str]:
    """Returns the names of the floats in which the gradient of the advantages seen is not finite."""
    import jax
    import jax.numpy as jnp

    arguments = {name: jnp.asarray(x, None if np.ndim(x) else jnp.float32) for name, x in trajectory.items()}
    floats = {name: x.astype(jnp.float32) for name, x in arguments.items() if x.dtype != bool}
    rest = {name: x for name, x in arguments.items() if x.dtype == bool}
    gradients = jax.grad(lambda floats: jnp.sum(fn(**floats, **rest)[0][seen]))(floats)
    return [name for name, x in gradients.items() if not np.all(np.isfinite(x))]


def _check_errors(fn: Estimator) -> Iterator[Failure]:
    good = {
        name: np.asarray(x, np.float32 if np.asarray(x).dtype != bool else bool)
        for name, x in simple_trajectory(4, 3).items()
    }
    _call_raw(fn, good)  # correct input is not refused
    bad = [
        ("rewards", np.zeros((4, 3), np.int32), "integer rewards lose fractions"),
        ("values", np.zeros((5, 3), np.float32), "its shape differs from the shape of rewards"),
        ("next_values", np.zeros(3, np.float32), "its rank differs from the rank of rewards, which broadcasting hides"),
        ("terminated", np.zeros((4, 3), np.float32), "flags are boolean: floats may be anything"),
        ("terminated", np.zeros((4, 1), bool), "its shape differs from the shape of rewards"),
        ("truncated", np.zeros((3, 4), bool), "its shape differs from the shape of rewards"),
        ("truncated", np.zeros((4, 3), np.int32), "flags are boolean: integers may be anything"),
        ("discount", np.ones(3, np.float32), "a bare vector may mean steps or environments"),
        ("gae_lambda", np.ones(3, np.float32), "a bare vector may mean steps or environments"),
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
        yield Failure(f"errors: {name}", f"not refused, or not in that way ({why})", {name: value}, wanted, said)


def _call_raw(fn: Estimator, arguments: dict) -> Any:
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
