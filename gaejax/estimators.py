"""Advantage estimators as algorithms call them: functions of one value that holds all that a rollout knows."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from gaejax import advantages
from gaejax.advantages import SHARED, EstimatorInputs


class Estimator(Protocol):
    """Estimates advantages from a rollout."""

    def __call__(self, inputs: EstimatorInputs, /) -> tuple[jax.Array, jax.Array]:
        """Returns `(advantages, value_targets)`, each `[T, N]`."""
        ...


ESTIMATORS: dict[str, Estimator] = {
    "gae": lambda x: advantages.gae(**x.steps(), gae_lambda=x.gae_lambda),
    "td_lambda": lambda x: advantages.td_lambda(**x.steps(), trace_lambda=x.gae_lambda),
    "monte_carlo": lambda x: advantages.monte_carlo(**x.steps()),
    "vtrace": lambda x: advantages.vtrace(**x.steps(), log_ratios=x.log_ratios, gae_lambda=x.gae_lambda),
    "retrace": lambda x: advantages.retrace(
        **x.steps(), action_values=x.taken_action_values(), log_ratios=x.log_ratios, trace_lambda=x.gae_lambda
    ),
    "q_lambda": lambda x: advantages.q_lambda(
        **x.steps(), action_values=x.taken_action_values(), trace_lambda=x.gae_lambda
    ),
    "upgo": lambda x: advantages.upgo(**x.steps()),
    "decoupled_gae": lambda x: advantages.decoupled_gae(**x.steps(), gae_lambda=x.gae_lambda),
    "weight_corrected_gae": lambda x: advantages.weight_corrected_gae(**x.steps(), gae_lambda=x.gae_lambda),
}
"""The estimators that need nothing beyond what a rollout knows, by name."""


def as_estimator(estimator: Estimator | Callable[..., Any] | str) -> Estimator:
    """Returns the estimator that an algorithm's `estimator=` argument stands for.

    Args:
      estimator: a name in `ESTIMATORS`, a function of `EstimatorInputs`, or a keyword function called like `gaejax.gae`
        (see `from_keywords`).

    Raises:
      ValueError: if it is neither a known name nor a function.
    """
    if isinstance(estimator, str) and estimator in ESTIMATORS:
        return ESTIMATORS[estimator]
    if not callable(estimator):
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)} or a function, got {estimator!r}")
    return estimator if takes_inputs(estimator) else from_keywords(estimator)


def takes_inputs(estimator: Callable[..., Any] | str) -> bool:
    """Returns whether an estimator is one of `EstimatorInputs`, or a name of one: whether it can be called with one
    argument. Otherwise it is a keyword function."""
    if isinstance(estimator, str):
        return True
    try:
        inspect.signature(estimator).bind(None)
    except TypeError:
        return False
    except ValueError:  # it has no signature that could be read
        pass
    return True


def from_keywords(function: Callable[..., Any]) -> Estimator:
    """Adapts a keyword function, called like `gaejax.gae`, to an estimator of `EstimatorInputs`.

    The function is given those arguments that it names: any of `gaejax.gae` (`rewards`, `values`, `next_values`,
    `terminated`, `truncated`, `discount`, `mask`, `gae_lambda`), and `trace_lambda` (the config's `gae_lambda`),
    `log_ratios`, `action_values`, `episode_steps`. If it takes `**keywords` it is given all arguments of `gaejax.gae`,
    except if their type names them (`**steps: Unpack[Steps]`).
    """
    named, takes_more = _keywords(function)
    if takes_more:
        named = named | {*SHARED, "gae_lambda"}

    def estimator(inputs: EstimatorInputs) -> tuple[jax.Array, jax.Array]:
        offered = {**inputs._asdict(), "trace_lambda": inputs.gae_lambda}
        if "action_values" in named:
            offered["action_values"] = inputs.taken_action_values()
        return function(**{name: value for name, value in offered.items() if name in named})

    return estimator


def _keywords(function: Callable[..., Any]) -> tuple[set[str], bool]:
    """Returns the keywords that a function names, and whether it takes any others of `gaejax.gae`. Keywords that are
    typed (`**steps: Unpack[Steps]`, PEP 692) are named by their type."""
    named, takes_more = set(), False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            named.add(parameter.name)
        elif typed := getattr(parameter.annotation, "__args__", ()):
            named |= set(typed[0].__annotations__)
        else:
            takes_more = True
    return named, takes_more


def example_inputs(shape: tuple[int, int], action_values: bool) -> EstimatorInputs:
    """Returns abstract inputs of `[T, N]` transitions, to check an estimator with `jax.eval_shape`."""
    abstract: Any = jax.ShapeDtypeStruct
    floats, flags, scalar = abstract(shape, jnp.float32), abstract(shape, jnp.bool_), abstract((), jnp.float32)
    return EstimatorInputs(
        rewards=floats,
        values=floats,
        next_values=floats,
        terminated=flags,
        truncated=flags,
        mask=flags,
        discount=scalar,
        gae_lambda=scalar,
        log_ratios=floats,
        action_values=floats if action_values else None,
        episode_steps=abstract(shape, jnp.int32),
    )
