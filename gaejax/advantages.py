"""Advantage estimators: pure functions of arrays of steps, a few lines each on top of the recurrence.

All have one form: `estimator(rewards=, values=, next_values=, terminated=, truncated=, discount=, ..., mask=None)
-> (advantages, value_targets)`. The shared arguments are described at `gae`.
"""

from typing import Any, NamedTuple, NotRequired, TypedDict, Unpack

import jax
import jax.numpy as jnp
from jax import lax

from gaejax import _arguments
from gaejax._arguments import ArrayLike, accepts_host_arrays
from gaejax.recurrence import isolated_product, reverse_linear_recurrence, solve


class Steps(TypedDict):
    """The arguments that all estimators share; they are described at `gae`."""

    rewards: ArrayLike
    values: ArrayLike
    next_values: ArrayLike
    terminated: ArrayLike
    truncated: ArrayLike
    discount: ArrayLike
    mask: NotRequired[ArrayLike | None]
    final_advantage: NotRequired[ArrayLike | None]
    time_axis: NotRequired[int]
    method: NotRequired[str]
    axis_name: NotRequired[str | None]


class EstimatorInputs(NamedTuple):
    """What every estimator is given. What it does not read is not computed: the compiler removes it.

    Attributes:
      rewards, values, next_values, terminated, truncated, mask: `[T, N]`, as in `gaejax.gae`.
      discount, gae_lambda: scalars of the config.
      log_ratios: `[T, N]`, log pi(a|s) - log mu(a|s) of the taken actions, where mu collected them and pi is the policy
        whose values these are.
      action_values: `[T, N]`, Q of the taken actions; None if the policy has no action values.
      episode_steps: `[T, N]` int32, the number of each step in its episode, from 0.
    """

    rewards: jax.Array
    values: jax.Array
    next_values: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    mask: jax.Array
    discount: jax.Array
    gae_lambda: jax.Array
    log_ratios: jax.Array
    action_values: jax.Array | None
    episode_steps: jax.Array

    def steps(self) -> Steps:
        """Returns the keyword arguments that all estimators of `gaejax.advantages` share."""
        return Steps(**{name: getattr(self, name) for name in SHARED})

    def taken_action_values(self) -> jax.Array:
        """Returns `action_values`.

        Raises:
          NeedsActionValues: if the policy has none.
        """
        if self.action_values is None:
            raise NeedsActionValues("estimator needs a policy of action values: gaejax.q_network, with pqn")
        return self.action_values


SHARED = ("rewards", "values", "next_values", "terminated", "truncated", "discount", "mask")


class NeedsActionValues(ValueError):
    """Raised if an estimator reads action values and the policy has none."""


