"""How far the lambdas of actor and critic carry a reward back: coupled, decoupled, with value pretraining.

    uv run experiments/credit_horizon.py        # seven minutes on two cores

The first of T tokens is a choice among 8, the others are filler. The reward comes at the end: 1 for the right choice,
plus standard normal noise. The critic is a table over (position, choice), the policy a table over positions. The result
is the number of updates until the right choice has probability 0.9. For each T all lambdas and seeds are one vmapped
training step.
(After VC-PPO, Yuan et al. 2025, arXiv:2503.01491.)
"""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gaejax
from gaejax.distributions import Categorical
from gaejax.training.plots import new_figure, save_figure
from gaejax.training.results import read_results, results_parser, write_results
from gaejax.training.scripts import run_script

CHOICES, RIGHT, BATCH, GOAL = 8, 3, 64, 0.9
# lambda of the advantages, of the value targets, and updates for which only the critic learns
CONDITIONS = {
    "coupled (.95, .95)": (0.95, 0.95, 0),
    "decoupled (.95, 1)": (0.95, 1.0, 0),
    "coupled (1, 1)": (1.0, 1.0, 0),
    "(.95, .95), 30 updates of value pretraining with (.95, 1)": (0.95, 0.95, 30),
}


def environment(horizon: int) -> gaejax.Environment:
    """Returns the environment. Observations are (position, choice so far); only the first action is a choice."""

    def reset(key: jax.Array, params: Any) -> tuple:
        start = jnp.zeros(2, jnp.int32)
        return start, start

    def step(key: jax.Array, state: jax.Array, action: jax.Array, params: Any) -> tuple:
        position, choice = state
        choice = jnp.where(position == 0, action, choice)
        ends = position + 1 >= horizon
        reward = jnp.where(ends, (choice == RIGHT) + jax.random.normal(key), 0.0)
        following = jnp.stack([position + 1, choice])
        return following, following, reward, ends, jnp.zeros((), bool), {}

    observations = gaejax.MultiDiscrete((horizon + 1, CHOICES))
    return gaejax.Environment("credit horizon", reset, step, observations, gaejax.Discrete(CHOICES))


def tables(horizon: int) -> gaejax.Policy:
    """Returns a policy with logits for each position, and a value for each position and choice. All environments are at
    the same position, since all start with a rollout."""

    def init(key: jax.Array) -> dict:
        return {"logits": jnp.zeros((horizon + 1, CHOICES)), "values": jnp.zeros((horizon + 1, CHOICES))}

    def apply(params: dict, carry: jax.Array, observations: jax.Array, resets: jax.Array) -> tuple:
        positions, choices = observations[:, 0, 0], observations[..., 1]
        logits = jnp.broadcast_to(params["logits"][positions][:, None], (*resets.shape, CHOICES))
        chosen = jax.nn.one_hot(choices, CHOICES)
        return carry, Categorical(logits), jnp.sum(params["values"][positions][:, None] * chosen, axis=-1)

    # A carry, though nothing is remembered, so that the environments of a minibatch stay whole.
    return gaejax.Policy(init, lambda batch: jnp.zeros(batch), apply)


def two_lambdas(*, gae_lambda: jax.Array, **steps: Any) -> tuple:
    """Computes decoupled GAE for a config whose `gae_lambda` is two numbers, which can be swept like one."""
    actor, critic = jnp.broadcast_to(gae_lambda, (2,))  # of one number, as when the estimator is checked, both
    return gaejax.decoupled_gae(gae_lambda=actor, value_lambda=critic, **steps)


