"""gaejax: functional reinforcement learning in JAX, centred on Generalized Advantage Estimation."""

from gaejax import testing
from gaejax.advantages import (
    decoupled_gae,
    gae,
    length_adaptive_lambda,
    monte_carlo,
    n_step,
    partial_gae,
    q_lambda,
    relative_position_lambda,
    retrace,
    segment_lengths,
    td_lambda,
    upgo,
    vtrace,
    weight_corrected_gae,
)
from gaejax.algorithms import PPOConfig, ppo
from gaejax.environments import (
    Box,
    Dict,
    Discrete,
    Environment,
    MultiBinary,
    MultiDiscrete,
    auto_reset,
    environment_names,
    make,
)
from gaejax.policies import Policy, actor_critic, mlp_policy
from gaejax.recurrence import reverse_linear_recurrence
from gaejax.rollout import Trajectory, rollout
from gaejax.training import Evaluation, Experiment, evaluate, load_checkpoint, run_experiment, save_checkpoint, train

__version__ = "0.1.0"

__all__ = [
    "Box",
    "Dict",
    "Discrete",
    "Environment",
    "Evaluation",
    "Experiment",
    "MultiBinary",
    "MultiDiscrete",
    "PPOConfig",
    "Policy",
    "Trajectory",
    "actor_critic",
    "auto_reset",
    "decoupled_gae",
    "environment_names",
    "evaluate",
    "gae",
    "length_adaptive_lambda",
    "load_checkpoint",
    "make",
    "mlp_policy",
    "monte_carlo",
    "n_step",
    "partial_gae",
    "ppo",
    "q_lambda",
    "relative_position_lambda",
    "retrace",
    "reverse_linear_recurrence",
    "rollout",
    "run_experiment",
    "save_checkpoint",
    "segment_lengths",
    "td_lambda",
    "testing",
    "train",
    "upgo",
    "vtrace",
    "weight_corrected_gae",
]
