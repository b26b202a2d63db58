"""Advantage estimators: pure functions of arrays of steps, a few lines each on the recurrence.

All have one shape: `estimator(rewards=, values=, next_values=, terminated=, truncated=, discount=, ..., mask=None)
-> (advantages, value_targets)`. What these arguments mean is said once, at `gae`.
"""

from typing import Any, NamedTuple, NotRequired, TypedDict, Unpack

import jax
import jax.numpy as jnp
from jax import lax

from gaejax import _checks
from gaejax._host_arrays import accepts_host_arrays
from gaejax.recurrence import isolated_product, reverse_linear_recurrence, solve


class Steps(TypedDict):
    """The arguments that all estimators share; they are described at `gae`."""

    rewards: Any
    values: Any
    next_values: Any
    terminated: Any
    truncated: Any
    discount: Any
    mask: NotRequired[Any]
    final_advantage: NotRequired[Any]
    time_axis: NotRequired[int]
    method: NotRequired[str]
    axis_name: NotRequired[str | None]


@accepts_host_arrays
def gae(
    *,
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    discount: Any,
    gae_lambda: Any,
    mask: Any = None,
    final_advantage: Any = None,
    time_axis: int = 0,
    method: str = "auto",
    axis_name: str | None = None,
) -> tuple[Any, Any]:
    """Generalized Advantage Estimation (Schulman et al. 2016, arXiv:1506.02438, equations 11 to 16).

        delta[t] = rewards[t] + discount * (0 if terminated[t] else next_values[t]) - values[t]
        A[t]     = delta[t] + discount * gae_lambda * (0 if terminated[t] or truncated[t] else A[t + 1])

    A terminated step's successor is worth 0. A truncated step's successor is real: its value is bootstrapped, while
    the sum over later deltas stops. Where both flags are set, termination wins. Nothing behind a boundary, not even a
    NaN, reaches an earlier advantage or a gradient.

    The arrays may be JAX's, NumPy's or PyTorch tensors; what comes back is of the kind that went in. Those of NumPy
    and PyTorch are padded to a few sizes, so that a length that changes with every batch does not compile anew every
    time, are computed in float64 if they are, and carry no gradient.

    Args:
      rewards: `[T, ...]` floats, the reward of step t.
      values: `[T, ...]` floats, the critic's value of the observation at step t.
      next_values: `[T, ...]` floats, the value of step t's successor: at a truncated step that of the episode's final
        observation, never of the observation after a reset. Ignored where `terminated`.
      terminated: `[T, ...]` booleans: the successor is worth 0.
      truncated: `[T, ...]` booleans: the episode (or its recording) was cut behind step t.
      discount: gamma, a scalar or an array of the rewards' rank with axes of size 1 or full.
      gae_lambda: lambda, like `discount`.
      mask: optional `[T, ...]` booleans, true for the steps that count. A masked step is as if deleted: its reward is
        dropped and the step before it continues with the next kept step of the segment, whose value is then read
        instead of `next_values` (which is read at truncated steps and at the array's end). Its flags still cut.
      final_advantage: `[...]`, the advantage behind the last step. Default: zeros. A long trajectory cut in two gives
        the advantages of the whole when the first half is given the second half's `advantages[0]`.
      time_axis: the axis that is time, of all these arrays: 0, or for `[B, T]` arrays 1.
      method, axis_name: how to solve the recurrence, and the mesh axis over which time is split, if it is; see
        `reverse_linear_recurrence`.

    Returns:
      `(advantages, value_targets)`, each `[T, ...]`; `value_targets = advantages + values` is the lambda-return. At a
      masked step the advantage is that of the next kept step (what a cut there must carry over), the target is 0.
      Differentiable in every float argument, to any order and in both modes.

    Raises:
      TypeError, ValueError: if an argument has the wrong dtype or shape; the message names it.
    """
    steps = _checked(
        rewards=rewards,
        values=values,
        next_values=next_values,
        terminated=terminated,
        truncated=truncated,
        discount=discount,
        mask=mask,
        final_advantage=final_advantage,
        time_axis=time_axis,
        method=method,
        axis_name=axis_name,
    )
    gae_lambda = steps.coefficient("gae_lambda", gae_lambda)
    inputs = (steps.rewards, steps.values, steps.next_values, steps.terminated, steps.truncated, steps.discount)
    inputs += (gae_lambda,) if mask is None else (gae_lambda, steps.mask)
    return solve(_gae_terms, _gae_results, inputs, steps.final, *steps.how)


