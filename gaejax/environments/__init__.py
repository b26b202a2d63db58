"""Environments as values: the protocol, its transforms, and the gymnax adapter."""

from gaejax.environments.core import (
    UNBOUNDED,
    Box,
    Dict,
    Discrete,
    Environment,
    MultiBinary,
    MultiDiscrete,
    Space,
    auto_reset,
    rescale_actions,
    rescaled_action,
    time_limit_terminates,
)
from gaejax.environments.gymnax import environment_names, from_gymnax, make

__all__ = [
    "UNBOUNDED",
    "Box",
    "Dict",
    "Discrete",
    "Environment",
    "MultiBinary",
    "MultiDiscrete",
    "Space",
    "auto_reset",
    "environment_names",
    "from_gymnax",
    "make",
    "rescale_actions",
    "rescaled_action",
    "time_limit_terminates",
]
