"""Training algorithms: values with two pure functions, `init` and `step`."""

from collections.abc import Callable
from typing import NamedTuple

from gaejax.algorithms.a2c import A2CConfig, a2c
from gaejax.algorithms.core import Algorithm
from gaejax.algorithms.explain import HEALTHY
from gaejax.algorithms.ppo import OBJECTIVES, PPOConfig, ppo
from gaejax.algorithms.pqn import PQNConfig, pqn
from gaejax.algorithms.reinforce import ReinforceConfig, reinforce
from gaejax.algorithms.training_state import TrainingInfo, TrainingState
from gaejax.algorithms.trpo import TRPOConfig, trpo
from gaejax.rollout import Transform


class Rung(NamedTuple):
    """An algorithm as scripts know it: what makes it, its config, and whether its policy is one of action values."""

    make: Callable
    config: type
    action_values: bool = False


ALGORITHMS = {
    "reinforce": Rung(reinforce, ReinforceConfig),
    "a2c": Rung(a2c, A2CConfig),
    "ppo": Rung(ppo, PPOConfig),
    "trpo": Rung(trpo, TRPOConfig),
    "pqn": Rung(pqn, PQNConfig, action_values=True),
}

__all__ = [
    "ALGORITHMS",
    "HEALTHY",
    "OBJECTIVES",
    "A2CConfig",
    "Algorithm",
    "PPOConfig",
    "PQNConfig",
    "ReinforceConfig",
    "TRPOConfig",
    "TrainingInfo",
    "TrainingState",
    "Transform",
    "a2c",
    "ppo",
    "pqn",
    "reinforce",
    "trpo",
]
