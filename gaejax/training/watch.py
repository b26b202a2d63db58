"""The watch for numbers that are not finite: what a run's steps counted, when it began, and what to do about it."""

from typing import Any, Literal, NamedTuple

import numpy as np

OnNonfinite = Literal["stop", "skip", "ignore"]
"""What a run does when numbers are not finite: stop, go on and warn (the minibatches they are in move nothing), or go
on in silence."""

REMEDIES = {
    "observations": "the environment returned them: look at its step and reset",
    "rewards": "the environment returned them: look at its step",
    "losses": "try a lower learning_rate",
    "gradients": "try a lower learning_rate or max_grad_norm",
    "parameters": "try a lower learning_rate",
}
"""The kinds of numbers that are counted, each of which may cause those after it, and what helps."""


class First(NamedTuple):
    """Where numbers were not finite for the first time: the training step (from 1), a seed, and of what kind."""

    update: int
    seed: int
    kind: str


class Watch:
    """What a run has counted of numbers that are not finite.

    Attributes:
      first: where it began; None as long as all are finite.
      updates: by kind, in how many training steps of each seed `[S]` some were not.
    """

    def __init__(self, num_seeds: int):
        self.first: First | None = None
        self.updates = {kind: np.zeros(num_seeds, np.int64) for kind in REMEDIES}

    def add(self, counts: dict[str, np.ndarray], updates: int) -> None:
        """Takes in the counts `[U, S]` of some training steps, before which `updates` were taken."""
        wrong = {kind: counts[kind] > 0 for kind in REMEDIES if kind in counts}
        for kind, steps in wrong.items():
            self.updates[kind] = self.updates[kind] + steps.sum(axis=0)
        anywhere = np.any(list(wrong.values()), axis=0) if wrong else np.zeros((0, 1), bool)
        if self.first is None and anywhere.any():
            step, seed = np.argwhere(anywhere)[0]
            kind = next(kind for kind, steps in wrong.items() if steps[step, seed])
            self.first = First(updates + int(step) + 1, int(seed), kind)

    def as_fields(self) -> dict[str, Any] | None:
        """Returns what `summary.json` says, None if all numbers were finite."""
        if self.first is None:
            return None
        updates = {kind: steps.tolist() for kind, steps in self.updates.items() if steps.any()}
        return {"first": self.first._asdict(), "updates_per_seed": updates}

    def message(self) -> str:
        """Returns one line that says where it began, how many seeds it is in, and what to try."""
        assert self.first is not None
        update, seed, kind = self.first
        seeds = np.any([steps > 0 for steps in self.updates.values()], axis=0)
        others = f" ({seeds.sum()} of {seeds.size} seeds by now)" if seeds.sum() > 1 else ""
        return f"{kind} of seed {seed} are not finite since update {update}{others}: {REMEDIES[kind]}"
