"""Environments as values: the protocol, its check, wrappers, and environments by name."""

from gaejax.environments.check import check_environment, check_is_environment, metric_names
from gaejax.environments.environment import Environment, ResetFn, StepFn
from gaejax.environments.gymnax import from_gymnax
from gaejax.environments.registry import environment_names, make
from gaejax.environments.spaces import UNBOUNDED, Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space
from gaejax.environments.wrappers import (
    auto_reset,
    limit_steps,
    pool_resets,
    rescale_actions,
    rescaled_action,
    time_limit_terminates,
)

__all__ = [
    "UNBOUNDED",
    "Box",
    "Dict",
    "Discrete",
    "Environment",
    "MultiBinary",
    "MultiDiscrete",
    "ResetFn",
    "Space",
    "StepFn",
    "auto_reset",
    "check_environment",
    "check_is_environment",
    "environment_names",
    "from_gymnax",
    "limit_steps",
    "make",
    "metric_names",
    "pool_resets",
    "rescale_actions",
    "rescaled_action",
    "time_limit_terminates",
]
