"""Conformance: point `check_gae` at a GAE of your own and read what is wrong with it, and why."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

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
        return (
            f"{self.property}: expected {_short(self.expected)}, got {_short(self.got)}; likely cause: {self.cause}; "
            f"with {arrays}"
        )


@dataclass(frozen=True, eq=False)
class Report:
    """What `check_gae` found."""

    failures: tuple[Failure, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        return "passed" if self.passed else "\n".join(map(str, self.failures))


def reference_gae(
    *,
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    discount: Any,
    gae_lambda: Any,
    mask: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """GAE in float64 by the forward view: for each step, the weighted sum of the deltas up to its segment's end
    (Schulman et al. 2016, equation 16). Slow, and without a recurrence that could be wrong. Arrays `[T, N]`.

    With `mask`, masked steps are deleted: only kept steps are summed, and a kept step's successor is the next one.
    """
    rewards, values, next_values = (np.asarray(x, np.float64) for x in (rewards, values, next_values))
    steps, rows = rewards.shape
    discount, gae_lambda = (np.broadcast_to(np.asarray(x, np.float64), (steps, rows)) for x in (discount, gae_lambda))
    kept = np.ones((steps, rows), bool) if mask is None else np.asarray(mask)
    advantages = np.zeros((steps, rows))
    for row in range(rows):
        deltas = np.zeros(steps)
        for t in range(steps):
            if kept[t, row]:
                successor = successor_value(t, row, values, next_values, terminated, truncated, kept, mask is None)
                deltas[t] = rewards[t, row] + discount[t, row] * successor - values[t, row]
        for start in range(steps):
            weight = 1.0
            for t in range(start, steps):
                if kept[t, row]:
                    advantages[start, row] += weight * deltas[t]
                    weight *= discount[t, row] * gae_lambda[t, row]
                if terminated[t, row] or truncated[t, row]:
                    break
    return advantages, np.where(kept, advantages + values, 0)


def successor_value(
    t: int,
    row: int,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    kept: Any,
    explicit: bool,
) -> Any:
    """The value behind kept step t: of the next kept step of its segment, or what stands at the segment's end. With
    `explicit` (there is no mask) the caller's next value."""
    while True:
        if terminated[t, row]:
            return 0.0
        if truncated[t, row] or explicit or t == len(values) - 1:
            return next_values[t, row]
        t += 1
        if kept[t, row]:
            return values[t, row]


# What people get wrong, each as the GAE that one obtains by it: the cause named is the one that gives what was got.


class _Wrong(NamedTuple):
    """Changes to the plain recurrence `A = delta + decay * A'`."""

    cause: str
    change: Callable


def _plain(
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    discount: Any,
    gae_lambda: Any,
    *,
    bootstrap: Any = None,
    cut: Any = None,
    decay: Any = None,
) -> np.ndarray:
    """The recurrence, with parts to be replaced."""
    bootstrap = np.where(terminated, 0, next_values) if bootstrap is None else bootstrap
    cut = terminated | truncated if cut is None else cut
    decay = discount * gae_lambda if decay is None else decay
    deltas = rewards + discount * bootstrap - values
    advantages, carry = np.zeros_like(deltas), np.zeros(deltas.shape[1])
    decay = np.broadcast_to(decay, deltas.shape)
    for t in reversed(range(len(deltas))):
        advantages[t] = carry = deltas[t] + decay[t] * np.where(cut[t], 0, carry)
    return advantages


def _later(x: Any) -> np.ndarray:
    """Of the next step; False behind the last."""
    return np.concatenate([x[1:], np.zeros_like(x[:1])])


def _earlier(x: Any) -> np.ndarray:
    return np.concatenate([np.zeros_like(x[:1]), x[:-1]])


def _following_rows(s: dict) -> np.ndarray:
    """The values of the next row, whatever it belongs to."""
    return np.concatenate([s["values"][1:], s["next_values"][-1:]])


def _ended(s: dict) -> np.ndarray:
    return s["terminated"] | s["truncated"]


