"""Trajectories to test with, the smallest first."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gaejax.testing.causes import ended


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng([20160601, seed])


def simple_trajectory(steps: int, num_envs: int = 1, seed: int = 0, **changes: Any) -> dict:
    """Returns random numbers without boundaries; `terminated` and `truncated` list the steps at which to set them."""
    rng = rng_of(seed)
    floats = {name: rng.normal(size=(steps, num_envs)).round(2) for name in ("rewards", "values", "next_values")}
    floats["next_values"][:-1] = floats["values"][1:]
    flags = {name: np.zeros((steps, num_envs), bool) for name in ("terminated", "truncated")}
    for name in flags:
        for step in changes.pop(name, ()):
            flags[name][step] = True
    floats["next_values"][:-1][ended(flags)[:-1]] = 3.0  # an episode's final value is not the next episode's first
    return {**floats, **flags, "discount": 0.9, "gae_lambda": 0.8, **changes}


def base_trajectory(seed: int, steps: int = 12, num_envs: int = 3, flags: float = 0.2) -> dict:
    """Returns a trajectory with everything: both flags, and a discount and a lambda for every step.

    At a boundary the next value is arbitrary, elsewhere it is the value of the next step.
    """
    rng = rng_of(seed)
    floats = {name: 2 * rng.normal(size=(steps, num_envs)) for name in ("rewards", "values", "next_values")}
    booleans = {name: rng.random((steps, num_envs)) < flags for name in ("terminated", "truncated")}
    inside = ~ended(booleans)[:-1]
    floats["next_values"][:-1][inside] = floats["values"][1:][inside]
    coefficients = dict(
        discount=rng.uniform(0.5, 1, (steps, num_envs)), gae_lambda=rng.uniform(0.2, 1, (steps, num_envs))
    )
    return {**floats, **booleans, **coefficients}


def masked_trajectory(seed: int) -> dict:
    trajectory = base_trajectory(seed)
    mask = rng_of(seed).random(trajectory["rewards"].shape) < 0.6
    trajectory["next_values"] = rng_of(seed + 1).normal(size=mask.shape)  # to be read at boundaries only
    return {**trajectory, "mask": mask}


def base_cases() -> Iterator[tuple[str, dict, str]]:
    """Yields a property, a trajectory, and the cause if no better one is found; the smallest first."""
    yield "one step", simple_trajectory(1), "delta is rewards + discount * next_values - values"
    yield "one terminated step", simple_trajectory(1, terminated=[0]), "a terminated step's successor is worth 0"
    yield "one truncated step", simple_trajectory(1, truncated=[0]), "a truncated step's successor is bootstrapped"
    yield "both flags at once", simple_trajectory(1, terminated=[0], truncated=[0]), "termination wins over truncation"
    yield "two steps", simple_trajectory(2), "A = delta + discount * gae_lambda * A of the next step"
    yield "three steps", simple_trajectory(3), "the weights are powers of discount * gae_lambda"
    yield "termination inside", simple_trajectory(2, terminated=[0]), "nothing passes over a termination"
    yield (
        "truncation inside",
        simple_trajectory(2, truncated=[0]),
        "the trace stops at a truncation, the bootstrap does not",
    )
    yield "lambda 0", simple_trajectory(3, gae_lambda=0.0), "with lambda 0 the advantage is delta"
    yield "lambda 1", simple_trajectory(3, gae_lambda=1.0), "with lambda 1 it is the discounted return minus values"
    yield "discount 1", simple_trajectory(3, discount=1.0), "the discount is treated specially"
    yield "discount 0", simple_trajectory(3, discount=0.0), "the discount is divided by, or treated specially"
    several = simple_trajectory(3, num_envs=2, truncated=[1])
    several["truncated"][1, 0] = False
    several["next_values"][1, 0] = several["values"][2, 0]
    yield "several environments", several, "environments are mixed, or time is not the leading axis"
    both = simple_trajectory(3, terminated=[1], truncated=[1])
    yield "both flags inside", both, "a step with both flags ends the trace, and its successor is worth 0"
    weights = "the discount and the lambda of step t weigh step t + 1"
    discounts, lambdas = np.array([[0.9], [0.5], [0.7]]), np.array([[0.8], [0.3], [0.6]])
    per_step = simple_trajectory(3, discount=discounts, gae_lambda=lambdas)
    yield "a discount and a lambda for every step", per_step, weights
    for seed in range(4):
        everything = base_trajectory(10 + seed)
        plain = {**everything, "discount": 0.97, "gae_lambda": 0.9}
        yield "random trajectories", plain, "boundaries and traces in combination"
        yield "random discounts and lambdas", everything, weights


def mask_cases() -> Iterator[tuple[str, dict, str]]:
    mask = lambda *kept: np.array(kept, bool)[:, None]
    yield "nothing masked", {**simple_trajectory(3), "mask": mask(1, 1, 1)}, "a full mask must change nothing"
    yield "a masked last step", {**simple_trajectory(2), "mask": mask(1, 0)}, "at the array's end next_values is read"
    yield (
        "a masked step inside",
        {**simple_trajectory(3), "mask": mask(1, 0, 1)},
        "masked steps are treated as if deleted",
    )
    cut = simple_trajectory(3, truncated=[1])
    yield "a masked step that is truncated", {**cut, "mask": mask(1, 0, 1)}, "the flags of masked steps still cut"
    for seed in range(4):
        yield "random masks", masked_trajectory(20 + seed), "masks and boundaries in combination"