def updates_needed(horizon: int, num_seeds: int, most: int) -> np.ndarray:
    """Returns the updates until the goal, at most `most`, for each condition and seed `[C, S]`; pretraining is not
    counted."""
    algorithm = gaejax.ppo(
        environment(horizon),
        tables(horizon),
        objective="clip",
        estimator=two_lambdas,
        schedules={"learning_rate": "constant"},
    )
    config = gaejax.PPOConfig(
        num_envs=BATCH,
        num_steps=horizon,
        fresh_rows=True,
        discount=1.0,
        learning_rate=0.3,
        max_grad_norm=1e6,
        entropy_coefficient=0.0,
        num_epochs=1,
        num_minibatches=1,
    )
    conditions = jnp.array(list(CONDITIONS.values()))
    keys = jax.random.split(jax.random.key(0), num_seeds)

    def init(key: jax.Array, condition: jax.Array) -> Any:
        return algorithm.init(key, config.replace(gae_lambda=condition[:2]))

    states = jax.vmap(jax.vmap(init, (0, None)), (None, 0))(keys, conditions)
    pretraining = np.array([updates for _, _, updates in CONDITIONS.values()])

    @jax.jit
    @jax.vmap
    def step(states: Any, condition: jax.Array) -> tuple:
        learns = states.updates >= condition[2]
        value_lambda = jnp.where(learns, condition[1], 1.0)
        config = states.config.replace(
            policy_coefficient=learns.astype(jnp.float32),
            gae_lambda=jnp.stack([jnp.broadcast_to(condition[0], learns.shape), value_lambda], axis=-1),
        )
        states, _ = jax.vmap(algorithm.step)(states._replace(config=config))
        return states, jax.nn.softmax(states.params["logits"][:, 0])[:, RIGHT]

    needed = np.full((len(CONDITIONS), num_seeds), most)
    for update in range(1, most + pretraining.max() + 1):
        states, probabilities = step(states, conditions)
        counted = update - pretraining[:, None]
        reached = (np.asarray(probabilities) > GOAL) & (counted > 0)
        needed = np.where(reached, np.minimum(needed, counted), needed)
        if np.all(needed < most):
            break
    return needed


def draw(rows: list[dict], most: int, picture: Path) -> None:
    """Draws medians over seeds, and their middle half, against the horizon."""
    figure, panels = new_figure()
    axes = panels[0, 0]
    horizons = sorted({int(row["horizon"]) for row in rows})
    for condition in CONDITIONS:
        own = [row for row in rows if row["condition"] == condition]
        median, lower, upper = ([float(row[name]) for row in own] for name in ("median", "lower", "upper"))
        axes.plot(horizons, median, marker="o", label=condition)
        axes.fill_between(horizons, lower, upper, alpha=0.15)
    if any(float(row["median"]) >= most for row in rows):
        axes.axhline(most, color="gray", linestyle=":", label=f"given up after {most}")
    axes.set(xscale="log", yscale="log", xlabel="tokens of a response", ylabel="updates until P(right) > 0.9 (median)")
    axes.set_title("PPO, reward at the end for a choice at the start")
    axes.set_xticks(horizons, [str(horizon) for horizon in horizons])
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, picture)


def main(argv: list[str]) -> list[dict]:
    parser = results_parser(__doc__)
    parser.add_argument("--horizons", type=int, nargs="+", default=[16, 64, 256, 1024], help="lengths of a response")
    parser.add_argument("--num-seeds", type=int, default=8, help="independent trainings (default: %(default)s)")
    parser.add_argument("--most", type=int, default=300, help="updates after which a run is given up")
    parser.add_argument("--draw", action="store_true", help="only draw the picture of the table that is there")
    arguments = parser.parse_args(argv)
    path, picture = arguments.output / "credit_horizon.csv", arguments.output / "credit_horizon.png"
    rows = []
    for horizon in () if arguments.draw else arguments.horizons:
        started = time.perf_counter()
        needed = updates_needed(horizon, arguments.num_seeds, arguments.most)
        for condition, updates in zip(CONDITIONS, needed, strict=True):
            lower, median, upper = np.percentile(updates, [25, 50, 75])
            rows.append(dict(horizon=horizon, condition=condition, median=median, lower=lower, upper=upper))
            print(f"T = {horizon:5d}  {condition:60s} {median:6.1f} updates ({lower:g} to {upper:g})", flush=True)
        print(f"T = {horizon:5d}  {time.perf_counter() - started:.0f} s", flush=True)
        write_results(path, rows)
    draw(read_results(path), arguments.most, picture)
    return rows


if __name__ == "__main__":
    run_script(main)
