"""Conformance: give `check_policy` your own policy and read what is wrong with it, and how to fix it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.distributions import expected_values
from gaejax.environments import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space
from gaejax.policies import Policy
from gaejax.testing.conformance import Failure, Report

NUM_STEPS, NUM_ROWS, CUT = 12, 4, 5
OTHERS = np.array([2, 1, 2, 0])  # environments in another order, one of them twice
MEMORY = "whatever a step leaves to later ones (states, positions, counters) must be in the carry"
CLEAR = "clear the carry where resets[t], before observation t is read, as gaejax.policies.recurrent does"


def check_policy(policy: Policy, observations: Any = None, *, tolerance: float = 1e-5, seed: int = 0) -> Report:
    """Tests that applying a policy to T steps at once equals applying it to consecutive parts, that resets clear its
    memory, and that environments do not affect each other. Reports how to fix what fails.

    Args:
      policy: The policy. Noise is added to its initial parameters, for a head that starts at 0 would hide everything.
      observations: `[12, 4, ...]` (steps, environments), for a policy that does not know its `observation_space`.
      tolerance: The largest difference allowed, times the largest output if that is above 1. Gradients across a reset
        must be exactly 0.
      seed: The seed of parameters, observations and resets.

    Returns:
      A `Report`: print it to read the failures; `report.passed` is true if there are none.

    Raises:
      ValueError: If the observations are missing or have the wrong shape.
    """
    key, observations_key = jax.random.split(jax.random.key(seed))
    if observations is None:
        if policy.observation_space is None:
            raise ValueError(f"check_policy needs observations [{NUM_STEPS}, {NUM_ROWS}, ...] of this policy")
        observations = draw(observations_key, policy.observation_space, (NUM_STEPS, NUM_ROWS))
    if any(leaf.shape[:2] != (NUM_STEPS, NUM_ROWS) for leaf in jax.tree.leaves(observations)):
        shapes = [leaf.shape for leaf in jax.tree.leaves(observations)]
        raise ValueError(f"observations must be [{NUM_STEPS}, {NUM_ROWS}, ...] (steps, environments), got {shapes}")
    try:
        failures = list(_check_shapes(policy, key, observations))
        if not failures:
            params = _noisy(seed, jax.jit(policy.init)(key))
            pairs, gradients = jax.tree.map(np.asarray, jax.jit(partial(_measure, policy))(params, key, observations))
            remembers = bool(jax.tree.leaves(policy.initial_carry(1)))
            failures = list(_judge(pairs, gradients, remembers, tolerance))
    except Exception as error:  # whatever it is, it is the answer
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        failures = [Failure("init and apply (raises)", said, {}, "a result", said)]
    return Report(tuple(failures))


def draw(key: jax.Array, space: Space, shape: tuple[int, ...]) -> Any:
    """Draws observations of a space, `[*shape, ...]`: clipped normal numbers; the first of the booleans is true."""
    if isinstance(space, Dict):
        keys = jax.random.split(key, len(space.spaces))
        return {name: draw(key, part, shape) for key, (name, part) in zip(keys, space.spaces.items(), strict=True)}
    if isinstance(space, Box):
        return jnp.clip(jax.random.normal(key, (*shape, *space.shape)), space.low, space.high).astype(jnp.float32)
    if isinstance(space, MultiBinary):
        return jax.random.bernoulli(key, 0.6, (*shape, *space.shape)).at[..., 0].set(True)
    sizes = space.n if isinstance(space, Discrete) else jnp.asarray(space.sizes)
    assert isinstance(space, Discrete | MultiDiscrete)
    return jax.random.randint(key, (*shape, *space.shape), 0, sizes)


def _check_shapes(policy: Policy, key: jax.Array, observations: Any) -> Iterator[Failure]:
    """Checks shapes, without computing anything."""
    params = jax.eval_shape(policy.init, key)
    carry = jax.eval_shape(lambda: policy.initial_carry(NUM_ROWS))
    for leaf in jax.tree.leaves(carry):
        if leaf.shape[:1] != (NUM_ROWS,):
            remedy = "the first axis of every leaf must be the environments: store what they share once per environment"
            yield Failure("initial_carry", remedy, {}, (NUM_ROWS, "..."), leaf.shape)
            return
    resets = jnp.zeros((NUM_STEPS, NUM_ROWS), bool)
    following, distributions, values = jax.eval_shape(policy.apply, params, carry, observations, resets)
    if _signature(following) != _signature(carry):
        remedy = "apply must return the carry in the structure, shapes and types of initial_carry"
        yield Failure("carry", remedy, {}, _signature(carry), _signature(following))
    got = jax.eval_shape(expected_values, values).shape
    if got != resets.shape:
        yield Failure(
            "values", "one value per step and environment: drop the last axis of a value head", {}, resets.shape, got
        )
    log_prob = jax.eval_shape(lambda key, d: d.log_prob(d.sample(key)), key, distributions)
    if log_prob.shape != resets.shape:
        remedy = "one log-probability per step and environment: sum over the parts of an action"
        yield Failure("log_prob", remedy, {}, resets.shape, log_prob.shape)


def _signature(tree: Any) -> Any:
    return jax.tree.structure(tree), [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(tree)]


def _measure(policy: Policy, params: Any, key: jax.Array, observations: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns pairs of outputs that must be equal, and gradients that must be 0, by name.

    It is one program, and scenarios of equal length are vmapped, so that a policy is compiled a few times, not twenty.
    """
    actions_key, resets_key, weights_key = jax.random.split(key, 3)
    fresh, never = policy.initial_carry(NUM_ROWS), jnp.zeros((NUM_STEPS, NUM_ROWS), bool)
    warm, distributions, _ = policy.apply(params, fresh, observations, never)
    actions = [distributions.sample(key) for key in jax.random.split(actions_key, 3)]
    resets = jax.random.bernoulli(resets_key, 0.2, never.shape).at[0].set([True, False, False, False])
    resets = resets.at[CUT - 1 : CUT + 2].set([False, True, False, True])
    starts = never.at[CUT].set(True)  # all environments start an episode: what follows is what a fresh carry would see

    def run(carry: Any, inputs: tuple) -> tuple[Any, jax.Array]:
        """Returns the carry after some steps, and what a training step reads of each, `[steps, environments, 5]`."""
        observations, resets, actions = inputs
        carry, distributions, values = policy.apply(params, carry, observations, resets)
        log_probs = [distributions.log_prob(each) for each in actions]
        return carry, jnp.stack([*log_probs, distributions.entropy(), expected_values(values)], axis=-1)

    def run_in_steps(carry: Any, inputs: tuple) -> tuple[Any, jax.Array]:
        def step(carry: Any, now: tuple) -> tuple[Any, jax.Array]:
            carry, outputs = run(carry, jax.tree.map(lambda x: x[None], now))
            return carry, outputs[0]

        return jax.lax.scan(step, carry, inputs)

    pairs = _compare_runs(run, run_in_steps, fresh, warm, (observations, resets, actions), starts)

    weights = jax.random.normal(weights_key, (NUM_STEPS, NUM_ROWS, 5))

    def before_and_after(carry: Any, observations: Any) -> jax.Array:
        """Sums what precedes CUT in a run without resets, and what follows it in one where an episode starts there."""
        inputs = (observations, jnp.stack([never, starts]), _stack([actions] * 2))
        outputs = weights * jax.vmap(run)(carry, inputs)[1]
        return jnp.sum(outputs[0, :CUT]) + jnp.sum(outputs[1, CUT:])

    twice = _stack([warm] * 2), _stack([observations] * 2)
    of_carry, of_observations = jax.grad(before_and_after, (0, 1), allow_int=True)(*twice)
    return pairs, {
        "across a reset": _largest((_index(of_carry, 1), _part(_index(of_observations, 1), 0, CUT))),
        "from later steps": _largest(_part(_index(of_observations, 0), CUT, None)),
    }


