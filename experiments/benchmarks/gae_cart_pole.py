"""The GAE paper's cart-pole (Schulman et al. 2016, section 6.1, figure 2 left): what lambda is worth to TRPO.

    uv run experiments/benchmarks/gae_cart_pole.py

A linear Gaussian policy of six parameters pushes with a real force; 20 trajectories of at most 1000 steps an iteration;
a critic of 20 hidden units with a trust region. All lambdas and seeds are one vmapped call. The paper leaves open the
two trust regions (here .01 both), and its physics has friction where gymnax's has none.
"""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gaejax
from gaejax.policies import actor_critic, mlp
from gaejax.transforms import first_episodes

RESULTS = Path(__file__).parent / "results"
LAMBDAS = (0.0, 0.36, 0.68, 0.84, 0.92, 0.96, 0.98, 0.99, 1.0)
LIMIT, TRAJECTORIES = 1000, 20


def continuous_cart_pole() -> gaejax.Environment:
    """CartPole-v1 pushed by a force between -10 and 10 newtons, up to 1000 steps."""
    discrete = gaejax.make("CartPole-v1", max_steps_in_episode=LIMIT)

    def step(key: jax.Array, state: tuple, action: jax.Array, params: object) -> tuple:
        return discrete.step(key, state, (action[0] + 1) / 2, params)  # its force is linear in the action

    return discrete.replace(step=step, action_space=gaejax.Box(-1.0, 1.0, (1,)))


def episode_lengths(lambdas: tuple, num_seeds: int, iterations: int, seed: int = 2016) -> np.ndarray:
    """Mean lengths of the 20 trajectories of each iteration, `[lambdas, seeds, iterations]`."""
    environment = continuous_cart_pole()
    policy = actor_critic(environment, mlp(()), mlp((20,)))
    algorithm = gaejax.trpo(environment, policy, transforms=[first_episodes()])
    config = gaejax.TRPOConfig(num_envs=TRAJECTORIES, num_steps=LIMIT, fresh_rows=True, max_value_change=0.01)

    def run(gae_lambda: jax.Array, key: jax.Array) -> jax.Array:
        changed = config.replace(gae_lambda=gae_lambda)
        _, info = gaejax.train(algorithm, key, changed, iterations * TRAJECTORIES * LIMIT)
        return info.env_steps / TRAJECTORIES

    keys = jax.random.split(jax.random.key(seed), num_seeds)
    runs = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
    return np.asarray(runs(jnp.array(lambdas), keys))


def main() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lengths = episode_lengths(LAMBDAS, num_seeds=7, iterations=21)
    with (RESULTS / "gae_cart_pole.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["gae_lambda", "iteration", "mean_length", "standard_error"])
        for gae_lambda, seeds in zip(LAMBDAS, lengths, strict=True):
            errors = seeds.std(axis=0, ddof=1) / np.sqrt(len(seeds))
            rows = zip(seeds.mean(axis=0).round(1), errors.round(1), strict=True)
            writer.writerows((gae_lambda, iteration, *row) for iteration, row in enumerate(rows))
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for index, (gae_lambda, seeds) in enumerate(zip(LAMBDAS, lengths, strict=True)):
        axes.plot(seeds.mean(axis=0), color=f"C{index}", label=f"{gae_lambda:g}")
    axes.set(
        xlabel="policy iteration", ylabel="mean length of 20 trajectories", title="GAE on cart-pole, mean of 7 seeds"
    )
    axes.legend(title="lambda", ncols=2)
    axes.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(RESULTS / "gae_cart_pole.png")
    for gae_lambda, seeds in zip(LAMBDAS, lengths[..., 20], strict=True):
        print(f"lambda {gae_lambda:4.2f}: {seeds.mean():6.1f} ± {seeds.std(ddof=1) / np.sqrt(len(seeds)):.1f}")


if __name__ == "__main__":
    main()
