"""Settings that are known to work, by algorithm and environment: the defaults of the scripts."""

from typing import Any

from gaejax.algorithms import ALGORITHMS
from gaejax.environments import Box, Environment, check_is_environment, environment_names
from gaejax.training.run import Experiment

NORMALIZED = {"normalize_observations": True, "normalize_rewards": True, "entropy_coefficient": 0.0}


def _preset(
    environment: str | Environment,
    total_steps: int,
    *,
    environment_arguments: dict[str, Any] | None = None,
    policy: dict[str, Any] | None = None,
    algorithm: str = "ppo",
    **config: Any,
) -> Experiment:
    """Returns an experiment whose learning rate anneals over all of it."""
    return Experiment(
        environment=environment,
        config=ALGORITHMS[algorithm].config(**{"anneal_steps": float(total_steps), **config}),
        total_steps=total_steps,
        environment_arguments=environment_arguments or {},
        policy=policy or {},
        algorithm=algorithm,
    )


PRESETS: dict[tuple[str, str], Experiment] = {
    (experiment.algorithm, experiment.name): experiment
    for experiment in (
        _preset(
            "CartPole-v1",
            150_000,
            num_envs=16,
            num_steps=64,
            learning_rate=3e-3,
            entropy_coefficient=0.005,
        ),
        _preset(
            "Acrobot-v1",
            200_000,
            num_envs=16,
            num_steps=128,
            num_epochs=8,
            learning_rate=2e-3,
            entropy_coefficient=0.005,
        ),
        _preset(
            "Pendulum-v1",
            300_000,
            num_envs=16,
            num_steps=128,
            num_epochs=10,
            num_minibatches=16,
            learning_rate=1e-3,
            max_grad_norm=1.0,
            **NORMALIZED,
        ),
        _preset(
            "MountainCarContinuous-v0",
            500_000,
            num_envs=32,
            num_steps=256,
            num_epochs=8,
            num_minibatches=8,
            learning_rate=1e-3,
            **NORMALIZED,
        ),
        _preset("Catch-bsuite", 100_000, num_envs=16, num_steps=64, learning_rate=2e-3),
        _preset(  # it observes its clock, so the limit is part of the task; only the first action of an episode counts
            "DiscountingChain-bsuite",
            100_000,
            environment_arguments={"mapping_seed": 3, "time_limit": "terminate"},
            num_envs=16,
            num_steps=100,
            num_epochs=16,
            learning_rate=3e-3,
            discount=0.999,
            gae_lambda=1.0,
            entropy_coefficient=0.01,
        ),
        *(
            _preset(
                f"{game}-MinAtar",
                1_000_000,
                policy={"activation": "relu"},
                num_envs=64,
                num_steps=64,
                num_minibatches=8,
                learning_rate=5e-3,
            )
            for game in ("Breakout", "SpaceInvaders")
        ),
        _preset(  # a bit at the start decides the reward at the end; nothing in between tells how well it goes
            "MemoryChain-bsuite",
            100_000,
            policy={"memory": "gru", "shared": True},
            num_envs=16,
            num_steps=64,
            learning_rate=2e-3,
            gae_lambda=1.0,
        ),
        _preset(  # episodes of 100 steps and a final observation; a memory of the last step alone misleads
            "BernoulliBandit-misc",
            1_000_000,
            policy={"hidden_sizes": (64,), "memory": "gru", "skip": False, "shared": True},
            num_envs=32,
            num_steps=101,
            learning_rate=3e-3,
        ),
        _preset(  # sixteen one-hot states: without hidden layers, policy and critic are tables
            "FrozenLake-misc",
            300_000,
            policy={"hidden_sizes": ()},
            num_envs=32,
            num_steps=128,
            num_epochs=8,
            learning_rate=2e-2,
            discount=1.0,
            gae_lambda=0.9,
        ),
        _preset(
            "CartPole-v1",
            500_000,
            algorithm="reinforce",
            policy={"hidden_sizes": (128,), "activation": "relu"},
            num_steps=16,
            normalize_rewards=True,
        ),
        _preset("CartPole-v1", 300_000, algorithm="a2c"),
        _preset("CartPole-v1", 500_000, algorithm="trpo"),
        _preset("Acrobot-v1", 500_000, algorithm="trpo", num_value_steps=2),
        _preset(
            "CartPole-v1",
            500_000,
            algorithm="pqn",
            policy={"activation": "relu", "layer_norm": True},
            num_envs=64,
            num_epochs=4,
            num_minibatches=16,
            gae_lambda=0.95,
            learning_rate=1e-2,
            optimizer_epsilon=0.1,
            max_grad_norm=1.0,
            normalize_rewards=True,
        ),
        *(
            _preset(
                f"{game}-MinAtar",
                1_000_000,
                algorithm="pqn",
                policy={"hidden_sizes": (128, 128), "activation": "relu", "layer_norm": True},
                num_envs=64,
                learning_rate=1e-3,
            )
            for game in ("Breakout", "SpaceInvaders")
        ),
        _preset(  # four passes in the policy phase: with the paper's one, a million steps are too few
            "Breakout-MinAtar",
            1_000_000,
            algorithm="ppg",
            policy={"activation": "relu", "shared": True},
            num_envs=64,
            num_steps=64,
            num_epochs=4,
            num_minibatches=8,
            num_policy_updates=8,
            learning_rate=5e-3,
        ),
        _preset(
            "CartPole-v1",
            150_000,
            algorithm="ppg",
            policy={"shared": True},
            num_envs=16,
            num_steps=64,
            num_epochs=4,
            num_policy_updates=8,
            learning_rate=3e-3,
            entropy_coefficient=0.005,
        ),
        _preset(  # V-trace reached less with standardized advantages
            "CartPole-v1",
            200_000,
            algorithm="impala",
            actor_lag=8,
            learning_rate=1.6e-2,
            advantage_normalization="none",
        ),
    )
}


def preset(environment: Environment, algorithm: str = "ppo") -> Experiment:
    """Returns the experiment for an environment: its entry in `PRESETS`, or one with sensible settings for its spaces.

    Raises:
      ValueError: for an unknown algorithm.
    """
    check_is_environment(environment)
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    if (algorithm, environment.name) in PRESETS:
        return PRESETS[algorithm, environment.name]
    real_actions = isinstance(environment.action_space, Box)
    image = isinstance(environment.observation_space, Box) and len(environment.observation_space.shape) == 3
    config: dict[str, Any] = {"normalize_observations": True, "normalize_rewards": True} if real_actions else {}
    policy: dict[str, Any] = {"activation": "relu"} if image else {}
    if algorithm == "ppo":
        config |= {"num_envs": 32, "num_steps": 64, "learning_rate": 1e-3}
        config |= {"num_epochs": 10, "num_minibatches": 16, "entropy_coefficient": 0.0} if real_actions else {}
    if algorithm == "pqn":
        policy |= {"activation": "relu", "layer_norm": True}
    total_steps = 1_000_000 if image else 500_000
    named = environment.name if environment.name in environment_names() else environment
    return _preset(named, total_steps, policy=policy, algorithm=algorithm, **config)
