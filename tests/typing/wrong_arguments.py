"""What a user might get wrong; a type checker must flag the lines marked `# wrong`, and no others.

Nothing here is run: `tests/typing/check.py` has it checked.
"""

import jax.numpy as jnp
import numpy as np

import gaejax
from gaejax.advantages import Steps

floats, flags = jnp.zeros((8, 4)), jnp.zeros((8, 4), bool)
environment = gaejax.make("CartPole-v1")
policy = gaejax.mlp_policy(environment)


def estimators() -> None:
    steps = Steps(rewards=floats, values=floats, next_values=floats, terminated=flags, truncated=flags, discount=0.99)
    gaejax.gae(**steps, gae_lambda=0.95)
    gaejax.gae(**steps, gae_lambda=np.float32(0.95))
    gaejax.vtrace(**steps, log_ratios=floats)
    gaejax.reverse_linear_recurrence(floats, 0.9, reset=flags)
    gaejax.gae(**steps, gae_lambda="0.95")  # wrong
    gaejax.gae(**steps, gamma=0.95)  # wrong
    gaejax.gae(**steps, gae_lambda=0.95, method=3)  # wrong
    gaejax.gae(rewards=floats, values=floats, gae_lambda=0.95)  # wrong
    gaejax.n_step(**steps, n=2.5)  # wrong
    gaejax.n_step(**steps, steps=2)  # wrong
    gaejax.reverse_linear_recurrence(floats, "0.9")  # wrong


def training() -> None:
    gaejax.ppo(environment, policy)
    gaejax.ppo(environment, optimizer=None)  # wrong
    gaejax.a2c(environment, policy, optimiser=1)  # wrong
    gaejax.PPOConfig(num_envs=8, gae_lambda=0.9)
    gaejax.PPOConfig(num_envs="8")  # wrong
    gaejax.PPOConfig(gamma=0.9)  # wrong