WRONG = (
    _Wrong(
        "a time limit is taken for a termination: bootstrap next_values where truncated",
        lambda s: _plain(**s, bootstrap=np.where(_ended(s), 0, s["next_values"])),
    ),
    _Wrong(
        "a termination is bootstrapped: the successor of a terminated step is worth 0, and termination wins over "
        "truncation",
        lambda s: _plain(**s, bootstrap=s["next_values"]),
    ),
    _Wrong(
        "where both flags are set truncation wins: it must be termination",
        lambda s: _plain(**s, bootstrap=np.where(s["terminated"] & ~s["truncated"], 0, s["next_values"])),
    ),
    _Wrong(
        "the trace is not cut at truncation: later deltas leak into the episode before",
        lambda s: _plain(**s, cut=s["terminated"]),
    ),
    _Wrong(
        "the trace is not cut at termination: later deltas leak into the episode before",
        lambda s: _plain(**s, cut=s["truncated"]),
    ),
    _Wrong(
        "the trace is never cut: later deltas leak into the episode before",
        lambda s: _plain(**s, cut=np.zeros_like(_ended(s))),
    ),
    _Wrong(
        "lambda is missing from the trace: it is discount * gae_lambda, not discount",
        lambda s: _plain(**s, decay=s["discount"]),
    ),
    _Wrong(
        "the discount is missing from the trace: it is discount * gae_lambda, not gae_lambda",
        lambda s: _plain(**s, decay=s["gae_lambda"]),
    ),
    _Wrong(
        "the discount is missing from delta: it is rewards + discount * next_values - values",
        lambda s: _plain(
            **{**s, "rewards": s["rewards"] + (1 - s["discount"]) * np.where(s["terminated"], 0, s["next_values"])}
        ),
    ),
    _Wrong(
        "the flags are shifted by one step: the flag of step t speaks of what follows step t, not of step t + 1",
        lambda s: _plain(**{**s, "terminated": _later(s["terminated"]), "truncated": _later(s["truncated"])}),
    ),
    _Wrong(
        "the flags are shifted by one step: the flag of step t speaks of what follows step t, not of step t - 1",
        lambda s: _plain(**{**s, "terminated": _earlier(s["terminated"]), "truncated": _earlier(s["truncated"])}),
    ),
    _Wrong(
        "next_values is not read: the next row's value is not that of the successor where an episode was truncated",
        lambda s: _plain(**s, bootstrap=np.where(s["terminated"], 0, _following_rows(s))),
    ),
    _Wrong(
        "the value behind the last step is taken for 0: bootstrap next_values there too",
        lambda s: _plain(
            **s,
            bootstrap=np.where(
                s["terminated"] | (np.arange(len(s["rewards"])) == len(s["rewards"]) - 1)[:, None], 0, s["next_values"]
            ),
        ),
    ),
    _Wrong(
        "the last step is never computed: the loop is one step short",
        lambda s: np.where((np.arange(len(s["rewards"])) == len(s["rewards"]) - 1)[:, None], 0, _plain(**s)),
    ),
    _Wrong(
        "the last step is never computed: the loop starts one step before it",
        lambda s: np.concatenate([_plain(**_piece(s, slice(0, -1))), np.zeros_like(s["rewards"][-1:])]),
    ),
    _Wrong(
        "the trace is not cut where both flags are set",
        lambda s: _plain(**s, cut=s["terminated"] ^ s["truncated"]),
    ),
    _Wrong(
        "flags are multiplied onto the result: they cut inside the loop",
        lambda s: np.where(_ended(s), 0, _plain(**s, cut=np.zeros_like(_ended(s)))),
    ),
    _Wrong(
        "a truncated step is bootstrapped twice: next_values goes into delta once",
        lambda s: _plain(
            **{**s, "rewards": s["rewards"] + s["discount"] * np.where(s["truncated"], s["next_values"], 0)}
        ),
    ),
    _Wrong(
        "the flags are shifted by one step and a time limit is taken for a termination, as where `done` belongs to the "
        "observation and next_values is the next row's",
        lambda s: _plain(
            **{
                **s,
                "terminated": _later(_ended(s)),
                "truncated": np.zeros_like(_ended(s)),
                "next_values": _following_rows(s),
            }
        ),
    ),
    _Wrong(
        "discount and gae_lambda are swapped",
        lambda s: _plain(**{**s, "discount": s["gae_lambda"], "gae_lambda": s["discount"]}),
    ),
    _Wrong(
        "lambda is in delta: it weighs the trace only",
        lambda s: _plain(**s, bootstrap=np.where(s["terminated"], 0, s["gae_lambda"] * s["next_values"])),
    ),
    _Wrong(
        "delta is multiplied by lambda: it weighs the trace only",
        lambda s: _plain(
            **{
                **s,
                "values": np.zeros_like(s["values"]),
                "next_values": np.zeros_like(s["values"]),
                "rewards": s["gae_lambda"] * _one_step(s),
            }
        ),
    ),
    _Wrong(
        "rewards are cast to integers: fractions are lost",
        lambda s: _plain(**{**s, "rewards": np.trunc(s["rewards"])}),
    ),
    _Wrong(
        "rewards are clipped to [-1, 1]: that belongs to the environment",
        lambda s: _plain(**{**s, "rewards": np.clip(s["rewards"], -1, 1)}),
    ),
    _Wrong("values is not subtracted: these are returns, not advantages", lambda s: _plain(**s) + s["values"]),
    _Wrong("the advantages have the wrong sign", lambda s: -_plain(**s)),
    _Wrong("time runs forwards: the recurrence goes from the last step to the first", lambda s: _forwards(s)),
    _Wrong("lambda is taken for 0: this is the one-step advantage", lambda s: _plain(**s, decay=0.0)),
    _Wrong(
        "the advantages are normalized: that belongs behind the estimator",
        lambda s: (_plain(**s) - _plain(**s).mean()) / (_plain(**s).std() + 1e-8),
    ),
    _Wrong(
        "only the first lambda and discount are used: they may change with every step",
        lambda s: _plain(**{**s, **{name: np.ravel(s[name])[0] for name in ("discount", "gae_lambda")}}),
    ),
    _Wrong(
        "only the first lambda is used: it may change with every step",
        lambda s: _plain(**{**s, "gae_lambda": np.ravel(s["gae_lambda"])[0]}),
    ),
    _Wrong(
        "only the first discount is used: it may change with every step",
        lambda s: _plain(**{**s, "discount": np.ravel(s["discount"])[0]}),
    ),
    _Wrong(
        "the first row's lambda or discount is used for all rows",
        lambda s: _plain(**{**s, **{name: np.asarray(s[name])[..., :1] for name in ("discount", "gae_lambda")}}),
    ),
    _Wrong(
        "the first row's flags are used for all rows",
        lambda s: _plain(
            **{**s, **{name: np.broadcast_to(s[name][:, :1], s[name].shape) for name in ("terminated", "truncated")}}
        ),
    ),
    _Wrong(
        "the step before's lambda or discount is used: those of step t weigh what follows step t",
        lambda s: _plain(**s, decay=_earlier(np.broadcast_to(s["discount"] * s["gae_lambda"], np.shape(s["rewards"])))),
    ),
    _Wrong(
        "the next step's lambda is used: that of step t weighs what follows step t",
        lambda s: _plain(**s, decay=s["discount"] * _later(np.broadcast_to(s["gae_lambda"], s["rewards"].shape))),
    ),
    _Wrong(
        "time is not the leading axis: arrays are [T, N]",
        lambda s: _plain(**{name: np.transpose(x) for name, x in s.items()}).T,
    ),
    _Wrong(
        "time runs forwards: the recurrence goes from the last step to the first",
        lambda s: _plain(**{name: x[::-1] if np.ndim(x) else x for name, x in s.items()})[::-1],
    ),
    _Wrong(
        "each row's advantages are normalized: that belongs behind the estimator",
        lambda s: (_plain(**s) - _plain(**s).mean(0)) / (_plain(**s).std(0) + 1e-8),
    ),
    _Wrong(
        "the next step's discount or lambda is used: those of step t weigh what follows step t",
        lambda s: _plain(**s, decay=_later(np.broadcast_to(s["discount"] * s["gae_lambda"], np.shape(s["rewards"])))),
    ),
)


