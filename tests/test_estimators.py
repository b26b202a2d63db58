"""The family: each estimator against its definition in float64, its identities with the others, masks as deletions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gaejax

STEPS, ROWS, DISCOUNT = 14, 4, 0.9


def steps_of(seed=0):
    """Random steps whose next values are the next step's, except at truncations and after the end."""
    rng = np.random.default_rng(seed)
    shape = (STEPS, ROWS)
    steps = {name: rng.normal(size=shape) for name in ("rewards", "values", "next_values")}
    steps |= {name: rng.random(shape) < 0.12 for name in ("terminated", "truncated")}
    steps["next_values"][:-1] = np.where(steps["truncated"][:-1], steps["next_values"][:-1], steps["values"][1:])
    return steps, rng


def as_jax(steps):
    return {name: jnp.asarray(x, bool if x.dtype == bool else jnp.float32) for name, x in steps.items()}


def segments(steps):
    """(environment, steps of one segment, value after it) for every segment."""
    for row in range(ROWS):
        start = 0
        for t in range(STEPS):
            ended = steps["terminated"][t, row] or steps["truncated"][t, row]
            if ended or t == STEPS - 1:
                after = 0.0 if steps["terminated"][t, row] else steps["next_values"][t, row]
                yield row, range(start, t + 1), after
                start = t + 1


def for_segments(steps, advantages_of):
    """Applies `advantages_of(rewards, values, values of the successors, indices) -> (advantages, targets)`."""
    results = np.zeros((2, STEPS, ROWS))
    for row, span, after in segments(steps):
        rewards, values = steps["rewards"][span, row], steps["values"][span, row]
        following = np.append(values[1:], after)
        results[0, span, row], results[1, span, row] = advantages_of(rewards, values, following, (span, row))
    return results


def test_n_step_returns():
    steps, _ = steps_of()

    def by_definition(n):
        def advantages_of(rewards, values, following, _):
            length, targets = len(rewards), []
            for t in range(length):
                end = min(t + n, length)
                total = sum(DISCOUNT ** (k - t) * rewards[k] for k in range(t, end))
                targets.append(total + DISCOUNT ** (end - t) * following[end - 1])
            return np.array(targets) - values, targets

        return for_segments(steps, advantages_of)

    for n in (1, 2, 5, 100):
        got = gaejax.n_step(**as_jax(steps), discount=DISCOUNT, n=n)
        np.testing.assert_allclose(got, by_definition(n), atol=1e-5)
    np.testing.assert_allclose(got, gaejax.monte_carlo(**as_jax(steps), discount=DISCOUNT), atol=1e-5)
    for name in ("n=0", "final_advantage"):
        with pytest.raises(ValueError, match="n_step needs"):
            extra = dict(n=0) if name == "n=0" else dict(n=2, final_advantage=jnp.zeros(ROWS))
            gaejax.n_step(**as_jax(steps), discount=DISCOUNT, **extra)


def test_td_lambda_is_the_recursion_of_returns():
    steps, _ = steps_of(1)

    def advantages_of(rewards, values, following, _):
        targets, later = np.zeros(len(rewards)), following[-1]
        for t in reversed(range(len(rewards))):
            targets[t] = later = rewards[t] + DISCOUNT * (0.3 * following[t] + 0.7 * later)
        return targets - values, targets

    got = gaejax.td_lambda(**as_jax(steps), discount=DISCOUNT, trace_lambda=0.7)
    np.testing.assert_allclose(got, for_segments(steps, advantages_of), atol=1e-5)


