"""The cost of continuing an episode with a stored key-value cache, which older parameters wrote.

    uv run experiments/benchmarks/stale_memory.py

MemoryChain of length 30 (episodes of 31 steps) with rollouts of 16 steps: the bit to remember must pass through two
stored memories. During training, the policy with the stored memory is compared with the same policy whose memory is
recomputed from the episode's start: their Kullback-Leibler divergence, and the difference of their values, over the
steps that depend on the stored memory. Beside these, the return that training reaches: with stored memories, with a
burn-in of 8 steps, with rollouts of 64 steps, and with rollouts that start new episodes, where nothing is stale.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gaejax
from gaejax.algorithms import Algorithm
from gaejax.policies import make_policy
from gaejax.rollout import rollout
from gaejax.statistics import masked_mean
from gaejax.training import num_updates
from gaejax.training.results import results_parser, write_results
from gaejax.training.scripts import run_script

TOTAL_STEPS, NUM_SEEDS, NUM_PROBES, SEED = 200_000, 3, 20, 2026
ROWS = {"num_envs": 64, "num_steps": 16, "learning_rate": 2e-3, "gae_lambda": 1.0, "anneal_steps": float(TOTAL_STEPS)}
MODES = {
    "stored memory": {},
    "stored memory, learning rate / 4": {"learning_rate": 5e-4},
    "stored memory, 16 epochs": {"num_epochs": 16},
    "burn-in of 8 steps": {"burn_in_steps": 8},
    "rollouts of 64 steps": {"num_envs": 16, "num_steps": 64},
    "rollouts of 64 steps, rows start fresh": {"num_envs": 16, "num_steps": 64, "fresh_rows": True},
}


def collect(environment: gaejax.Environment, act: Any, state: Any) -> Any:
    """Returns the trajectory that the next training step will collect from `state`."""
    rollout_key = jax.random.split(state.key, 3)[1]
    arguments = (environment, state.environment_params, partial(act, state), state.rollout, state.config.num_steps)
    return rollout(rollout_key, *arguments)[1]


def staleness(environment: gaejax.Environment, algorithm: Algorithm, state: Any) -> tuple:
    """Takes three training steps. Returns the state, and of stored memories against recomputed ones the KL divergence,
    the absolute difference of values, and the spread of the values: means over the steps that depend on the memory."""
    observations, resets = [], []
    for _ in range(2):
        trajectory = collect(environment, algorithm.act, state)
        observations.append(trajectory.observations)
        resets.append(trajectory.resets)
        state, _ = algorithm.step(state)
    past = jnp.concatenate(observations), jnp.concatenate(resets)
    fresh = algorithm.initial_carry(state.config.num_envs)
    anew, _, _ = algorithm.act(state, fresh, *past)  # as if an episode that began in the past had never been stored
    trajectory = collect(environment, algorithm.act, state)
    now = trajectory.observations, trajectory.resets
    _, stored, stored_values = algorithm.act(state, trajectory.initial_carry, *now)
    _, exact, exact_values = algorithm.act(state, anew, *now)
    depends = (jnp.cumsum(trajectory.resets, axis=0) == 0) & past[1].any(axis=0) & trajectory.mask
    if state.config.fresh_rows:
        depends = jnp.zeros_like(depends)  # no step depends on a stored memory
    log_probs, exact_log_probs = jax.nn.log_softmax(stored.logits), jax.nn.log_softmax(exact.logits)
    divergence = jnp.sum(jnp.exp(log_probs) * (log_probs - exact_log_probs), axis=-1)
    error = masked_mean(jnp.abs(stored_values - exact_values), depends)
    spread = jnp.sqrt(masked_mean(exact_values**2, depends))
    return algorithm.step(state)[0], (masked_mean(divergence, depends), error, spread)


def measure(changes: dict) -> dict:
    """Returns the line of the table for a mode, with a transformer that sees 32 steps."""
    environment = gaejax.make("MemoryChain-bsuite", memory_length=30)
    algorithm = gaejax.ppo(environment, make_policy(environment, memory="transformer", shared=True, context=32))
    config = gaejax.PPOConfig(**{**ROWS, **changes})
    updates = num_updates(config, TOTAL_STEPS)
    between = max(updates // NUM_PROBES - 3, 0)
    probe = partial(staleness, gaejax.auto_reset(environment), algorithm)

    def run(key: jax.Array) -> tuple:
        def stretch(state: Any, _: Any) -> tuple:
            state, info = jax.lax.scan(lambda state, _: algorithm.step(state), state, length=between)
            state, found = probe(state)
            return state, (*found, info.approx_kl.mean())

        state, found = jax.lax.scan(stretch, algorithm.init(key, config), length=NUM_PROBES)
        return gaejax.evaluate(algorithm, state, key, 256).returns.mean(), found

    returns, found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(SEED), NUM_SEEDS))
    divergence, error, spread, update_divergence = (float(np.mean(part)) for part in found)
    return {
        "return": round(float(returns.mean()), 3),
        "per_seed": " ".join(f"{value:.3f}" for value in returns),
        "KL_of_stored_memory": f"{divergence:.2e}",
        "KL_of_an_update": f"{update_divergence:.2e}",
        "value_error": f"{error:.2e}",
        "value_spread": f"{spread:.2e}",
    }


def main(argv: list[str]) -> None:
    arguments = results_parser(__doc__).parse_args(argv)
    rows = []
    for name, changes in MODES.items():
        rows.append({"mode": name, **measure(changes)})
        print("  ".join(f"{name}: {value}" for name, value in rows[-1].items()), flush=True)
    write_results(arguments.output / "stale_memory.csv", rows)


if __name__ == "__main__":
    run_script(main)
