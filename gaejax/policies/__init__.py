"""Policies as values: the protocol, bodies of all kinds, and the actor-critic that puts heads on them."""

from gaejax.distributions import CategoricalValue, ValueBins, expected_values
from gaejax.policies.actor_critic import actor_critic, mlp_policy
from gaejax.policies.bodies import (
    Body,
    chain,
    feed_forward,
    parallel,
    recurrent,
    sequential,
    skip,
    truncated_backpropagation,
)
from gaejax.policies.cnn import cnn
from gaejax.policies.gru import gru
from gaejax.policies.inputs import distribution_of
from gaejax.policies.linear_recurrent import linear_recurrent
from gaejax.policies.mlp import mlp
from gaejax.policies.options import PolicyOptions, make_policy
from gaejax.policies.policy import Policy
from gaejax.policies.q_network import q_network
from gaejax.policies.separate import apply_both, separate_networks
from gaejax.policies.transformer import transformer

__all__ = [
    "Body",
    "CategoricalValue",
    "Policy",
    "PolicyOptions",
    "ValueBins",
    "actor_critic",
    "apply_both",
    "chain",
    "cnn",
    "distribution_of",
    "expected_values",
    "feed_forward",
    "gru",
    "linear_recurrent",
    "make_policy",
    "mlp",
    "mlp_policy",
    "parallel",
    "q_network",
    "recurrent",
    "separate_networks",
    "sequential",
    "skip",
    "transformer",
    "truncated_backpropagation",
]