@pytest.mark.parametrize("gae_lambda", [1.0, 0.6])
def test_vtrace_is_its_sum_over_the_future(gae_lambda):
    steps, rng = steps_of(2)
    log_ratios = rng.normal(size=(STEPS, ROWS))

    def advantages_of(rewards, values, following, at):
        ratios = np.exp(log_ratios[at])
        rho, c = np.minimum(ratios, 1.5), gae_lambda * np.minimum(ratios, 1.1)
        deltas = rho * (rewards + DISCOUNT * following - values)
        corrections = [
            sum(DISCOUNT ** (k - t) * np.prod(c[t:k]) * deltas[k] for k in range(t, len(rewards)))
            for t in range(len(rewards))
        ]
        targets = values + corrections
        bootstrap = np.append((1 - gae_lambda) * values[1:] + gae_lambda * targets[1:], following[-1])
        return rho * (rewards + DISCOUNT * bootstrap - values), targets

    got = gaejax.vtrace(
        **as_jax(steps),
        discount=DISCOUNT,
        log_ratios=jnp.float32(log_ratios),
        gae_lambda=gae_lambda,
        clip_rho=1.5,
        clip_c=1.1,
    )
    np.testing.assert_allclose(got, for_segments(steps, advantages_of), atol=1e-5)


def test_on_policy_vtrace_is_gae():
    steps, _ = steps_of(3)
    zeros = jnp.zeros((STEPS, ROWS))
    for gae_lambda in (0.0, 0.8, 1.0):
        vtrace = gaejax.vtrace(**as_jax(steps), discount=DISCOUNT, log_ratios=zeros, gae_lambda=gae_lambda)
        gae = gaejax.gae(**as_jax(steps), discount=DISCOUNT, gae_lambda=gae_lambda)
        np.testing.assert_allclose(vtrace, gae, atol=2e-6)


def test_retrace_and_q_lambda_are_their_sums_over_the_future():
    steps, rng = steps_of(4)
    action_values, log_ratios = rng.normal(size=(2, STEPS, ROWS))

    def definition(traces):
        def advantages_of(rewards, values, following, at):
            q, c = action_values[at], traces[at]
            deltas = rewards + DISCOUNT * following - q
            targets = q + [
                sum(DISCOUNT ** (k - t) * np.prod(c[t + 1 : k + 1]) * deltas[k] for k in range(t, len(rewards)))
                for t in range(len(rewards))
            ]
            return targets - values, targets

        return for_segments(steps, advantages_of)

    given = dict(**as_jax(steps), discount=DISCOUNT, action_values=jnp.float32(action_values), trace_lambda=0.8)
    got = gaejax.retrace(**given, log_ratios=jnp.float32(log_ratios))
    np.testing.assert_allclose(got, definition(0.8 * np.minimum(1, np.exp(log_ratios))), atol=1e-5)
    expected = definition(np.full((STEPS, ROWS), 0.8))
    np.testing.assert_allclose(gaejax.q_lambda(**given), expected, atol=1e-5)
    exactly_on_policy = gaejax.retrace(**given, log_ratios=jnp.zeros((STEPS, ROWS)))
    np.testing.assert_allclose(exactly_on_policy, expected, atol=1e-5)


def test_upgo_follows_what_goes_better_than_expected():
    steps, _ = steps_of(5)

    def advantages_of(rewards, values, following, _):
        targets = np.zeros(len(rewards))
        for t in reversed(range(len(rewards))):
            later = following[t]
            if t + 1 < len(rewards) and rewards[t + 1] + DISCOUNT * following[t + 1] >= values[t + 1]:
                later = targets[t + 1]
            targets[t] = rewards[t] + DISCOUNT * later
        return targets - values, targets

    got = gaejax.upgo(**as_jax(steps), discount=DISCOUNT)
    np.testing.assert_allclose(got, for_segments(steps, advantages_of), atol=1e-5)


def test_decoupled_lambdas_are_two_gaes():
    steps, _ = steps_of(6)
    advantages, targets = gaejax.decoupled_gae(
        **as_jax(steps), discount=DISCOUNT, gae_lambda=0.7, value_lambda=1.0, final_advantage=jnp.ones(ROWS)
    )
    gae = lambda lambda_: gaejax.gae(  # noqa: E731
        **as_jax(steps), discount=DISCOUNT, gae_lambda=lambda_, final_advantage=jnp.ones(ROWS)
    )
    np.testing.assert_allclose(advantages, gae(0.7)[0], atol=1e-6)
    np.testing.assert_allclose(targets, gae(1.0)[1], atol=1e-6)