def _compare_runs(
    run: Callable, run_in_steps: Callable, fresh: Any, warm: Any, with_resets: tuple, starts: jax.Array
) -> dict[str, tuple]:
    """Returns the pairs of outputs that must be equal, from a fresh and a warm carry."""
    observations, _, actions = with_resets
    without = (observations, jnp.zeros_like(starts), actions)
    poisoned = jax.tree.map(_poisoned, observations)
    carries, whole = _together(
        run,
        {
            "without resets": (warm, without),
            "with resets": (warm, with_resets),
            "others": (_index(warm, OTHERS), jax.tree.map(lambda x: x[:, OTHERS], with_resets)),
            "reset": (warm, (observations, starts, actions)),
            "reset early": (warm, (observations, jnp.roll(starts, -1, axis=0), actions)),
            "reset after NaN": (warm, (poisoned, starts, actions)),
        },
    )
    cut_carries, first = _together(
        run,
        {
            "without resets": (warm, _part(without, 0, CUT)),
            "with resets": (warm, _part(with_resets, 0, CUT)),
        },
    )
    later_carries, second = _together(
        run,
        {
            "without resets": (cut_carries["without resets"], _part(without, CUT, None)),
            "with resets": (cut_carries["with resets"], _part(with_resets, CUT, None)),
            "fresh": (fresh, _part(without, CUT, None)),
        },
    )
    _, stepwise = _together(
        run_in_steps,
        {
            "without resets": (warm, without),
            "with resets": (warm, with_resets),
            # After the reset and after the fresh carry's steps any inputs must do the same.
            "on from fresh": (later_carries["fresh"], without),
            "on from reset": (carries["reset"], without),
        },
    )
    joined = {name: jnp.concatenate([first[name], second[name]]) for name in first}
    return {
        "single steps without resets": (whole["without resets"], stepwise["without resets"]),
        "single steps with resets": (whole["with resets"], stepwise["with resets"]),
        "two parts without resets": (whole["without resets"], joined["without resets"]),
        "two parts with resets": (whole["with resets"], joined["with resets"]),
        "among other environments": (whole["with resets"][:, OTHERS], whole["others"]),
        "an episode after a reset": (second["fresh"], whole["reset"][CUT:]),
        "a reset one step early": (second["fresh"], whole["reset early"][CUT:]),
        "the carry after a reset": (stepwise["on from fresh"], stepwise["on from reset"]),
        "an episode after a NaN": (second["fresh"], whole["reset after NaN"][CUT:]),
    }