def _gae_terms(
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    discount: Any,
    gae_lambda: Any,
    mask: Any = True,
) -> tuple:
    delta = rewards + isolated_product(discount, jnp.where(terminated, 0, next_values)) - values
    return jnp.where(mask, delta, 0), jnp.where(mask, discount * gae_lambda, 1), jnp.logical_or(terminated, truncated)


def _gae_results(advantage: Any, rewards: Any, values: Any, *rest: Any) -> tuple:
    mask = rest[5] if len(rest) == 6 else True
    return advantage, jnp.where(mask, advantage + values, 0)


def td_lambda(*, trace_lambda: Any, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """The lambda-return (Sutton & Barto 2018, equation 12.18) as `value_targets`, and what it has over `values`.

    It is GAE by its other name: `advantages + values = G[t] = r + discount * ((1 - lambda) * V' + lambda * G[t + 1])`,
    where within a segment `V'`, the next value, is the next step's `values`.
    With `values` and `next_values` the largest action values it is Peng's Q(lambda), the target of PQN.
    """
    return gae(gae_lambda=trace_lambda, **steps)


def monte_carlo(**steps: Unpack[Steps]) -> tuple[Any, Any]:
    """The discounted return to the segment's end, bootstrapped only where it is cut: GAE with lambda 1."""
    return gae(gae_lambda=1.0, **steps)


@accepts_host_arrays
def n_step(*, n: int, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """The n-step return, `n` rewards and then the value (Sutton & Barto 2018, equation 7.1); fewer where the segment or
    the array ends. `n` is static; takes no `final_advantage`."""
    if n < 1 or steps.get("final_advantage") is not None:
        raise ValueError(f"n_step needs an n of at least 1 and no final_advantage, got n={n}")
    steps = _checked(**steps)

    def one_more(advantages: jax.Array, _: None) -> tuple:
        following = jnp.where(steps.cut, 0, steps.following(advantages, steps.final))
        return steps.deltas + isolated_product(steps.discount, following), None

    advantages = lax.scan(one_more, steps.deltas, length=n - 1)[0]
    return steps.results(advantages, advantages)


@accepts_host_arrays
def vtrace(
    *, log_ratios: Any, gae_lambda: Any = 1.0, clip_rho: float = 1.0, clip_c: float = 1.0, **steps: Unpack[Steps]
) -> tuple[Any, Any]:
    """V-trace (Espeholt et al. 2018, arXiv:1802.01561, equation 1 and section 4.2, with the lambda of remark 2).

    Args:
      log_ratios: `[T, ...]` floats, log pi(a|s) - log mu(a|s) of the taken actions.
      gae_lambda: shortens the traces. With `log_ratios` 0 the estimator is GAE with this lambda.
      clip_rho, clip_c: the largest weights of a step's delta and of what follows it; `clip_c <= clip_rho`.
      **steps: see `gae`. `final_advantage` is `value_targets - values` behind the last step.

    Returns:
      `(advantages, value_targets)`: the weighted policy-gradient advantages, and v_s. Both are 0 at masked steps.
    """
    steps = _checked(**steps)
    gae_lambda, ratios = steps.coefficient("gae_lambda", gae_lambda), steps.ratios(log_ratios)
    rho, c = jnp.minimum(ratios, clip_rho), jnp.minimum(ratios, clip_c)
    corrections = steps.recurrence(rho * steps.deltas, steps.discount * gae_lambda * c)
    behind = jnp.where(steps.cut, 0, steps.shifted(corrections, steps.final))
    advantages = rho * (steps.deltas + isolated_product(steps.discount * gae_lambda, behind))
    return steps.results(advantages, corrections)


@accepts_host_arrays
def retrace(*, action_values: Any, log_ratios: Any, trace_lambda: Any = 1.0, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """Retrace(lambda) (Munos et al. 2016, arXiv:1606.02647, equations 3 and 4): traces lambda * min(1, pi / mu).

    Args:
      action_values: `[T, ...]` floats, Q of the taken actions. `values` and `next_values` are the policy's expectations
        of Q at the observation and at its successor.
      log_ratios: `[T, ...]` floats, log pi(a|s) - log mu(a|s) of the taken actions.
      **steps: see `gae`. `final_advantage` is trace * (target - action value) behind the last step.

    Returns:
      `(advantages, value_targets)`: targets of the action values, and what they have over `values`; 0 at masked steps.
    """
    steps = _checked(**steps)
    traces = steps.coefficient("trace_lambda", trace_lambda) * jnp.minimum(steps.ratios(log_ratios), 1)
    return _action_value_targets(steps, steps.array("action_values", action_values), traces)


@accepts_host_arrays
def q_lambda(*, action_values: Any, trace_lambda: Any, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """Q(lambda) with off-policy corrections (Harutyunyan et al. 2016, arXiv:1602.04951): `retrace` with traces lambda.

    (For Peng's Q(lambda), which is a lambda-return, see `td_lambda`.)
    """
    steps = _checked(**steps)
    traces = steps.coefficient("trace_lambda", trace_lambda)
    return _action_value_targets(steps, steps.array("action_values", action_values), traces)


def _action_value_targets(steps: "_Steps", action_values: jax.Array, traces: jax.Array) -> tuple:
    deltas = steps.deltas + jnp.where(steps.kept, steps.values - action_values, 0)
    # y = trace * (target - action value): what the step before takes over, weighted by this step's trace.
    taken_over = steps.recurrence(traces * deltas, steps.discount * traces)
    behind = jnp.where(steps.cut, 0, steps.shifted(taken_over, steps.final))
    targets = action_values + deltas + isolated_product(steps.discount, behind)
    return steps.results(targets - steps.values, targets - steps.values)


@accepts_host_arrays
def upgo(**steps: Unpack[Steps]) -> tuple[Any, Any]:
    """UPGO (Vinyals et al. 2019, "Grandmaster level in StarCraft II", methods): follows the return as long as it goes
    better than the critic expects, `r[t + 1] + discount * V[t + 2] >= V[t + 1]`, and bootstraps where it does not."""
    steps = _checked(**steps)
    worse = steps.following(steps.deltas, jnp.zeros_like(steps.final)) < 0
    advantages = steps.recurrence(steps.deltas, steps.discount, reset=steps.cut | (steps.kept & worse))
    return steps.results(advantages, advantages)


@accepts_host_arrays
def decoupled_gae(*, gae_lambda: Any, value_lambda: Any = 1.0, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """GAE with a lambda for the advantages and another for the value targets, in one pass (VC-PPO, Yuan et al. 2025,
    arXiv:2503.01491). `final_advantage` goes into both."""
    steps = _checked(**steps)
    lambdas = [steps.coefficient("gae_lambda", gae_lambda), steps.coefficient("value_lambda", value_lambda)]
    decays = [jnp.broadcast_to(steps.discount * each, steps.rewards.shape) for each in lambdas]
    both = jax.vmap(steps.recurrence, (None, 0), -1)(steps.deltas, jnp.stack(decays))
    return steps.results(both[..., 0], both[..., 1])


@accepts_host_arrays
def weight_corrected_gae(*, gae_lambda: Any, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """GAE whose weights over the k-step estimators are lambda**(k - 1) up to the segment's end, and sum to 1.

    Plain GAE gives all the weight of the missing longer estimators to the longest one, lambda**(K - 1) against
    (1 - lambda) * lambda**(K - 1) (Doering et al. 2026, arXiv:2602.03386; written from that observation).
    Takes no `final_advantage`.
    """
    if steps.get("final_advantage") is not None:
        raise ValueError("weight_corrected_gae takes no final_advantage: weights do not carry over a cut")
    steps = _checked(**steps)
    gae_lambda = steps.coefficient("gae_lambda", gae_lambda)
    weights = steps.recurrence(jnp.where(steps.kept, jnp.ones_like(steps.deltas), 0), gae_lambda)
    sums = steps.recurrence(weights * steps.deltas, steps.discount * gae_lambda)
    advantages = sums / jnp.maximum(weights, 1)
    return steps.results(advantages, advantages)


def partial_gae(*, keep: int, gae_lambda: Any, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """GAE of the first `keep` steps only: the sums of the last ones are cut short by the rollout's end, which biases
    them (Song et al. 2023, arXiv:2301.10920). Returns `[keep, ...]`; slice the batch in the same way."""
    axis = steps.get("time_axis", 0)
    return tuple(
        array[(slice(None),) * (axis % array.ndim) + (slice(keep),)] for array in gae(gae_lambda=gae_lambda, **steps)
    )


ESTIMATORS = {
    each.__name__: each
    for each in (gae, td_lambda, monte_carlo, vtrace, retrace, q_lambda, upgo, decoupled_gae, weight_corrected_gae)
}
"""Those that need no argument of their own beside `Steps`, a lambda and what a rollout knows, by name."""


def segment_lengths(*, terminated: Any, truncated: Any, mask: Any = None, time_axis: int = 0) -> jax.Array:
    """The number of kept steps of the segment (episode, response) that each step belongs to, as far as the array shows
    it: floats of the flags' shape."""
    cut = _checks.as_bool("terminated", terminated) | _checks.as_bool("truncated", truncated)
    kept = jnp.ones(cut.shape) if mask is None else _checks.as_bool("mask", mask).astype(jnp.float32)
    axis = _checks.time_axis("terminated", cut, time_axis)
    to_the_end = reverse_linear_recurrence(kept, 1.0, reset=cut, time_axis=axis)
    before = lax.slice_in_dim(cut, 0, cut.shape[axis] - 1, axis=axis)
    starts = jnp.concatenate([jnp.ones_like(lax.slice_in_dim(cut, 0, 1, axis=axis)), before], axis)
    from_the_start = jnp.flip(
        reverse_linear_recurrence(jnp.flip(kept, axis), 1.0, reset=jnp.flip(starts, axis), time_axis=axis), axis
    )
    return to_the_end + from_the_start - kept


def length_adaptive_lambda(lengths: Any, alpha: float = 0.05, floor: float = 0.0) -> jax.Array:
    """lambda = 1 - 1 / (alpha * length), at least `floor` (VAPO, Yue et al. 2025, arXiv:2504.05118, equation 10): the
    weights' reach grows with the response. Without a floor it is 0 up to a length of `1 / alpha`."""
    return jnp.maximum(1 - 1 / (alpha * jnp.maximum(jnp.asarray(lengths, jnp.float32), 1)), floor)


def relative_position_lambda(lengths: Any, fraction: float) -> jax.Array:
    """lambda = fraction ** (1 / (length - 1)): the last step's delta reaches the first with weight `fraction`, however
    long the response."""
    return jnp.asarray(fraction, jnp.float32) ** (1 / jnp.maximum(jnp.asarray(lengths, jnp.float32) - 1, 1))


class _Steps(NamedTuple):
    """Checked arguments, of one float dtype; with a mask, `next_values` are those of the next kept steps."""

    rewards: jax.Array
    values: jax.Array
    next_values: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    discount: jax.Array
    mask: jax.Array | None
    final: jax.Array
    how: tuple  # time axis, method, axis name

    @property
    def kept(self) -> jax.Array | bool:
        return True if self.mask is None else self.mask

    @property
    def cut(self) -> jax.Array:
        return self.terminated | self.truncated

    @property
    def deltas(self) -> jax.Array:
        """The one-step advantages; 0 where masked."""
        successors = jnp.where(self.terminated, 0, self.next_values)
        return jnp.where(self.kept, self.rewards + isolated_product(self.discount, successors) - self.values, 0)

    def coefficient(self, name: str, value: Any) -> jax.Array:
        return _checks.coefficient(name, value, self.rewards, "rewards")

    def array(self, name: str, value: Any) -> jax.Array:
        value = _checks.as_float(name, value).astype(self.rewards.dtype)
        _checks.same_shape(name, value, self.rewards.shape, "rewards")
        return value

    def ratios(self, log_ratios: Any) -> jax.Array:
        return jnp.exp(jnp.where(self.kept, self.array("log_ratios", log_ratios), 0))

    def recurrence(self, drive: jax.Array, decay: jax.Array, reset: jax.Array | None = None) -> jax.Array:
        """Passes over masked steps, and stops at the flags."""
        axis, method, axis_name = self.how
        return reverse_linear_recurrence(
            jnp.where(self.kept, drive, 0),
            jnp.where(self.kept, decay, 1),
            self.final,
            reset=self.cut if reset is None else reset,
            time_axis=axis,
            method=method,
            axis_name=axis_name,
        )

    def shifted(self, x: jax.Array, end: jax.Array) -> jax.Array:
        """`x` of the next step, and `end` behind the last."""
        axis, _, axis_name = self.how
        if axis_name is not None:
            size, here = lax.axis_size(axis_name), lax.axis_index(axis_name)
            first = lax.index_in_dim(x, 0, axis, keepdims=False)
            received = lax.ppermute(first, axis_name, [(i + 1, i) for i in range(size - 1)])
            end = jnp.where(here == size - 1, end, received)
        later = lax.slice_in_dim(x, 1, x.shape[axis], axis=axis)
        return jnp.concatenate([later, jnp.expand_dims(end, axis)], axis)

    def following(self, x: jax.Array, end: jax.Array, at_cuts: Any = 0.0) -> jax.Array:
        """`x` of the next kept step of the segment; `end` behind the last; `at_cuts` where a masked step ends it."""
        if self.mask is None:
            return self.shifted(x, end)
        axis, method, axis_name = self.how
        arriving = reverse_linear_recurrence(
            jnp.where(self.mask, x, jnp.where(self.cut, at_cuts, 0)),
            1.0,
            end,
            reset=self.mask | self.cut,
            time_axis=axis,
            method=method,
            axis_name=axis_name,
        )
        return self.shifted(arriving, end)

    def results(self, advantages: jax.Array, corrections: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`(advantages, values + corrections)`, 0 at masked steps."""
        return jnp.where(self.kept, advantages, 0), jnp.where(self.kept, self.values + corrections, 0)


def _checked(
    *,
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    discount: Any,
    mask: Any = None,
    final_advantage: Any = None,
    time_axis: int = 0,
    method: str = "auto",
    axis_name: str | None = None,
) -> _Steps:
    floats = dict(rewards=rewards, values=values, next_values=next_values)
    floats = {name: _checks.as_float(name, array) for name, array in floats.items()}
    dtype = jnp.result_type(*floats.values())
    rewards, values, next_values = (array.astype(dtype) for array in floats.values())
    terminated, truncated = _checks.as_bool("terminated", terminated), _checks.as_bool("truncated", truncated)
    mask = None if mask is None else _checks.as_bool("mask", mask)
    axis = _checks.time_axis("rewards", rewards, time_axis)
    arrays = dict(values=values, next_values=next_values, terminated=terminated, truncated=truncated, mask=mask)
    for name, array in arrays.items():
        if array is not None:
            _checks.same_shape(name, array, rewards.shape, "rewards")
    one_step = rewards.shape[:axis] + rewards.shape[axis + 1 :]
    final = jnp.zeros(one_step, dtype)
    if final_advantage is not None:
        final = _checks.as_float("final_advantage", final_advantage).astype(dtype)
        _checks.same_shape("final_advantage", final, one_step, "one step of rewards")
    how = (axis, method, axis_name)
    steps = _Steps(rewards, values, next_values, terminated, truncated, jnp.zeros(()), mask, final, how)
    steps = steps._replace(discount=steps.coefficient("discount", discount))
    if mask is None:
        return steps
    last = lax.index_in_dim(next_values, -1, axis, keepdims=False)
    bootstrap = jnp.where(terminated, 0, next_values)  # of a segment that ends at a masked step
    following = steps.following(values, last, at_cuts=bootstrap)
    return steps._replace(next_values=jnp.where(truncated, next_values, following))