def test_corrected_weights_sum_to_one_over_the_estimators_that_exist():
    steps, _ = steps_of(7)
    for gae_lambda in (0.0, 0.8, 1.0):

        def advantages_of(rewards, values, following, _, gae_lambda=gae_lambda):
            deltas, advantages = rewards + DISCOUNT * following - values, []
            for t in range(len(rewards)):
                k_step = np.cumsum([DISCOUNT ** (k - t) * deltas[k] for k in range(t, len(rewards))])
                weights = gae_lambda ** np.arange(len(k_step))
                advantages.append(np.sum(weights * k_step) / np.sum(weights))
            return advantages, values + advantages

        got = gaejax.weight_corrected_gae(**as_jax(steps), discount=DISCOUNT, gae_lambda=gae_lambda)
        np.testing.assert_allclose(got, for_segments(steps, advantages_of), atol=1e-5)


def test_partial_gae_is_the_beginning():
    steps, _ = steps_of(8)
    whole = gaejax.gae(**as_jax(steps), discount=DISCOUNT, gae_lambda=0.9)
    part = gaejax.partial_gae(**as_jax(steps), discount=DISCOUNT, gae_lambda=0.9, keep=5)
    np.testing.assert_array_equal(part[0], whole[0][:5])
    turned = {name: x.T for name, x in as_jax(steps).items()}
    part = gaejax.partial_gae(**turned, discount=DISCOUNT, gae_lambda=0.9, keep=5, time_axis=1)
    np.testing.assert_allclose(part[1], whole[1][:5].T, atol=1e-6)


def test_lambdas_by_length():
    lengths = jnp.array([10, 100, 1000])
    np.testing.assert_allclose(gaejax.length_adaptive_lambda(lengths), [0, 0.8, 0.98], atol=1e-6)
    np.testing.assert_allclose(gaejax.length_adaptive_lambda(lengths, floor=0.9), [0.9, 0.9, 0.98], atol=1e-6)
    powers = gaejax.relative_position_lambda(lengths, 0.5) ** (lengths - 1)
    np.testing.assert_allclose(powers, 0.5, rtol=1e-4)
    flags = dict(terminated=jnp.array([0, 1, 0, 0, 0], bool), truncated=jnp.array([0, 0, 0, 1, 0], bool))
    np.testing.assert_array_equal(gaejax.segment_lengths(**flags), [2, 2, 2, 2, 1])
    mask = jnp.array([0, 1, 1, 0, 1], bool)
    np.testing.assert_array_equal(gaejax.segment_lengths(**flags, mask=mask), [1, 1, 1, 1, 1])


