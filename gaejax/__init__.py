"""gaejax: functional reinforcement learning in JAX, centred on Generalized Advantage Estimation."""

from gaejax.advantages import gae
from gaejax.algorithms import PPOConfig, ppo
from gaejax.environments import Box, Discrete, Environment, auto_reset, environment_names, make
from gaejax.policies import Policy, mlp_policy
from gaejax.recurrence import reverse_linear_recurrence
from gaejax.rollout import Trajectory, rollout

__version__ = "0.1.0"

__all__ = [
    "Box",
    "Discrete",
    "Environment",
    "PPOConfig",
    "Policy",
    "Trajectory",
    "auto_reset",
    "environment_names",
    "gae",
    "make",
    "mlp_policy",
    "ppo",
    "reverse_linear_recurrence",
    "rollout",
]