def _one_step(s: dict) -> np.ndarray:
    return _plain(**s, decay=0.0)


def _piece(s: dict, part: slice) -> dict:
    return {name: x[part] if np.ndim(x) else x for name, x in s.items()}


def _forwards(s: dict) -> np.ndarray:
    flipped = {name: x[::-1] if np.ndim(x) else x for name, x in s.items()}
    deltas = s["rewards"] + s["discount"] * np.where(s["terminated"], 0, s["next_values"]) - s["values"]
    flipped["rewards"], zeros = deltas[::-1], np.zeros_like(deltas)
    flipped["terminated"] = flipped["truncated"] = _earlier(_ended(s))[::-1]
    return _plain(**{**flipped, "values": zeros, "next_values": zeros})[::-1]


WRONG_MASKS = (
    _Wrong("mask is ignored, or only multiplied onto the result", lambda s: reference_gae(**{**s, "mask": None})[0]),
    _Wrong(
        "the mask is inverted: true are the steps that count", lambda s: reference_gae(**{**s, "mask": ~s["mask"]})[0]
    ),
    _Wrong(
        "masked steps are taken for terminations: they are as if deleted",
        lambda s: _masked(
            s,
            deltas=reference_gae(
                **{**s, "terminated": s["terminated"] | ~s["mask"] | _before_masked(s), "gae_lambda": 0.0}
            )[0],
            cuts=~s["mask"] | _before_masked(s),
        ),
    ),
    _Wrong(
        "a masked step's reward is counted",
        lambda s: _masked(s, deltas=np.where(s["mask"], _masked_deltas(s), s["rewards"])),
    ),
    _Wrong(
        "masked steps cut the trace: it passes over them to the next kept step", lambda s: _masked(s, cuts=~s["mask"])
    ),
    _Wrong(
        "the trace decays at masked steps: it passes over them unchanged",
        lambda s: _masked(s, decay=s["discount"] * s["gae_lambda"]),
    ),
    _Wrong(
        "next_values is read before a masked step: there the value of the next kept step counts",
        lambda s: _masked(s, deltas=np.where(s["mask"], _unmasked_deltas(s), 0)),
    ),
)


