"""The GAE paper's cart-pole (Schulman et al. 2016, section 6.1, figure 2 left): the effect of lambda on TRPO.

    uv run experiments/benchmarks/gae_cart_pole.py

A linear Gaussian policy with six parameters pushes with a real force. Each iteration has 20 trajectories of at most
1000 steps; the critic has 20 hidden units and a trust region of its own. All lambdas and seeds are one vmapped call.
The paper does not give the sizes of the two trust regions (0.01 here), and its physics has friction, unlike gymnax's.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gaejax
from gaejax.policies import actor_critic, mlp
from gaejax.training.plots import new_figure, ordered_colors, save_figure
from gaejax.training.results import read_results, results_parser, write_results
from gaejax.training.scripts import run_script
from gaejax.transforms import first_episodes

LAMBDAS = (0.0, 0.36, 0.68, 0.84, 0.92, 0.96, 0.98, 0.99, 1.0)
LIMIT, TRAJECTORIES = 1000, 20


def continuous_cart_pole() -> gaejax.Environment:
    """Returns CartPole-v1 pushed by a force between -10 and 10 newtons, up to 1000 steps."""
    discrete = gaejax.make("CartPole-v1", max_steps_in_episode=LIMIT)

    def step(key: jax.Array, state: tuple, action: jax.Array, params: object) -> tuple:
        return discrete.step(key, state, (action[0] + 1) / 2, params)  # its force is linear in the action

    return discrete.replace(step=step, action_space=gaejax.Box(-1.0, 1.0, (1,)))


def episode_lengths(lambdas: tuple, num_seeds: int, iterations: int, seed: int = 2016) -> np.ndarray:
    """Returns the mean lengths of the 20 trajectories of each iteration, `[lambdas, seeds, iterations]`."""
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


def table(lengths: np.ndarray) -> list[dict]:
    """Returns means and standard errors over seeds, a line for each lambda and iteration."""
    errors = lengths.std(axis=1, ddof=1) / np.sqrt(lengths.shape[1])
    return [
        {"gae_lambda": gae_lambda, "iteration": iteration, "mean_length": mean, "standard_error": error}
        for gae_lambda, means, own in zip(LAMBDAS, lengths.mean(axis=1).round(1), errors.round(1), strict=True)
        for iteration, (mean, error) in enumerate(zip(means, own, strict=True))
    ]


def draw(rows: list[dict], picture: Path) -> None:
    """Draws the mean length of each lambda against iterations."""
    figure, panels = new_figure()
    axes = panels[0, 0]
    for gae_lambda, color in zip(LAMBDAS, ordered_colors(len(LAMBDAS)), strict=True):
        own = [row for row in rows if float(row["gae_lambda"]) == gae_lambda]
        iterations, means = ([float(row[name]) for row in own] for name in ("iteration", "mean_length"))
        axes.plot(iterations, means, color=color, label=f"{gae_lambda:g}")
    axes.set(xlabel="policy iteration", ylabel="mean length of 20 trajectories", xticks=range(0, 21, 5))
    axes.set_title("TRPO with GAE on cart-pole, mean of 7 seeds")
    axes.legend(title="lambda", ncols=2, frameon=False)
    save_figure(figure, picture)


def main(argv: list[str]) -> None:
    parser = results_parser(__doc__)
    parser.add_argument("--draw", action="store_true", help="only draw the picture of the table that is there")
    arguments = parser.parse_args(argv)
    path = arguments.output / "gae_cart_pole.csv"
    if not arguments.draw:
        write_results(path, table(episode_lengths(LAMBDAS, num_seeds=7, iterations=21)))
    rows = read_results(path)
    draw(rows, arguments.output / "gae_cart_pole.png")
    for row in rows:
        if row["iteration"] == "20":
            mean, error = float(row["mean_length"]), float(row["standard_error"])
            print(f"lambda {float(row['gae_lambda']):4.2f}: {mean:6.1f} ± {error:.1f}")


if __name__ == "__main__":
    run_script(main)
