"""Conformance: point `check_policy` at a policy of your own and read what is wrong with it, and how to mend it."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.environments import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space
from gaejax.policies import Policy
from gaejax.policies.critics import expected_values
from gaejax.testing.conformance import Failure, Report

NUM_STEPS, NUM_ROWS, CUT = 12, 4, 5
OTHERS = np.array([2, 1, 2, 0])  # rows in another order, one of them twice
MEMORY = "whatever a step leaves to later ones (states, positions, counters) must be in the carry"
CLEAR = "clear the carry where resets[t], before observation t is read, as gaejax.policies.recurrent does"


def check_policy(policy: Policy, observations: Any = None, *, tolerance: float = 1e-5, seed: int = 0) -> Report:
    """Tests the law of policies (time may be cut anywhere, resets forget, rows are apart); says how to mend a breach.

    Args:
      policy: with parameters as it draws them, to which noise is added (a head that starts at 0 would hide everything).
      observations: `[12, 4, ...]` (steps, rows) for a policy that does not know its `observation_space`.
      tolerance: what may differ, times the largest output where that is above 1. Gradients across a reset must be 0.
      seed: of parameters, observations and resets.

    Returns:
      A `Report`, to be printed; `report.passed` says whether all is well.
    """
    key, observations_key = jax.random.split(jax.random.key(seed))
    if observations is None:
        if policy.observation_space is None:
            raise ValueError(f"check_policy needs observations [{NUM_STEPS}, {NUM_ROWS}, ...] of this policy")
        observations = draw(observations_key, policy.observation_space, (NUM_STEPS, NUM_ROWS))
    if any(leaf.shape[:2] != (NUM_STEPS, NUM_ROWS) for leaf in jax.tree.leaves(observations)):
        shapes = [leaf.shape for leaf in jax.tree.leaves(observations)]
        raise ValueError(f"observations must be [{NUM_STEPS}, {NUM_ROWS}, ...] (steps, rows), got {shapes}")
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
    """Observations of a space, `[*shape, ...]`: normal numbers within its bounds; of booleans the first is true."""
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
    """The contract's shapes, without computing anything."""
    params = jax.eval_shape(policy.init, key)
    carry = jax.eval_shape(lambda: policy.initial_carry(NUM_ROWS))
    for leaf in jax.tree.leaves(carry):
        if leaf.shape[:1] != (NUM_ROWS,):
            remedy = "every leaf must lead with the rows: what is shared by all is stored once a row"
            yield Failure("initial_carry", remedy, {}, (NUM_ROWS, "..."), leaf.shape)
            return
    resets = jnp.zeros((NUM_STEPS, NUM_ROWS), bool)
    following, distributions, values = jax.eval_shape(policy.apply, params, carry, observations, resets)
    if _signature(following) != _signature(carry):
        remedy = "apply must return the carry in the structure, shapes and types of initial_carry"
        yield Failure("carry", remedy, {}, _signature(carry), _signature(following))
    got = jax.eval_shape(expected_values, values).shape
    if got != resets.shape:
        yield Failure("values", "one value a step and row: drop the last axis of a value head", {}, resets.shape, got)
    log_prob = jax.eval_shape(lambda key, d: d.log_prob(d.sample(key)), key, distributions)
    if log_prob.shape != resets.shape:
        remedy = "one log-probability a step and row: sum over the parts of an action"
        yield Failure("log_prob", remedy, {}, resets.shape, log_prob.shape)


def _signature(tree: Any) -> Any:
    return jax.tree.structure(tree), [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(tree)]


