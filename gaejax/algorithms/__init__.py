"""Training algorithms: values with two pure functions, `init` and `step`, and the public parts of a step."""

from collections.abc import Callable
from typing import Any, NamedTuple

from gaejax.algorithms.a2c import A2CConfig, a2c
from gaejax.algorithms.algorithm import Algorithm
from gaejax.algorithms.config import ActorCriticConfig, OnPolicyConfig
from gaejax.algorithms.explain import HEALTHY
from gaejax.algorithms.impala import ImpalaConfig, impala
from gaejax.algorithms.parts import (
    acting,
    clipped,
    collect,
    estimator_inputs,
    gradient_step,
    make_algorithm,
    make_batch,
    next_state,
    scheduled,
    training_environment,
    training_info,
)
from gaejax.algorithms.ppg import PPGConfig, ppg
from gaejax.algorithms.ppo import PPOConfig, ppo
from gaejax.algorithms.pqn import PQNConfig, pqn
from gaejax.algorithms.reinforce import ReinforceConfig, reinforce
from gaejax.algorithms.state import Experience, TrainingInfo, TrainingState
from gaejax.algorithms.trpo import TRPOConfig, trpo
from gaejax.losses import OBJECTIVES, Objective
from gaejax.transforms import Transform


class AlgorithmSpec(NamedTuple):
    """An algorithm as scripts know it.

    Attributes:
      make: `(environment, policy, **options) -> Algorithm`.
      config: the class of its hyperparameters.
      action_values: whether its policy is one of action values.
    """

    make: Callable[..., Algorithm]
    config: type[Any]
    action_values: bool = False


ALGORITHMS = {
    "reinforce": AlgorithmSpec(reinforce, ReinforceConfig),
    "a2c": AlgorithmSpec(a2c, A2CConfig),
    "ppo": AlgorithmSpec(ppo, PPOConfig),
    "trpo": AlgorithmSpec(trpo, TRPOConfig),
    "pqn": AlgorithmSpec(pqn, PQNConfig, action_values=True),
    "ppg": AlgorithmSpec(ppg, PPGConfig),
    "impala": AlgorithmSpec(impala, ImpalaConfig),
}
"""The algorithms by name. A new one is a file beside these and a line here."""

__all__ = [
    "ALGORITHMS",
    "HEALTHY",
    "OBJECTIVES",
    "A2CConfig",
    "ActorCriticConfig",
    "Algorithm",
    "AlgorithmSpec",
    "Experience",
    "ImpalaConfig",
    "Objective",
    "OnPolicyConfig",
    "PPGConfig",
    "PPOConfig",
    "PQNConfig",
    "ReinforceConfig",
    "TRPOConfig",
    "TrainingInfo",
    "TrainingState",
    "Transform",
    "a2c",
    "acting",
    "clipped",
    "collect",
    "estimator_inputs",
    "gradient_step",
    "impala",
    "make_algorithm",
    "make_batch",
    "next_state",
    "ppg",
    "ppo",
    "pqn",
    "reinforce",
    "scheduled",
    "training_environment",
    "training_info",
    "trpo",
]
