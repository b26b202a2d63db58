"""Suggestions for names that are nearly right, so that a typing error is answered in one line."""

import difflib
import functools
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

OTHER_NAMES = {
    "lr": "learning_rate",
    "gamma": "discount",
    "gae_lam": "gae_lambda",
    "lam": "gae_lambda",
    "lambda": "gae_lambda",
    "lambda_": "gae_lambda",
    "lmbda": "gae_lambda",
    "ent_coef": "entropy_coefficient",
    "ent_coeff": "entropy_coefficient",
    "entropy_cost": "entropy_coefficient",
    "vf_coef": "value_coefficient",
    "vf_coeff": "value_coefficient",
    "clip_range": "clip_epsilon",
    "clip_coef": "clip_epsilon",
    "clip_eps": "clip_epsilon",
    "clip_ratio": "clip_epsilon",
    "n_envs": "num_envs",
    "n_steps": "num_steps",
    "unroll_length": "num_steps",
    "n_epochs": "num_epochs",
    "update_epochs": "num_epochs",
    "n_minibatches": "num_minibatches",
    "tx": "optimizer",
    "tau": "gae_lambda",
}
"""What other frameworks call the arguments of this one."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `": did you mean 'x'?"` for the known name that is nearest to `name`, or a list of what there is."""
    known = list(known)
    usual = OTHER_NAMES.get(name.strip("-").replace("-", "_").lower())
    if usual in known:
        return f": did you mean {usual!r}?"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f": did you mean {near[0]!r}?" if near else f": there are {', '.join(known)}"


def refuses_unknown_arguments(function: Callable[P, R], names: Iterable[str] | None = None) -> Callable[P, R]:
    """Makes a function answer an unknown keyword argument with the name that was probably meant.

    Args:
      function: a function without `**keywords`.
      names: its keyword arguments. Default: read from its code.
    """
    code = function.__code__
    known = list(names or code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])

    @functools.wraps(function)
    def called(*args: P.args, **keywords: P.kwargs) -> R:
        for name in keywords:
            if name not in known:
                raise TypeError(f"{function.__name__} has no argument {name!r}{did_you_mean(name, known)}")
        return function(*args, **keywords)

    return called
