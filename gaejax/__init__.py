"""gaejax: functional reinforcement learning in JAX, centred on Generalized Advantage Estimation."""

from gaejax.advantages import gae
from gaejax.algorithms import PPOConfig, ppo
from gaejax.environments import Box, Discrete, Environment, auto_reset, environment_names, make
from gaejax.policies import Policy, mlp_policy
from gaejax.recurrence import reverse_linear_recurrence
from gaejax.rollout import Trajectory, rollout
from gaejax.training import Evaluation, Experiment, evaluate, load_checkpoint, run_experiment, save_checkpoint, train

__version__ = "0.1.0"

__all__ = [
    "Box",
    "Discrete",
    "Environment",
    "Evaluation",
    "Experiment",
    "PPOConfig",
    "Policy",
    "Trajectory",
    "auto_reset",
    "environment_names",
    "evaluate",
    "gae",
    "load_checkpoint",
    "make",
    "mlp_policy",
    "ppo",
    "reverse_linear_recurrence",
    "rollout",
    "run_experiment",
    "save_checkpoint",
    "train",
]
