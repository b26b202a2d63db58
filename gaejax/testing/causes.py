"""Common mistakes, each as the GAE that it leads to. The cause reported is the one that leads to what was returned."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gaejax.testing.reference import reference_gae


class Wrong(NamedTuple):
    """A mistake, and the GAE that it leads to on a trajectory."""

    cause: str
    change: Callable[[dict], np.ndarray]


def plain_gae(
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
    """Computes GAE by the recurrence `A = delta + decay * A'`, parts of which may be replaced."""
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
    """Returns `x` of the next step; False or 0 after the last."""
    return np.concatenate([x[1:], np.zeros_like(x[:1])])


def _earlier(x: Any) -> np.ndarray:
    return np.concatenate([np.zeros_like(x[:1]), x[:-1]])


def _following_values(s: dict) -> np.ndarray:
    """Returns the values of the next step, whatever episode it belongs to."""
    return np.concatenate([s["values"][1:], s["next_values"][-1:]])


def ended(s: dict) -> np.ndarray:
    return s["terminated"] | s["truncated"]


WRONG = (
    Wrong(
        "a time limit is treated as a termination: bootstrap next_values where truncated",
        lambda s: plain_gae(**s, bootstrap=np.where(ended(s), 0, s["next_values"])),
    ),
    Wrong(
        "a termination is bootstrapped: the successor of a terminated step is worth 0, and termination wins over "
        "truncation",
        lambda s: plain_gae(**s, bootstrap=s["next_values"]),
    ),
    Wrong(
        "where both flags are set truncation wins: it must be termination",
        lambda s: plain_gae(**s, bootstrap=np.where(s["terminated"] & ~s["truncated"], 0, s["next_values"])),
    ),
    Wrong(
        "the trace is not cut at truncation: later deltas leak into the episode before",
        lambda s: plain_gae(**s, cut=s["terminated"]),
    ),
    Wrong(
        "the trace is not cut at termination: later deltas leak into the episode before",
        lambda s: plain_gae(**s, cut=s["truncated"]),
    ),
    Wrong(
        "the trace is never cut: later deltas leak into the episode before",
        lambda s: plain_gae(**s, cut=np.zeros_like(ended(s))),
    ),
    Wrong(
        "lambda is missing from the trace: it is discount * gae_lambda, not discount",
        lambda s: plain_gae(**s, decay=s["discount"]),
    ),
    Wrong(
        "the discount is missing from the trace: it is discount * gae_lambda, not gae_lambda",
        lambda s: plain_gae(**s, decay=s["gae_lambda"]),
    ),
    Wrong(
        "the discount is missing from delta: it is rewards + discount * next_values - values",
        lambda s: plain_gae(
            **{**s, "rewards": s["rewards"] + (1 - s["discount"]) * np.where(s["terminated"], 0, s["next_values"])}
        ),
    ),
    Wrong(
        "the flags are shifted by one step: the flag of step t is about what follows step t, not of step t + 1",
        lambda s: plain_gae(**{**s, "terminated": _later(s["terminated"]), "truncated": _later(s["truncated"])}),
    ),
    Wrong(
        "the flags are shifted by one step: the flag of step t is about what follows step t, not of step t - 1",
        lambda s: plain_gae(**{**s, "terminated": _earlier(s["terminated"]), "truncated": _earlier(s["truncated"])}),
    ),
    Wrong(
        "next_values is not read: where an episode was truncated, the next step's value is not the successor's",
        lambda s: plain_gae(**s, bootstrap=np.where(s["terminated"], 0, _following_values(s))),
    ),
    Wrong(
        "the value after the last step is treated as 0: bootstrap next_values there too",
        lambda s: plain_gae(
            **s,
            bootstrap=np.where(
                s["terminated"] | (np.arange(len(s["rewards"])) == len(s["rewards"]) - 1)[:, None], 0, s["next_values"]
            ),
        ),
    ),
    Wrong(
        "the last step is never computed: the loop is one step short",
        lambda s: np.where((np.arange(len(s["rewards"])) == len(s["rewards"]) - 1)[:, None], 0, plain_gae(**s)),
    ),
    Wrong(
        "the last step is never computed: the loop starts one step before it",
        lambda s: np.concatenate([plain_gae(**_piece(s, slice(0, -1))), np.zeros_like(s["rewards"][-1:])]),
    ),
    Wrong(
        "the trace is not cut where both flags are set",
        lambda s: plain_gae(**s, cut=s["terminated"] ^ s["truncated"]),
    ),
    Wrong(
        "flags are multiplied onto the result: they cut inside the loop",
        lambda s: np.where(ended(s), 0, plain_gae(**s, cut=np.zeros_like(ended(s)))),
    ),
    Wrong(
        "a truncated step is bootstrapped twice: next_values goes into delta once",
        lambda s: plain_gae(
            **{**s, "rewards": s["rewards"] + s["discount"] * np.where(s["truncated"], s["next_values"], 0)}
        ),
    ),
    Wrong(
        "the flags are shifted by one step and a time limit is treated as a termination, as where `done` belongs to "
        "the observation and next_values is the value of the next step",
        lambda s: plain_gae(
            **{
                **s,
                "terminated": _later(ended(s)),
                "truncated": np.zeros_like(ended(s)),
                "next_values": _following_values(s),
            }
        ),
    ),
    Wrong(
        "discount and gae_lambda are swapped",
        lambda s: plain_gae(**{**s, "discount": s["gae_lambda"], "gae_lambda": s["discount"]}),
    ),
    Wrong(
        "lambda is in delta: it weighs the trace only",
        lambda s: plain_gae(**s, bootstrap=np.where(s["terminated"], 0, s["gae_lambda"] * s["next_values"])),
    ),
    Wrong(
        "delta is multiplied by lambda: it weighs the trace only",
        lambda s: plain_gae(
            **{
                **s,
                "values": np.zeros_like(s["values"]),
                "next_values": np.zeros_like(s["values"]),
                "rewards": s["gae_lambda"] * _one_step(s),
            }
        ),
    ),
    Wrong(
        "rewards are cast to integers: fractions are lost",
        lambda s: plain_gae(**{**s, "rewards": np.trunc(s["rewards"])}),
    ),
    Wrong(
        "rewards are clipped to [-1, 1]: that belongs to the environment",
        lambda s: plain_gae(**{**s, "rewards": np.clip(s["rewards"], -1, 1)}),
    ),
    Wrong("values is not subtracted: these are returns, not advantages", lambda s: plain_gae(**s) + s["values"]),
    Wrong("the advantages have the wrong sign", lambda s: -plain_gae(**s)),
    Wrong("time runs forwards: the recurrence goes from the last step to the first", lambda s: _forwards(s)),
    Wrong("lambda is treated as 0: this is the one-step advantage", lambda s: plain_gae(**s, decay=0.0)),
    Wrong(
        "the advantages are normalized: that belongs after the estimator",
        lambda s: (plain_gae(**s) - plain_gae(**s).mean()) / (plain_gae(**s).std() + 1e-8),
    ),
    Wrong(
        "only the first lambda and discount are used: they may change with every step",
        lambda s: plain_gae(**{**s, **{name: np.ravel(s[name])[0] for name in ("discount", "gae_lambda")}}),
    ),
    Wrong(
        "only the first lambda is used: it may change with every step",
        lambda s: plain_gae(**{**s, "gae_lambda": np.ravel(s["gae_lambda"])[0]}),
    ),
    Wrong(
        "only the first discount is used: it may change with every step",
        lambda s: plain_gae(**{**s, "discount": np.ravel(s["discount"])[0]}),
    ),
    Wrong(
        "the first environment's lambda or discount is used for all environments",
        lambda s: plain_gae(**{**s, **{name: np.asarray(s[name])[..., :1] for name in ("discount", "gae_lambda")}}),
    ),
    Wrong(
        "the first environment's flags are used for all environments",
        lambda s: plain_gae(
            **{**s, **{name: np.broadcast_to(s[name][:, :1], s[name].shape) for name in ("terminated", "truncated")}}
        ),
    ),
    Wrong(
        "the lambda or discount of the step before is used: step t's weigh what follows step t",
        lambda s: plain_gae(**s, decay=_earlier(_full(s, s["discount"] * s["gae_lambda"]))),
    ),
    Wrong(
        "the next step's lambda is used: step t's weighs what follows step t",
        lambda s: plain_gae(**s, decay=s["discount"] * _later(np.broadcast_to(s["gae_lambda"], s["rewards"].shape))),
    ),
    Wrong(
        "time is not the leading axis: arrays are [T, N]",
        lambda s: plain_gae(**{name: np.transpose(x) for name, x in s.items()}).T,
    ),
    Wrong(
        "time runs forwards: the recurrence goes from the last step to the first",
        lambda s: plain_gae(**{name: x[::-1] if np.ndim(x) else x for name, x in s.items()})[::-1],
    ),
    Wrong(
        "each environment's advantages are normalized: that belongs after the estimator",
        lambda s: (plain_gae(**s) - plain_gae(**s).mean(0)) / (plain_gae(**s).std(0) + 1e-8),
    ),
    Wrong(
        "the next step's discount or lambda is used: step t's weigh what follows step t",
        lambda s: plain_gae(**s, decay=_later(_full(s, s["discount"] * s["gae_lambda"]))),
    ),
)


def _full(s: dict, x: Any) -> np.ndarray:
    return np.broadcast_to(x, s["rewards"].shape)


def _one_step(s: dict) -> np.ndarray:
    return plain_gae(**s, decay=0.0)


def _piece(s: dict, part: slice) -> dict:
    return {name: x[part] if np.ndim(x) else x for name, x in s.items()}


def _forwards(s: dict) -> np.ndarray:
    flipped = {name: x[::-1] if np.ndim(x) else x for name, x in s.items()}
    deltas = s["rewards"] + s["discount"] * np.where(s["terminated"], 0, s["next_values"]) - s["values"]
    flipped["rewards"], zeros = deltas[::-1], np.zeros_like(deltas)
    flipped["terminated"] = flipped["truncated"] = _earlier(ended(s))[::-1]
    return plain_gae(**{**flipped, "values": zeros, "next_values": zeros})[::-1]


WRONG_MASKS = (
    Wrong("mask is ignored, or only multiplied onto the result", lambda s: reference_gae(**{**s, "mask": None})[0]),
    Wrong(
        "the mask is inverted: it is true for the steps that count",
        lambda s: reference_gae(**{**s, "mask": ~s["mask"]})[0],
    ),
    Wrong(
        "masked steps are treated as terminations: they are as if deleted",
        lambda s: _masked(
            s,
            deltas=reference_gae(
                **{**s, "terminated": s["terminated"] | ~s["mask"] | _before_masked(s), "gae_lambda": 0.0}
            )[0],
            cuts=~s["mask"] | _before_masked(s),
        ),
    ),
    Wrong(
        "a masked step's reward is counted",
        lambda s: _masked(s, deltas=np.where(s["mask"], _masked_deltas(s), s["rewards"])),
    ),
    Wrong(
        "masked steps cut the trace: it passes over them to the next kept step", lambda s: _masked(s, cuts=~s["mask"])
    ),
    Wrong(
        "the trace decays at masked steps: it passes over them unchanged",
        lambda s: _masked(s, decay=s["discount"] * s["gae_lambda"]),
    ),
    Wrong(
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
    flags = dict(terminated=np.zeros(deltas.shape, bool), truncated=ended(s) | cuts)
    return plain_gae(deltas, zeros, zeros, **flags, discount=1.0, gae_lambda=1.0, decay=decay)