ESTIMATORS = {
    "gae": lambda s, x: gaejax.gae(**s, gae_lambda=0.8),
    "gae with a lambda for every step": lambda s, x: gaejax.gae(**s, gae_lambda=1 / (1 + jnp.exp(x))),
    "td_lambda": lambda s, x: gaejax.td_lambda(**s, trace_lambda=0.8),
    "monte_carlo": lambda s, x: gaejax.monte_carlo(**s),
    "n_step": lambda s, x: gaejax.n_step(**s, n=3),
    "vtrace": lambda s, x: gaejax.vtrace(**s, log_ratios=x, gae_lambda=0.8),
    "retrace": lambda s, x: gaejax.retrace(**s, log_ratios=x, action_values=jnp.sin(x), trace_lambda=0.8),
    "q_lambda": lambda s, x: gaejax.q_lambda(**s, action_values=jnp.sin(x), trace_lambda=0.8),
    "upgo": lambda s, x: gaejax.upgo(**s),
    "decoupled_gae": lambda s, x: gaejax.decoupled_gae(**s, gae_lambda=0.8, value_lambda=0.9),
    "weight_corrected_gae": lambda s, x: gaejax.weight_corrected_gae(**s, gae_lambda=0.8),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_masked_steps_are_as_if_deleted(name):
    """The kept steps' results are those of the trajectory without the masked ones, though those hold NaN."""
    estimator, rng = ESTIMATORS[name], np.random.default_rng(9)
    kept = np.array([1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1, 0], bool)
    floats = {key: rng.normal(size=13) for key in ("rewards", "values", "next_values")}
    extra = rng.normal(size=13)
    flags = dict(terminated=np.zeros(13, bool), truncated=np.zeros(13, bool))
    flags["truncated"][6], flags["terminated"][9] = True, True
    for key in ("rewards", "values"):
        floats[key][~kept] = np.nan
    mine = {**floats, **flags, "mask": kept}
    alone = {key: x[kept] for key, x in {**floats, **flags}.items()}
    alone["next_values"][:-1] = np.where(alone["truncated"][:-1], alone["next_values"][:-1], alone["values"][1:])
    alone["next_values"][-1] = floats["next_values"][-1]  # after the array's end
    run = lambda steps, x: estimator({**as_jax(steps), "discount": DISCOUNT}, jnp.asarray(x, jnp.float32))  # noqa: E731
    got, expected = run(mine, np.where(kept, extra, np.nan if "lambda for" not in name else 0)), run(alone, extra[kept])
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one[kept], other, atol=1e-5)
    assert np.all(np.asarray(got[1])[~kept] == 0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_boundaries_isolate_and_gradients_are_finite(name):
    estimator = ESTIMATORS[name]
    steps, rng = steps_of(10)
    extra = jnp.asarray(rng.normal(size=(STEPS, ROWS)), jnp.float32)
    steps["terminated"][6, :2], steps["truncated"][6, 2:] = True, True
    steps["terminated"][6, 2:] = False
    poisoned = {key: x.copy() for key, x in steps.items()}
    for key in ("rewards", "values", "next_values"):
        poisoned[key][7:] = np.nan
    poisoned["next_values"][6, :2] = np.nan
    floats = {key: x for key, x in as_jax(poisoned).items() if x.dtype != bool}
    flags = {key: x for key, x in as_jax(poisoned).items() if x.dtype == bool}

    def early(floats, discount):
        return jnp.sum(jnp.stack(estimator({**floats, **flags, "discount": discount}, extra))[:, :7])

    value, gradients = jax.value_and_grad(early, (0, 1))(floats, jnp.float32(DISCOUNT))
    clean = estimator({**as_jax(steps), "discount": DISCOUNT}, extra)
    np.testing.assert_allclose(value, jnp.sum(jnp.stack(clean)[:, :7]), rtol=1e-5)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_time_may_be_another_axis_and_errors_name_the_argument(name):
    estimator = ESTIMATORS[name]
    steps, rng = steps_of(11)
    extra = jnp.asarray(rng.normal(size=(STEPS, ROWS)), jnp.float32)
    whole = estimator({**as_jax(steps), "discount": DISCOUNT}, extra)
    turned = {key: x.T for key, x in as_jax(steps).items()}
    got = estimator({**turned, "discount": DISCOUNT, "time_axis": 1}, extra.T)
    np.testing.assert_allclose(np.stack(got), np.stack(whole).transpose(0, 2, 1), atol=2e-6)
    with pytest.raises(TypeError, match="terminated must be boolean"):
        estimator({**as_jax(steps), "discount": DISCOUNT, "terminated": extra}, extra)
    with pytest.raises(ValueError, match="values must have the shape of rewards"):
        estimator({**as_jax(steps), "discount": DISCOUNT, "values": extra[1:]}, extra)