def _before_masked(s: dict) -> np.ndarray:
    return np.concatenate([~s["mask"][1:], np.zeros_like(s["mask"][:1])])


def _unmasked_deltas(s: dict) -> np.ndarray:
    return s["rewards"] + s["discount"] * np.where(s["terminated"], 0, s["next_values"]) - s["values"]


def _masked_deltas(s: dict) -> np.ndarray:
    return np.where(s["mask"], reference_gae(**{**s, "gae_lambda": 0.0})[0], 0)


def _masked(s: dict, deltas: Any = None, cuts: Any = False, decay: Any = None) -> np.ndarray:
    deltas = _masked_deltas(s) if deltas is None else deltas
    decay = np.where(s["mask"], s["discount"] * s["gae_lambda"], 1) if decay is None else decay
    zeros = np.zeros_like(deltas)
    flags = dict(terminated=np.zeros(deltas.shape, bool), truncated=_ended(s) | cuts)
    return _plain(deltas, zeros, zeros, **flags, discount=1.0, gae_lambda=1.0, decay=decay)


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
    failures = _collect(_check_values, fn, _base_cases(), WRONG, _base_trajectory(0), _base_trajectory(1))
    changing = [failure for failure in _collect(_check_repeats, fn) if "raises" not in failure.property]
    failures = changing or failures or _collect(_check_long, fn) + _collect(_check_splits, fn)
    if failures:
        return Report(tuple(failures))  # what is built on a wrong base is not worth reading
    if "mask" in features:
        failures += _collect(
            _check_values, fn, _mask_cases(), WRONG_MASKS, _masked_trajectory(2), _masked_trajectory(3)
        )
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


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([20160601, seed])


def _trajectory(steps: int, rows: int = 1, seed: int = 0, **changes: Any) -> dict:
    """Random numbers without boundaries; flags are lists of the steps at which they are set."""
    rng = _rng(seed)
    floats = {name: rng.normal(size=(steps, rows)).round(2) for name in ("rewards", "values", "next_values")}
    floats["next_values"][:-1] = floats["values"][1:]
    flags = {name: np.zeros((steps, rows), bool) for name in ("terminated", "truncated")}
    for name in flags:
        for step in changes.pop(name, ()):
            flags[name][step] = True
    floats["next_values"][:-1][_ended(flags)[:-1]] = 3.0  # an episode's final value is not the next episode's first
    return {**floats, **flags, "discount": 0.9, "gae_lambda": 0.8, **changes}


