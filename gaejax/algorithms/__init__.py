"""Algorithms as values, one file each."""

from gaejax.algorithms.core import Algorithm
from gaejax.algorithms.ppo import PPOConfig, PPOInfo, PPOState, ppo

__all__ = ["Algorithm", "PPOConfig", "PPOInfo", "PPOState", "ppo"]
