"""The conformance suite: right GAEs pass, and each of many wrong ones is caught with its cause."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gaejax
from gaejax.recurrence import METHODS
from gaejax.testing import FEATURES, check_gae, reference

GAE = jax.jit(gaejax.gae)


def somebodys_gae(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
    """A plain right one, in NumPy, without any care for masks, NaN or errors."""
    rewards, values, next_values = (np.asarray(x) for x in (rewards, values, next_values))
    alive, going = 1.0 - np.asarray(terminated), 1.0 - np.asarray(terminated | truncated)
    discount, gae_lambda = (np.broadcast_to(np.asarray(x), rewards.shape) for x in (discount, gae_lambda))
    advantages, last = np.zeros_like(rewards), 0.0
    for t in range(len(rewards) - 1, -1, -1):
        delta = rewards[t] + discount[t] * next_values[t] * alive[t] - values[t]
        last = delta + discount[t] * gae_lambda[t] * going[t] * last
        advantages[t] = last
    return advantages, advantages + values


def scan(step_of):
    """A GAE in JAX whose step is `step_of(row, last) -> advantage`, row a dict."""

    def estimator(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
        row = dict(r=rewards, v=values, nv=next_values, term=terminated, trunc=truncated)
        row |= {name: jnp.broadcast_to(x, rewards.shape) for name, x in (("g", discount), ("l", gae_lambda))}
        row["later_v"] = jnp.concatenate([values[1:], next_values[-1:]])
        done = terminated | truncated
        row["done"], row["done_before"] = done, jnp.concatenate([jnp.zeros_like(done[:1]), done[:-1]])
        row["done_after"] = jnp.concatenate([done[1:], jnp.zeros_like(done[:1])])

        def step(last, row):
            last = step_of(row, last)
            return last, last

        advantages = jax.lax.scan(step, jnp.zeros_like(rewards[0]), row, reverse=True)[1]
        return advantages, advantages + values

    return jax.jit(estimator)  # bare, every call would compile its scan


def delta(x, bootstrap):
    return x["r"] + x["g"] * bootstrap - x["v"]


def right(x, last):
    return delta(x, x["nv"] * ~x["term"]) + x["g"] * x["l"] * ~x["done"] * last


def targets(change):
    """A right GAE with other value targets."""

    def estimator(values, **rest):
        advantages, value_targets = GAE(values=values, **rest)
        return advantages, change(advantages, values, value_targets)

    return estimator


def closed_form(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
    """Sums divided by powers of discount * lambda: right on short episodes only."""
    if len(rewards) < 100:
        return GAE(
            rewards=rewards,
            values=values,
            next_values=next_values,
            terminated=terminated,
            truncated=truncated,
            discount=discount,
            gae_lambda=gae_lambda,
        )
    deltas = rewards + discount * next_values - values
    powers = (discount * gae_lambda) ** jnp.arange(len(rewards))[:, None]
    advantages = jnp.cumsum((deltas * powers)[::-1], axis=0)[::-1] / powers
    return advantages, advantages + values


WRONG = {
    "time limits are deaths": (
        scan(lambda x, last: delta(x, x["nv"] * ~x["done"]) + x["g"] * x["l"] * ~x["done"] * last),
        "a time limit is treated as a termination",
    ),
    "deaths are bootstrapped": (
        scan(lambda x, last: delta(x, x["nv"]) + x["g"] * x["l"] * ~x["done"] * last),
        "a termination is bootstrapped",
    ),
    "truncation wins": (
        scan(lambda x, last: delta(x, x["nv"] * ~(x["term"] & ~x["trunc"])) + x["g"] * x["l"] * ~x["done"] * last),
        "both flags are set truncation wins",
    ),
    "trace over truncations": (
        scan(lambda x, last: delta(x, x["nv"] * ~x["term"]) + x["g"] * x["l"] * ~x["term"] * last),
        "the trace is not cut at truncation",
    ),
    "trace over everything": (
        scan(lambda x, last: delta(x, x["nv"] * ~x["term"]) + x["g"] * x["l"] * last),
        "the trace is never cut",
    ),
    "no lambda": (
        scan(lambda x, last: delta(x, x["nv"] * ~x["term"]) + x["g"] * ~x["done"] * last),
        "lambda is missing from the trace",
    ),
    "no discount in the trace": (
        scan(lambda x, last: delta(x, x["nv"] * ~x["term"]) + x["l"] * ~x["done"] * last),
        "the discount is missing from the trace",
    ),
    "the value after a reset": (
        scan(lambda x, last: delta(x, x["later_v"] * ~x["term"]) + x["g"] * x["l"] * ~x["done"] * last),
        "next_values is not read",
    ),
    "one step only": (scan(lambda x, last: right(x, 0 * last)), "lambda is treated as 0"),
    "targets without values": (targets(lambda a, v, t: a), "value_targets is advantages + values"),
    "targets that are values": (targets(lambda a, v, t: v), "value_targets is advantages + values"),
    "a closed form": (closed_form, "digits are lost over long times"),
}


def returns(**steps):
    value_targets = GAE(**steps)[1]
    return value_targets, value_targets


def shifted(**steps):
    """Flags of the step before, as where `done` belongs to the observation."""
    later = {name: jnp.roll(steps[name], 1, axis=0).at[0].set(False) for name in ("terminated", "truncated")}
    return GAE(**{**steps, **later})


def first_lambda(**steps):
    return GAE(**{**steps, "gae_lambda": jnp.ravel(jnp.asarray(steps["gae_lambda"]))[0]})


def normalized(**steps):
    advantages, value_targets = GAE(**steps)
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8), value_targets


def no_bootstrap_at_the_end(**steps):
    return GAE(**{**steps, "terminated": jnp.asarray(steps["terminated"]).at[-1].set(True)})


WRONG |= {
    "returns": (returns, "values is not subtracted"),
    "shifted flags": (shifted, "the flags are shifted by one step"),
    "normalized": (normalized, "the advantages are normalized"),
    "no value after the end": (no_bootstrap_at_the_end, "the value after the last step is treated as 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_gae_is_caught_with_its_cause(name):
    fn, cause = WRONG[name]
    report = check_gae(fn)
    assert not report.passed
    assert all(cause in failure.cause for failure in report.failures[:1]), str(report)
    smallest = report.failures[0].trajectory
    assert name == "a closed form" or len(smallest["rewards"]) <= 3


def with_mask(change):
    """A right GAE whose treatment of masks is another."""

    def estimator(mask=None, **steps):
        return GAE(**steps) if mask is None else change(mask, steps)

    return estimator


def masked_loop(decay_of_masked, successor_of):
    """A loop over tokens, as in language-model trainers."""

    def change(mask, s):
        carry, arriving, rows = jnp.zeros_like(s["rewards"][0]), s["next_values"][-1], []
        discount, gae_lambda = (jnp.broadcast_to(s[name], mask.shape) for name in ("discount", "gae_lambda"))
        for t in reversed(range(len(mask))):
            term, trunc = s["terminated"][t], s["truncated"][t]
            done = term | trunc
            carry = jnp.where(done, 0, carry)
            arriving = jnp.where(term, 0, jnp.where(trunc, s["next_values"][t], arriving))
            successor = jnp.where(term, 0, successor_of(arriving, s["next_values"][t]))
            delta = s["rewards"][t] + discount[t] * successor - s["values"][t]
            kept = delta + discount[t] * gae_lambda[t] * carry
            carry = jnp.where(mask[t], kept, decay_of_masked(discount[t] * gae_lambda[t]) * carry)
            arriving = jnp.where(mask[t], s["values"][t], arriving)
            rows.append(carry)
        advantages = jnp.stack(rows[::-1])
        return advantages, jnp.where(mask, advantages + s["values"], 0)

    return jax.jit(change)


WRONG_MASKS = {
    "ignored": (lambda mask, steps: GAE(**steps), "mask is ignored"),
    "cutting": (masked_loop(lambda decay: 0.0, lambda arriving, following: arriving), "masked steps cut the trace"),
    "decaying": (masked_loop(lambda decay: decay, lambda arriving, following: arriving), "decays at masked steps"),
    "next row": (masked_loop(lambda decay: 1.0, lambda arriving, following: following), "next_values is read before"),
}


@pytest.mark.parametrize("name", WRONG_MASKS)
def test_a_wrong_mask_is_caught_with_its_cause(name):
    change, cause = WRONG_MASKS[name]
    report = check_gae(with_mask(change), "mask")
    assert not report.passed and cause in report.failures[0].cause, str(report)


def test_a_right_loop_over_masked_tokens_passes():
    report = check_gae(with_mask(masked_loop(lambda decay: 1.0, lambda arriving, following: arriving)), "mask")
    assert report.passed, str(report)


@pytest.mark.parametrize("method", METHODS)
def test_ours_passes_with_all_features(method):
    fn = jax.jit(gaejax.gae, static_argnames="method")
    report = check_gae(lambda **steps: fn(**steps, method=method), [f for f in FEATURES if f != "errors"])
    assert report.passed, str(report)


ON_POLICY = {  # what these estimators are when behaviour and policy are one
    "td_lambda": lambda gae_lambda, **steps: gaejax.td_lambda(trace_lambda=gae_lambda, **steps),
    "vtrace": lambda rewards, **steps: gaejax.vtrace(rewards=rewards, log_ratios=jnp.zeros_like(rewards), **steps),
    "decoupled_gae": lambda gae_lambda, **steps: gaejax.decoupled_gae(
        gae_lambda=gae_lambda, value_lambda=gae_lambda, **steps
    ),
}


@pytest.mark.parametrize("name", ON_POLICY)
def test_the_estimators_that_are_gae_on_policy_pass_too(name):
    features = ("mask", "gradient", "nan_isolation")
    report = check_gae(jax.jit(ON_POLICY[name]), features)
    assert report.passed, str(report)


def test_ours_refuses_bad_input():
    assert check_gae(gaejax.gae, "errors").passed


def test_a_plain_right_gae_passes_the_base_checks_and_fails_what_it_cannot_do():
    assert check_gae(somebodys_gae).passed, str(check_gae(somebodys_gae))
    fn = scan(right)
    assert check_gae(fn).passed
    assert check_gae(fn, "gradient").passed
    poisoned = check_gae(fn, "nan_isolation")
    assert "0 * NaN is NaN" in poisoned.failures[0].cause
    assert not check_gae(fn, "errors").passed
    assert "unexpected keyword" in str(check_gae(somebodys_gae, "mask"))


def test_gradients_that_are_stopped_or_poisoned_are_named():
    stopped = lambda **steps: tuple(jax.lax.stop_gradient(x) for x in gaejax.gae(**steps))  # noqa: E731
    assert "stopped" in check_gae(stopped, "gradient").failures[0].cause

    def selected_too_late(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
        def step(last, x):
            r, v, nv, term, done = x
            a = r + jnp.where(term, 0, discount * nv) - v + jnp.where(done, 0, discount * gae_lambda * last)
            return a, a

        rows = (rewards, values, next_values, terminated, terminated | truncated)
        advantages = jax.lax.scan(step, jnp.zeros_like(rewards[0]), rows, reverse=True)[1]
        return advantages, advantages + values

    def fn(discount, gae_lambda, rewards, **steps):
        if jnp.ndim(discount) == 0 and jnp.ndim(gae_lambda) == 0:
            return selected_too_late(discount=discount, gae_lambda=gae_lambda, rewards=rewards, **steps)
        return gaejax.gae(discount=discount, gae_lambda=gae_lambda, rewards=rewards, **steps)

    assert check_gae(fn, "nan_isolation").passed
    failure = check_gae(fn, ("nan_isolation", "gradient")).failures[0]
    assert "select the operand" in failure.cause


def test_what_raises_or_has_another_shape_is_reported_not_raised():
    def raises(**steps):
        raise RuntimeError("no")

    assert "RuntimeError: no" in str(check_gae(raises))
    assert "shape of rewards" in check_gae(lambda **steps: (steps["rewards"][0], steps["rewards"])).failures[0].cause
    with pytest.raises(ValueError, match="features must be among"):
        check_gae(gaejax.gae, "masks")


def test_the_reference_imports_nothing_that_it_judges():
    tree = ast.parse(Path(reference.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {name for node in imports for name in ([node.module] if isinstance(node, ast.ImportFrom) else [])} == {
        "typing"
    }
    assert {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names} == {"numpy"}