def _base_trajectory(seed: int, steps: int = 12, rows: int = 3, flags: float = 0.2) -> dict:
    """All there is: both flags, a discount and a lambda for every step; behind a boundary any value, else the next."""
    rng = _rng(seed)
    floats = {name: 2 * rng.normal(size=(steps, rows)) for name in ("rewards", "values", "next_values")}
    booleans = {name: rng.random((steps, rows)) < flags for name in ("terminated", "truncated")}
    inside = ~_ended(booleans)[:-1]
    floats["next_values"][:-1][inside] = floats["values"][1:][inside]
    coefficients = dict(discount=rng.uniform(0.5, 1, (steps, rows)), gae_lambda=rng.uniform(0.2, 1, (steps, rows)))
    return {**floats, **booleans, **coefficients}


def _masked_trajectory(seed: int) -> dict:
    trajectory = _base_trajectory(seed)
    mask = _rng(seed).random(trajectory["rewards"].shape) < 0.6
    trajectory["next_values"] = _rng(seed + 1).normal(size=mask.shape)  # to be read at boundaries only
    return {**trajectory, "mask": mask}


def _base_cases() -> Iterator[tuple[str, dict, str]]:
    """Property, trajectory, and the cause if no better one is found; the smallest first."""
    yield "one step", _trajectory(1), "delta is rewards + discount * next_values - values"
    yield "one terminated step", _trajectory(1, terminated=[0]), "a terminated step's successor is worth 0"
    yield "one truncated step", _trajectory(1, truncated=[0]), "a truncated step's successor is bootstrapped"
    yield "both flags at once", _trajectory(1, terminated=[0], truncated=[0]), "termination wins over truncation"
    yield "two steps", _trajectory(2), "A = delta + discount * gae_lambda * A of the next step"
    yield "three steps", _trajectory(3), "the weights are powers of discount * gae_lambda"
    yield "termination inside", _trajectory(2, terminated=[0]), "nothing passes over a termination"
    yield "truncation inside", _trajectory(2, truncated=[0]), "the trace stops at a truncation, the bootstrap does not"
    yield "lambda 0", _trajectory(3, gae_lambda=0.0), "with lambda 0 the advantage is delta"
    yield "lambda 1", _trajectory(3, gae_lambda=1.0), "with lambda 1 it is the discounted return minus values"
    yield "discount 1", _trajectory(3, discount=1.0), "the discount is treated specially"
    yield "discount 0", _trajectory(3, discount=0.0), "the discount is divided by, or treated specially"
    rows = _trajectory(3, rows=2, truncated=[1])
    rows["truncated"][1, 0] = False
    rows["next_values"][1, 0] = rows["values"][2, 0]
    yield "several rows", rows, "rows are mixed, or time is not the leading axis"
    both = _trajectory(3, terminated=[1], truncated=[1])
    yield "both flags inside", both, "a step with both flags ends the trace, and its successor is worth 0"
    per_step = dict(discount=np.array([[0.9], [0.5], [0.7]]), gae_lambda=np.array([[0.8], [0.3], [0.6]]))
    yield "a discount and a lambda for every step", _trajectory(3, **per_step), "those of step t weigh step t + 1"
    for seed in range(4):
        everything = _base_trajectory(10 + seed)
        plain = {**everything, "discount": 0.97, "gae_lambda": 0.9}
        yield "random trajectories", plain, "boundaries and traces in combination"
        yield "random discounts and lambdas", everything, "those of step t weigh step t + 1"


