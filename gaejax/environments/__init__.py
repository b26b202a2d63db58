"""Environments as values: the protocol, its transforms, and the gymnax adapter."""

from gaejax.environments.core import (
    Box,
    Discrete,
    Environment,
    Space,
    auto_reset,
    rescale_actions,
    time_limit_terminates,
)
from gaejax.environments.gymnax import environment_names, from_gymnax, make

__all__ = [
    "Box",
    "Discrete",
    "Environment",
    "Space",
    "auto_reset",
    "environment_names",
    "from_gymnax",
    "make",
    "rescale_actions",
    "time_limit_terminates",
]
