"""Environment steps per second of PPO with each body, relative to the MLP, and of an MLP written by hand.

    uv run experiments/benchmarks/policy_speed.py

CartPole-v1 (Breakout-MinAtar for images), 16 environments and 64 steps a rollout, 4 epochs, 4 minibatches; actor and
critic share a body. All trainings are compiled first, then each is called once a round, in random order. Reported are
medians over rounds of the speed, and of its ratio to the MLP's in the same round.
"""

import random
import statistics
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import gaejax
from gaejax.distributions import Categorical
from gaejax.policies import Body, Policy, actor_critic, chain, cnn, gru, linear_recurrent, mlp, skip, transformer
from gaejax.policies.layers import Readout, orthogonal
from gaejax.training.results import results_parser, write_results
from gaejax.training.scripts import run_script

TOTAL_STEPS, ROUNDS = 32_768, 9
CONFIG = gaejax.PPOConfig(num_envs=16, num_steps=64, num_epochs=4, num_minibatches=4, learning_rate=1e-3)


class Bare(nn.Module):
    """A shared MLP with two heads, written for this environment alone."""

    num_actions: int

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        for _ in range(2):
            features = nn.tanh(nn.Dense(64, kernel_init=orthogonal(np.sqrt(2)))(features))
        return Readout(self.num_actions, 0.01)(features), Readout(1, 1.0)(features)[:, 0]


def bare_mlp(environment: gaejax.Environment) -> Policy:
    """Returns a policy written by hand, without bodies, chains and heads."""
    actions, observations = environment.action_space, environment.observation_space
    assert isinstance(actions, gaejax.Discrete) and isinstance(observations, gaejax.Box)
    module = Bare(actions.n)

    def apply(params: dict, carry: tuple, observations: jax.Array, resets: jax.Array) -> tuple:
        shape = resets.shape
        logits, values = module.apply(params, observations.reshape(shape[0] * shape[1], -1))
        return carry, Categorical(logits.reshape(*shape, -1)), values.reshape(shape)

    size = int(np.prod(observations.shape))
    return Policy(lambda key: module.init(key, jnp.zeros((1, size))), lambda batch: (), apply)


def policies() -> dict[str, tuple[str, Callable]]:
    """Returns the name of the environment and the maker of the policy, by name."""

    def of(body: Body) -> Callable:
        return lambda environment: actor_critic(environment, body)

    return {
        "mlp 64-64": ("CartPole-v1", of(mlp())),
        "mlp 64-64, written by hand": ("CartPole-v1", bare_mlp),
        "gru 64": ("CartPole-v1", of(chain(mlp((64,)), skip(gru(64))))),
        "linear_recurrent 64, 2 layers": ("CartPole-v1", of(chain(mlp((64,)), linear_recurrent(64)))),
        "transformer 64, 2 layers, context 32": ("CartPole-v1", of(chain(mlp((64,)), transformer(64, context=32)))),
        "mlp 64-64 on images": ("Breakout-MinAtar", of(mlp(activation="relu"))),
        "cnn 16, 128": ("Breakout-MinAtar", of(cnn())),
    }


def compiled(name: str, make: Callable) -> Callable[[int], float]:
    """Returns a compiled training: `seed -> environment steps per second`."""
    environment = gaejax.make(name)
    algorithm = gaejax.ppo(environment, make(environment))
    train = jax.jit(lambda key: gaejax.train(algorithm, key, CONFIG, TOTAL_STEPS)).lower(jax.random.key(0)).compile()

    def run(seed: int) -> float:
        started = time.perf_counter()
        _, info = jax.block_until_ready(train(jax.random.key(seed)))
        return float(info.env_steps.sum()) / (time.perf_counter() - started)

    run(0)
    return run


def main(argv: list[str]) -> None:
    arguments = results_parser(__doc__).parse_args(argv)
    runs = {name: (environment, compiled(environment, make)) for name, (environment, make) in policies().items()}
    speeds = {name: [] for name in runs}
    order = list(runs)
    for index in range(ROUNDS):
        random.Random(index).shuffle(order)
        for name in order:
            speeds[name].append(runs[name][1](index))
    rows = []
    for name, (environment, _) in runs.items():
        reference = "mlp 64-64 on images" if environment == "Breakout-MinAtar" else "mlp 64-64"
        ratio = statistics.median(a / b for a, b in zip(speeds[name], speeds[reference], strict=True))
        row = {
            "policy": name,
            "environment": environment,
            "steps_per_s": round(statistics.median(speeds[name])),
            "ratio": round(ratio, 3),
        }
        print(row, flush=True)
        rows.append(row)
    write_results(arguments.output / "policy_speed.csv", rows)


if __name__ == "__main__":
    run_script(main)