@accepts_host_arrays
def gae(
    *,
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    discount: ArrayLike,
    gae_lambda: ArrayLike,
    mask: ArrayLike | None = None,
    final_advantage: ArrayLike | None = None,
    time_axis: int = 0,
    method: str = "auto",
    axis_name: str | None = None,
) -> tuple[Any, Any]:
    """Generalized Advantage Estimation (Schulman et al. 2016, arXiv:1506.02438, equations 11 to 16).

        delta[t] = rewards[t] + discount * (0 if terminated[t] else next_values[t]) - values[t]
        A[t]     = delta[t] + discount * gae_lambda * (0 if terminated[t] or truncated[t] else A[t + 1])

    The successor of a terminated step is worth 0. The successor of a truncated step is real: its value is bootstrapped,
    and the sum over later deltas stops. Where both flags are set, termination wins. Nothing after a boundary, not even
    a NaN, reaches an earlier advantage or a gradient.

    The arrays may be JAX arrays, NumPy arrays or PyTorch tensors, and the results are of the same kind. NumPy arrays
    and PyTorch tensors are padded to a few sizes, so that a length that changes with every batch does not compile anew
    every time. They are computed in float64 if they are float64, and carry no gradient.

    Args:
      rewards: `[T, ...]` floats, the reward of step t.
      values: `[T, ...]` floats, the critic's value of the observation at step t.
      next_values: `[T, ...]` floats, the value of the successor of step t. At a truncated step this is the value of the
        episode's final observation, never of the observation after a reset. Ignored where `terminated`.
      terminated: `[T, ...]` booleans: the episode ended at step t, and the successor is worth 0.
      truncated: `[T, ...]` booleans: the episode (or its recording) was cut after step t.
      discount: Gamma, a scalar or an array of the rank of `rewards` with axes of size 1 or full size.
      gae_lambda: Lambda, like `discount`.
      mask: Optional `[T, ...]` booleans, true for the steps that count. A masked step is treated as if deleted: its
        reward is dropped, and the step before it continues with the next kept step of the segment, whose value is then
        read instead of `next_values` (which is read at truncated steps and at the end of the array). Its flags still
        cut.
      final_advantage: `[...]` floats, the advantage after the last step. Default: zeros. A long trajectory cut in two
        gives the advantages of the whole if the first half is given the second half's `advantages[0]`.
      time_axis: The axis of all these arrays that is time: 0, or 1 for `[B, T]` arrays.
      method: How to solve the recurrence; see `reverse_linear_recurrence`.
      axis_name: The mesh axis over which time is split, if it is; see `reverse_linear_recurrence`.

    Returns:
      `(advantages, value_targets)`, each `[T, ...]`; `value_targets = advantages + values` is the lambda-return. At a
      masked step the advantage is that of the next kept step (which a cut there must carry over), and the target is 0.
      Differentiable in every float argument, to any order and in both modes.

    Raises:
      TypeError: If an argument has the wrong dtype.
      ValueError: If an argument has the wrong shape, or `method` is unknown.
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
    gae_lambda = _arguments.coefficient("gae_lambda", gae_lambda, steps.rewards, "rewards")
    inputs = (steps.rewards, steps.values, steps.next_values, steps.terminated, steps.truncated, steps.discount)
    inputs += (gae_lambda,) if steps.mask is None else (gae_lambda, steps.mask)
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


def _gae_results(
    advantage: Any,
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    discount: Any,
    gae_lambda: Any,
    mask: Any = True,
) -> tuple:
    return advantage, jnp.where(mask, advantage + values, 0)


def td_lambda(*, trace_lambda: ArrayLike, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """The lambda-return (Sutton & Barto 2018, equation 12.18) as `value_targets`, and its excess over `values`.

    It is GAE by another name: `advantages + values = G[t] = r + discount * ((1 - lambda) * V' + lambda * G[t + 1])`,
    where within a segment `V'`, the next value, is the value of the next step. If `values` and `next_values` are the
    largest action values, it is Peng's Q(lambda), the target of PQN.

    Args:
      trace_lambda: Lambda, a scalar or an array like `discount`.
      **steps: See `gae`.

    Returns:
      `(advantages, value_targets)`, as `gae`.
    """
    return gae(gae_lambda=trace_lambda, **steps)


def monte_carlo(**steps: Unpack[Steps]) -> tuple[Any, Any]:
    """The discounted return to the end of the segment, bootstrapped only where it is cut: GAE with lambda 1.

    Args:
      **steps: See `gae`.

    Returns:
      `(advantages, value_targets)`, as `gae`.
    """
    return gae(gae_lambda=1.0, **steps)


def without_baseline(**steps: Unpack[Steps]) -> tuple[Any, Any]:
    """Returns the discounted reward-to-go, as far as the array shows it, in place of advantages and as value targets:
    `monte_carlo` with all values 0.

    Args:
      **steps: See `gae`.
    """
    values: Any = steps["values"]
    zeros = jnp.zeros_like(values)
    returns, _ = monte_carlo(**{**steps, "values": zeros, "next_values": zeros})
    return returns, returns


@accepts_host_arrays
def n_step(*, n: int, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """The n-step return: `n` rewards and then the value (Sutton & Barto 2018, equation 7.1).

    It has fewer rewards where the segment or the array ends.

    Args:
      n: The number of rewards, static and at least 1.
      **steps: See `gae`, without `final_advantage`.

    Returns:
      `(advantages, value_targets)`, as `gae`; both are 0 at masked steps.
    """
    if n < 1 or steps.get("final_advantage") is not None:
        raise ValueError(f"n_step needs an n of at least 1 and no final_advantage, got n={n}")
    given = _checked(**steps)

    def one_more(advantages: jax.Array, _: None) -> tuple:
        following = jnp.where(given.cut, 0, given.following(advantages, given.final))
        return given.deltas + isolated_product(given.discount, following), None

    advantages = lax.scan(one_more, given.deltas, length=n - 1)[0]
    return given.results(advantages, advantages)


@accepts_host_arrays
def vtrace(
    *,
    log_ratios: ArrayLike,
    gae_lambda: ArrayLike = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    **steps: Unpack[Steps],
) -> tuple[Any, Any]:
    """V-trace (Espeholt et al. 2018, arXiv:1802.01561, equation 1 and section 4.2, with the lambda of remark 2).

    Args:
      log_ratios: `[T, ...]` floats, log pi(a|s) - log mu(a|s) of the actions taken.
      gae_lambda: Shortens the traces. If `log_ratios` are 0, the estimator is GAE with this lambda.
      clip_rho: The largest weight of a step's delta.
      clip_c: The largest weight of what follows it; at most `clip_rho`.
      **steps: See `gae`. `final_advantage` is `value_targets - values` after the last step.

    Returns:
      `(advantages, value_targets)`: the weighted policy-gradient advantages, and v_s. Both are 0 at masked steps.
    """
    given = _checked(**steps)
    gae_lambda, ratios = (
        _arguments.coefficient("gae_lambda", gae_lambda, given.rewards, "rewards"),
        given.ratios(log_ratios),
    )
    rho, c = jnp.minimum(ratios, clip_rho), jnp.minimum(ratios, clip_c)
    corrections = given.recurrence(rho * given.deltas, given.discount * gae_lambda * c)
    after = jnp.where(given.cut, 0, given.shifted(corrections, given.final))
    advantages = rho * (given.deltas + isolated_product(given.discount * gae_lambda, after))
    return given.results(advantages, corrections)


@accepts_host_arrays
def retrace(
    *, action_values: ArrayLike, log_ratios: ArrayLike, trace_lambda: ArrayLike = 1.0, **steps: Unpack[Steps]
) -> tuple[Any, Any]:
    """Retrace(lambda) (Munos et al. 2016, arXiv:1606.02647, equations 3 and 4): traces lambda * min(1, pi / mu).

    Args:
      action_values: `[T, ...]` floats, Q of the actions taken. `values` and `next_values` are the policy's expectations
        of Q at the observation and at its successor.
      log_ratios: `[T, ...]` floats, log pi(a|s) - log mu(a|s) of the actions taken.
      trace_lambda: Lambda, a scalar or an array like `discount`.
      **steps: See `gae`. `final_advantage` is trace * (target - action value) after the last step.

    Returns:
      `(advantages, value_targets)`: targets of the action values, and their excess over `values`; 0 at masked steps.
    """
    given = _checked(**steps)
    traces = _arguments.coefficient("trace_lambda", trace_lambda, given.rewards, "rewards") * jnp.minimum(
        given.ratios(log_ratios), 1
    )
    return _action_value_targets(given, given.array("action_values", action_values), traces)


@accepts_host_arrays
def q_lambda(*, action_values: ArrayLike, trace_lambda: ArrayLike, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """Q(lambda) with off-policy corrections (Harutyunyan et al. 2016, arXiv:1602.04951): `retrace` with traces lambda.

    Peng's Q(lambda) is another estimator, a lambda-return: see `td_lambda`.

    Args:
      action_values: `[T, ...]` floats, Q of the actions taken, as in `retrace`.
      trace_lambda: Lambda, a scalar or an array like `discount`.
      **steps: See `gae`. `final_advantage` is trace * (target - action value) after the last step.

    Returns:
      `(advantages, value_targets)`, as `retrace`.
    """
    given = _checked(**steps)
    traces = _arguments.coefficient("trace_lambda", trace_lambda, given.rewards, "rewards")
    return _action_value_targets(given, given.array("action_values", action_values), traces)


def _action_value_targets(given: "_Steps", action_values: jax.Array, traces: jax.Array) -> tuple:
    deltas = given.deltas + jnp.where(given.kept, given.values - action_values, 0)
    # y = trace * (target - action value): what the step before takes over, weighted by this step's trace.
    taken_over = given.recurrence(traces * deltas, given.discount * traces)
    after = jnp.where(given.cut, 0, given.shifted(taken_over, given.final))
    targets = action_values + deltas + isolated_product(given.discount, after)
    return given.results(targets - given.values, targets - given.values)


@accepts_host_arrays
def upgo(**steps: Unpack[Steps]) -> tuple[Any, Any]:
    """UPGO (Vinyals et al. 2019, "Grandmaster level in StarCraft II", methods).

    Follows the return for as long as it goes better than the critic expects,
    `r[t + 1] + discount * V[t + 2] >= V[t + 1]`, and bootstraps where it does not.

    Args:
      **steps: See `gae`.

    Returns:
      `(advantages, value_targets)`, as `gae`; both are 0 at masked steps.
    """
    given = _checked(**steps)
    worse = given.following(given.deltas, jnp.zeros_like(given.final)) < 0
    advantages = given.recurrence(given.deltas, given.discount, reset=given.cut | (given.kept & worse))
    return given.results(advantages, advantages)


@accepts_host_arrays
def decoupled_gae(*, gae_lambda: ArrayLike, value_lambda: ArrayLike = 1.0, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """GAE with one lambda for the advantages and another for the value targets (VC-PPO, Yuan et al. 2025,
    arXiv:2503.01491), computed in one pass.

    Args:
      gae_lambda: The lambda of the advantages.
      value_lambda: The lambda of the value targets.
      **steps: See `gae`. `final_advantage` goes into both.

    Returns:
      `(advantages, value_targets)`, as `gae`; both are 0 at masked steps.
    """
    given = _checked(**steps)
    lambdas = [
        _arguments.coefficient("gae_lambda", gae_lambda, given.rewards, "rewards"),
        _arguments.coefficient("value_lambda", value_lambda, given.rewards, "rewards"),
    ]
    decays = [jnp.broadcast_to(given.discount * each, given.rewards.shape) for each in lambdas]
    both = jax.vmap(given.recurrence, (None, 0), -1)(given.deltas, jnp.stack(decays))
    return given.results(both[..., 0], both[..., 1])


@accepts_host_arrays
def weight_corrected_gae(*, gae_lambda: ArrayLike, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """GAE whose weights over the k-step estimators are lambda**(k - 1) up to the end of the segment, and sum to 1.

    Plain GAE gives all the weight of the missing longer estimators to the longest one, lambda**(K - 1) instead of
    (1 - lambda) * lambda**(K - 1) (Doering et al. 2026, arXiv:2602.03386; written from that observation).

    Args:
      gae_lambda: Lambda, a scalar or an array like `discount`.
      **steps: See `gae`, without `final_advantage`.

    Returns:
      `(advantages, value_targets)`, as `gae`; both are 0 at masked steps.
    """
    if steps.get("final_advantage") is not None:
        raise ValueError("weight_corrected_gae takes no final_advantage: weights do not carry over a cut")
    given = _checked(**steps)
    gae_lambda = _arguments.coefficient("gae_lambda", gae_lambda, given.rewards, "rewards")
    weights = given.recurrence(jnp.where(given.kept, jnp.ones_like(given.deltas), 0), gae_lambda)
    sums = given.recurrence(weights * given.deltas, given.discount * gae_lambda)
    advantages = sums / jnp.maximum(weights, 1)
    return given.results(advantages, advantages)


def partial_gae(*, keep: int, gae_lambda: ArrayLike, **steps: Unpack[Steps]) -> tuple[Any, Any]:
    """GAE of the first `keep` steps only (Song et al. 2023, arXiv:2301.10920).

    The end of the rollout cuts short the sums of the last steps, which biases them.

    Args:
      keep: The number of steps to return.
      gae_lambda: Lambda, a scalar or an array like `discount`.
      **steps: See `gae`.

    Returns:
      `(advantages, value_targets)`, each `[keep, ...]`; slice the batch in the same way.
    """
    advantages, value_targets = gae(gae_lambda=gae_lambda, **steps)
    first = (slice(None),) * (steps.get("time_axis", 0) % advantages.ndim) + (slice(keep),)
    return advantages[first], value_targets[first]


def segment_lengths(
    *, terminated: ArrayLike, truncated: ArrayLike, mask: ArrayLike | None = None, time_axis: int = 0
) -> jax.Array:
    """Returns the number of kept steps of the segment (episode, response) that each step belongs to.

    Args:
      terminated, truncated, mask, time_axis: As in `gae`. Segments are counted as far as the array shows them.

    Returns:
      Floats with the shape of the flags.
    """
    ended = _arguments.as_array("terminated", terminated, bool)
    cut = ended | _arguments.as_array("truncated", truncated, bool)
    kept = jnp.ones(cut.shape) if mask is None else _arguments.as_array("mask", mask, bool).astype(jnp.float32)
    axis = _arguments.time_axis("terminated", ended, time_axis)
    to_the_end = reverse_linear_recurrence(kept, 1.0, reset=cut, time_axis=axis)
    before = lax.slice_in_dim(cut, 0, cut.shape[axis] - 1, axis=axis)
    starts = jnp.concatenate([jnp.ones_like(lax.slice_in_dim(cut, 0, 1, axis=axis)), before], axis)
    from_the_start = jnp.flip(
        reverse_linear_recurrence(jnp.flip(kept, axis), 1.0, reset=jnp.flip(starts, axis), time_axis=axis), axis
    )
    return to_the_end + from_the_start - kept


def length_adaptive_lambda(lengths: ArrayLike, alpha: float = 0.05, floor: float = 0.0) -> jax.Array:
    """Returns lambda = 1 - 1 / (alpha * length), at least `floor` (VAPO, Yue et al. 2025, arXiv:2504.05118, equation
    10): the reach of the weights grows with the response.

    Args:
      lengths: The lengths of the responses, in steps, of any shape.
      alpha: The reach in proportion to the length.
      floor: The least lambda. Without one, lambda is 0 for lengths of up to `1 / alpha`.

    Returns:
      Floats with the shape of `lengths`.
    """
    return jnp.maximum(1 - 1 / (alpha * jnp.maximum(jnp.asarray(lengths, jnp.float32), 1)), floor)


def relative_position_lambda(lengths: ArrayLike, fraction: float) -> jax.Array:
    """Returns lambda = fraction ** (1 / (length - 1)): the delta of the last step reaches the first step with the
    weight `fraction`, however long the response is.

    Args:
      lengths: The lengths of the responses, in steps, of any shape.
      fraction: The weight, between 0 and 1.

    Returns:
      Floats with the shape of `lengths`.
    """
    return jnp.asarray(fraction, jnp.float32) ** (1 / jnp.maximum(jnp.asarray(lengths, jnp.float32) - 1, 1))


class _Steps(NamedTuple):
    """Checked arguments of one float dtype; with a mask, `next_values` are the values of the next kept steps."""

    rewards: jax.Array
    values: jax.Array
    next_values: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    discount: jax.Array
    mask: jax.Array | None
    final: jax.Array
    how: tuple[int, str, str | None]  # time axis, method, axis name

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

    def array(self, name: str, value: Any) -> jax.Array:
        array = _arguments.as_array(name, value, float).astype(self.rewards.dtype)
        _arguments.same_shape(name, array, self.rewards.shape, "rewards")
        return array

    def ratios(self, log_ratios: Any) -> jax.Array:
        return jnp.exp(jnp.where(self.kept, self.array("log_ratios", log_ratios), 0))

    def recurrence(self, drive: jax.Array, decay: jax.Array, reset: jax.Array | None = None) -> jax.Array:
        """Solves the recurrence, which passes over masked steps and stops at the flags."""
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
        """Returns `x` of the next step, and `end` after the last."""
        axis, _, axis_name = self.how
        if axis_name is not None:
            size, here = lax.axis_size(axis_name), lax.axis_index(axis_name)
            first = lax.index_in_dim(x, 0, axis, keepdims=False)
            received = lax.ppermute(first, axis_name, [(i + 1, i) for i in range(size - 1)])
            end = jnp.where(here == size - 1, end, received)
        later = lax.slice_in_dim(x, 1, x.shape[axis], axis=axis)
        return jnp.concatenate([later, jnp.expand_dims(end, axis)], axis)

    def following(self, x: jax.Array, end: jax.Array, at_cuts: Any = 0.0) -> jax.Array:
        """Returns `x` of the segment's next kept step; `end` after the last; `at_cuts` where a masked step ends it."""
        if self.mask is None:
            return self.shifted(x, end)
        axis, method, axis_name = self.how
        cut = self.terminated | self.truncated
        arriving = reverse_linear_recurrence(
            jnp.where(self.mask, x, jnp.where(cut, at_cuts, 0)),
            1.0,
            end,
            reset=self.mask | cut,
            time_axis=axis,
            method=method,
            axis_name=axis_name,
        )
        return self.shifted(arriving, end)

    def results(self, advantages: jax.Array, corrections: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns `(advantages, values + corrections)`, 0 at masked steps."""
        return jnp.where(self.kept, advantages, 0), jnp.where(self.kept, self.values + corrections, 0)


def _checked(
    *,
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    discount: ArrayLike,
    mask: ArrayLike | None = None,
    final_advantage: ArrayLike | None = None,
    time_axis: int = 0,
    method: str = "auto",
    axis_name: str | None = None,
) -> _Steps:
    given = dict(rewards=rewards, values=values, next_values=next_values)
    floats = {name: _arguments.as_array(name, array, float) for name, array in given.items()}
    dtype = jnp.result_type(*floats.values())
    reward, value, next_value = (array.astype(dtype) for array in floats.values())
    flags = dict(terminated=terminated, truncated=truncated) | ({} if mask is None else dict(mask=mask))
    booleans = {name: _arguments.as_array(name, array, bool) for name, array in flags.items()}
    axis = _arguments.time_axis("rewards", reward, time_axis)
    for name, array in dict(values=value, next_values=next_value, **booleans).items():
        _arguments.same_shape(name, array, reward.shape, "rewards")
    one_step = reward.shape[:axis] + reward.shape[axis + 1 :]
    final = jnp.zeros(one_step, dtype)
    if final_advantage is not None:
        final = _arguments.as_array("final_advantage", final_advantage, float).astype(dtype)
        _arguments.same_shape("final_advantage", final, one_step, "one step of rewards")
    steps = _Steps(
        reward,
        value,
        next_value,
        booleans["terminated"],
        booleans["truncated"],
        _arguments.coefficient("discount", discount, reward, "rewards"),
        booleans.get("mask"),
        final,
        (axis, method, axis_name),
    )
    if steps.mask is None:
        return steps
    last = lax.index_in_dim(next_value, -1, axis, keepdims=False)
    bootstrap = jnp.where(steps.terminated, 0, next_value)  # of a segment that ends at a masked step
    following = steps.following(value, last, at_cuts=bootstrap)
    return steps._replace(next_values=jnp.where(steps.truncated, next_value, following))