def _together(run: Callable, scenarios: dict[str, tuple]) -> tuple[dict[str, Any], dict[str, jax.Array]]:
    """Runs scenarios of equal length under one `vmap`; returns their carries and their outputs."""
    carries, outputs = jax.vmap(run)(*_stack(list(scenarios.values())))
    return {name: _index(carries, i) for i, name in enumerate(scenarios)}, dict(zip(scenarios, outputs, strict=True))


def _judge(pairs: dict, gradients: dict, remembers: bool, tolerance: float) -> Iterator[Failure]:
    """Yields the first failure only, since the others may follow from it."""
    wrong = {name: _difference(expected, got, tolerance) for name, (expected, got) in pairs.items()}
    if found := wrong["among other environments"]:
        remedy = "environments must not affect each other: take no statistic (as BatchNorm does) over them or over time"
        yield Failure("among other environments", remedy, *found)
    elif gradients["from later steps"]:
        remedy = "step t must not see later steps: mask the attention, and take no statistic over time"
        yield Failure("gradient from later steps", remedy, {}, 0.0, gradients["from later steps"])
    elif found := wrong["single steps without resets"] or wrong["two parts without resets"]:
        remedy = MEMORY if remembers else f"its carry is empty, yet a step depends on others: {MEMORY}"
        yield Failure("time cut anywhere", remedy, *found)
    elif wrong["an episode after a reset"] or gradients["across a reset"]:
        late = "the carry is cleared one step late: " if not wrong["a reset one step early"] else ""
        if found := wrong["an episode after a reset"]:
            yield Failure("an episode after a reset", late + CLEAR, *found)
        else:
            yield Failure("gradient across a reset", CLEAR, {}, 0.0, gradients["across a reset"])
    elif found := wrong["single steps with resets"] or wrong["two parts with resets"]:
        yield Failure(
            "time cut anywhere, with resets", f"every step of every environment has its own reset: {CLEAR}", *found
        )
    elif found := wrong["the carry after a reset"]:
        yield Failure("the carry after a reset", f"it holds more than a fresh one would: {CLEAR}", *found)
    elif found := wrong["an episode after a NaN"]:
        remedy = "a final observation may be NaN: select with jnp.where, for 0 times NaN is NaN"
        yield Failure("an episode after a NaN", remedy, *found)


def _difference(expected: np.ndarray, got: np.ndarray, tolerance: float) -> tuple | None:
    """Returns where two outputs differ most, and what they are there; None if they are equal."""
    error = np.abs(np.where(np.isfinite(got), got, np.inf) - expected)
    if np.all(error <= tolerance * max(1.0, np.abs(expected).max())):
        return None
    step, environment, output = np.unravel_index(np.argmax(error), error.shape)
    place = {"step": np.int64(step), "environment": np.int64(environment)}
    return place, expected[step, environment, output], got[step, environment, output]


def _stack(trees: list) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _index(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _part(tree: Any, start: int, stop: int | None) -> Any:
    return jax.tree.map(lambda x: x[start:stop], tree)


def _poisoned(observations: jax.Array) -> jax.Array:
    """Returns `observations`, with floats set to NaN before CUT."""
    if not jnp.issubdtype(observations.dtype, jnp.floating):
        return observations
    return observations.at[:CUT].set(jnp.nan)


def _noisy(seed: int, params: Any) -> Any:
    """Returns parameters as they might be after some training."""
    rng = np.random.default_rng(seed)

    def add(leaf: jax.Array) -> jax.Array:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf + jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype) if floating else leaf

    return jax.tree.map(add, params)


def _largest(gradients: Any) -> jax.Array:
    """Returns the largest absolute value among the floats."""
    floats = [leaf for leaf in jax.tree.leaves(gradients) if leaf.dtype != jax.dtypes.float0 and leaf.size]
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in floats])) if floats else jnp.zeros(())