def _measure(policy: Policy, params: Any, key: jax.Array, observations: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pairs of outputs that must be equal, and gradients that must be 0, in one program. Scenarios of equal length are
    vmapped, so that a policy is compiled a few times, not twenty."""
    actions_key, resets_key, weights_key = jax.random.split(key, 3)
    fresh, never = policy.initial_carry(NUM_ROWS), jnp.zeros((NUM_STEPS, NUM_ROWS), bool)
    warm, distributions, _ = policy.apply(params, fresh, observations, never)
    actions = [distributions.sample(key) for key in jax.random.split(actions_key, 3)]

    def run(carry: Any, inputs: tuple) -> tuple[Any, jax.Array]:
        """The carry behind some steps, and what a training step reads of each, `[steps, rows, 5]`."""
        observations, resets, actions = inputs
        carry, distributions, values = policy.apply(params, carry, observations, resets)
        log_probs = [distributions.log_prob(each) for each in actions]
        return carry, jnp.stack([*log_probs, distributions.entropy(), expected_values(values)], axis=-1)

    def run_in_steps(carry: Any, inputs: tuple) -> jax.Array:
        def step(carry: Any, now: tuple) -> tuple[Any, jax.Array]:
            carry, outputs = run(carry, jax.tree.map(lambda x: x[None], now))
            return carry, outputs[0]

        return jax.lax.scan(step, carry, inputs)[1]

    resets = jax.random.bernoulli(resets_key, 0.2, never.shape).at[0].set([True, False, False, False])
    resets = resets.at[CUT - 1 : CUT + 2].set([False, True, False, True])
    starts = never.at[CUT].set(True)  # all rows start an episode: what follows is what a fresh carry would see
    early = jnp.roll(starts, -1, axis=0)
    poisoned = jax.tree.map(_poisoned, observations)

    with_resets = (warm, (observations, resets, actions))
    scenarios = [
        (warm, (observations, never, actions)),
        with_resets,
        (_row(warm, OTHERS), jax.tree.map(lambda x: x[:, OTHERS], with_resets[1])),
        (warm, (observations, starts, actions)),
        (warm, (observations, early, actions)),
        (warm, (poisoned, starts, actions)),
    ]
    carries, (whole, whole_resets, mixed, reset, reset_early, behind_nan) = jax.vmap(run)(*_stack(scenarios))
    first_parts = [(carry, _part(inputs, 0, CUT)) for carry, inputs in scenarios[:2]]
    middles, first = jax.vmap(run)(*_stack(first_parts))
    second_parts = [(_row(middles, k), _part(scenarios[k][1], CUT, None)) for k in range(2)]
    behind = (observations, never, actions)
    afters, (second, second_resets, alone) = jax.vmap(run)(*_stack([*second_parts, (fresh, _part(behind, CUT, None))]))
    # Behind the reset and behind the fresh carry's steps any inputs must do the same.
    stepwise = [*scenarios[:2], (_row(afters, 2), behind), (_row(carries, 3), behind)]
    steps, steps_resets, on_from_fresh, on_from_reset = jax.vmap(run_in_steps)(*_stack(stepwise))

    pairs = {
        "single steps without resets": (whole, steps),
        "single steps with resets": (whole_resets, steps_resets),
        "two parts without resets": (whole, jnp.concatenate([first[0], second])),
        "two parts with resets": (whole_resets, jnp.concatenate([first[1], second_resets])),
        "among other rows": (whole_resets[:, OTHERS], mixed),
        "an episode behind a reset": (alone, reset[CUT:]),
        "a reset one step early": (alone, reset_early[CUT:]),
        "the carry behind a reset": (on_from_fresh, on_from_reset),
        "an episode behind a NaN": (alone, behind_nan[CUT:]),
    }
    weights = jax.random.normal(weights_key, whole.shape)

    def before_and_behind(carry: Any, observations: Any) -> jax.Array:
        """What is before CUT in a run without resets, and behind it in one where an episode starts there."""
        inputs = (observations, jnp.stack([never, starts]), _stack([actions] * 2))
        outputs = weights * jax.vmap(run)(carry, inputs)[1]
        return jnp.sum(outputs[0, :CUT]) + jnp.sum(outputs[1, CUT:])

    twice = _stack([warm] * 2), _stack([observations] * 2)
    of_carry, of_observations = jax.grad(before_and_behind, (0, 1), allow_int=True)(*twice)
    return pairs, {
        "across a reset": _largest((_row(of_carry, 1), _part(_row(of_observations, 1), 0, CUT))),
        "from later steps": _largest(_part(_row(of_observations, 0), CUT, None)),
    }


def _judge(pairs: dict, gradients: dict, remembers: bool, tolerance: float) -> Iterator[Failure]:
    """What is wrong, the first cause only: what rests on it is not worth reading."""
    wrong = {name: _difference(*pair, tolerance) for name, pair in pairs.items()}
    if wrong["among other rows"]:
        remedy = "rows must not see each other: take no statistic (as BatchNorm does) over rows or time"
        yield Failure("among other rows", remedy, *wrong["among other rows"])
    elif gradients["from later steps"]:
        remedy = "step t must not see later steps: mask the attention, and take no statistic over time"
        yield Failure("gradient from later steps", remedy, {}, 0.0, gradients["from later steps"])
    elif found := wrong["single steps without resets"] or wrong["two parts without resets"]:
        remedy = MEMORY if remembers else f"its carry is empty, yet a step depends on others: {MEMORY}"
        yield Failure("time cut anywhere", remedy, *found)
    elif wrong["an episode behind a reset"] or gradients["across a reset"]:
        late = "the carry is cleared one step late: " if not wrong["a reset one step early"] else ""
        if found := wrong["an episode behind a reset"]:
            yield Failure("an episode behind a reset", late + CLEAR, *found)
        else:
            yield Failure("gradient across a reset", CLEAR, {}, 0.0, gradients["across a reset"])
    elif found := wrong["single steps with resets"] or wrong["two parts with resets"]:
        yield Failure("time cut anywhere, with resets", f"every step of every row has its own reset: {CLEAR}", *found)
    elif found := wrong["the carry behind a reset"]:
        yield Failure("the carry behind a reset", f"it holds more than a fresh one would: {CLEAR}", *found)
    elif found := wrong["an episode behind a NaN"]:
        remedy = "a final observation may be NaN: select with jnp.where, for 0 times NaN is NaN"
        yield Failure("an episode behind a NaN", remedy, *found)


def _difference(expected: np.ndarray, got: np.ndarray, tolerance: float) -> tuple | None:
    """Where two outputs differ, and what they are there; None if they do not."""
    error = np.abs(np.where(np.isfinite(got), got, np.inf) - expected)
    if np.all(error <= tolerance * max(1.0, np.abs(expected).max())):
        return None
    step, row, output = np.unravel_index(np.argmax(error), error.shape)
    place = {"step": np.int64(step), "row": np.int64(row)}
    return place, expected[step, row, output], got[step, row, output]


def _stack(trees: list) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _row(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _part(tree: Any, start: int, stop: int | None) -> Any:
    return jax.tree.map(lambda x: x[start:stop], tree)


def _poisoned(observations: jax.Array) -> jax.Array:
    """Floats that are NaN before CUT."""
    if not jnp.issubdtype(observations.dtype, jnp.floating):
        return observations
    return observations.at[:CUT].set(jnp.nan)


def _noisy(seed: int, params: Any) -> Any:
    """Parameters as they might be after some training."""
    rng = np.random.default_rng(seed)

    def add(leaf: jax.Array) -> jax.Array:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf + jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype) if floating else leaf

    return jax.tree.map(add, params)


def _largest(gradients: Any) -> jax.Array:
    """The largest absolute value among the floats."""
    floats = [leaf for leaf in jax.tree.leaves(gradients) if leaf.dtype != jax.dtypes.float0 and leaf.size]
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in floats])) if floats else jnp.zeros(())
