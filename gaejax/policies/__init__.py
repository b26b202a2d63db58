"""Policies as values: the protocol and its bodies."""

from gaejax.policies.core import Policy
from gaejax.policies.mlp import mlp_policy

__all__ = ["Policy", "mlp_policy"]