def _mask_cases() -> Iterator[tuple[str, dict, str]]:
    mask = lambda *kept: np.array(kept, bool)[:, None]  # noqa: E731
    yield "nothing masked", {**_trajectory(3), "mask": mask(1, 1, 1)}, "a full mask must change nothing"
    yield "a masked last step", {**_trajectory(2), "mask": mask(1, 0)}, "at the array's end next_values is read"
    yield "a masked step inside", {**_trajectory(3), "mask": mask(1, 0, 1)}, "masked steps are as if deleted"
    cut = _trajectory(3, truncated=[1])
    yield "a masked step that is truncated", {**cut, "mask": mask(1, 0, 1)}, "the flags of masked steps still cut"
    for seed in range(4):
        yield "random masks", _masked_trajectory(20 + seed), "masks and boundaries in combination"


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
    one, other = _base_trajectory(70), _base_trajectory(71)
    first = _call(fn, one)
    _call(fn, other)
    again = _call(fn, one)
    if not all(_close(a, b) for a, b in zip(again, first, strict=True)):
        yield Failure("the same twice", "something is kept from call to call", one, first[0], again[0])


def _check_long(fn: Callable) -> Iterator[Failure]:
    """Many steps: boundaries far from both ends, and what is lost to rounding."""
    many = _base_trajectory(31, 700, 5, flags=0.03)
    many = {name: x if x.dtype == bool else np.float64(np.float32(x)) for name, x in many.items()}
    expected, (got, targets) = _plain(**many), _call(fn, many)
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
    rng = _rng(30)
    steps = {name: rng.normal(size=(10_000, 1)).astype(np.float32) for name in ("rewards", "values", "next_values")}
    steps["next_values"][:-1] = steps["values"][1:]
    flags = {name: np.zeros((10_000, 1), bool) for name in ("terminated", "truncated")}
    # Numbers that float32 holds exactly, so that the only rounding is the estimator's.
    for discount, gae_lambda, tolerance in ((1 - 2**-10, 1.0, 4e-6), (1.0, 1.0, 3e-5), (0.9921875, 0.9375, 4e-6)):
        trajectory = {**steps, **flags, "discount": discount, "gae_lambda": gae_lambda}
        double = {name: x if name in flags else np.float64(x) for name, x in trajectory.items()}
        expected, (got, targets) = _plain(**double), _call(fn, trajectory)
        error = max(np.abs(got - expected).max(), np.abs(targets - expected - double["values"]).max())
        if not error <= tolerance * max(1, np.abs(expected).max()):
            cause = DIGITS_LOST
            if got.shape == expected.shape and np.abs(got).max() < 0.99 * np.abs(expected).max():
                cause = "large advantages are clipped, or digits are lost over long times"
            yield Failure("ten thousand steps", cause, {"discount": discount, "gae_lambda": gae_lambda}, 0, error)
            return


def _check_splits(fn: Callable) -> Iterator[Failure]:
    """Two episodes at once give what each gives alone."""
    both = _trajectory(6, rows=2, seed=40, truncated=[2])
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

    per_step = _base_trajectory(50, 6, 2)
    cases = [{**per_step, "discount": 0.9, "gae_lambda": 0.7}, per_step]
    if masks:
        cases.append({**per_step, "mask": _rng(53).random((6, 2)) < 0.6})
    floats = ("rewards", "values", "next_values", "discount", "gae_lambda")
    for trajectory in cases:
        mask = trajectory.get("mask", np.ones((6, 2), bool))
        weights = mask * _rng(51).normal(size=(2, 6, 2))
        rest = {name: jnp.asarray(x) for name, x in trajectory.items() if name not in floats}
        inputs = {name: jnp.asarray(trajectory[name], jnp.float32) for name in floats}
        total = lambda inputs: sum(  # noqa: E731
            jnp.sum(w * x)
            for w, x in zip(weights, fn(**inputs, **rest), strict=True)  # noqa: B023
        )
        gradients = jax.grad(total)(inputs)
        for name in floats:
            direction = _rng(52).normal(size=np.shape(trajectory[name]))
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
        clean = _trajectory(4, seed=60, **{flag: [1]})
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
    rows = _trajectory(4, rows=2, seed=61, terminated=[3])
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
        masked = {**_trajectory(4, seed=62), "mask": np.array([True, False, True, False])[:, None]}
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
        for name, x in _trajectory(4, 3).items()
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
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.dtype.kind == "f":
        array = array.astype(np.float64).round(4)
    text = str(array.tolist() if array.ndim < 2 or array.shape[1] > 1 else array[:, 0].tolist())
    return text if len(text) < 200 else text[:197] + "..."
