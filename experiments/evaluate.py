"""Play whole episodes with the policies of a run.

example:
  uv run experiments/evaluate.py runs/CartPole-v1-... --episodes 256 --greedy
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from gaejax._arguments import check_seed
from gaejax.training import evaluate_seeds, load_states
from gaejax.training.scripts import run_script
from gaejax.training.sizes import check_episodes


@dataclasses.dataclass
class Arguments:
    """Plays whole episodes with the policies of a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    episodes: int = 64
    """Episodes of each seed."""
    checkpoint: Literal["latest", "best"] = "latest"
    """The newest checkpoint, or the best of those saved, by the training return."""
    greedy: bool = False
    """Take the most probable action instead of a sample."""
    seed: int = 0
    """The integer that the keys of the episodes are made from."""


def main(argv: list[str]) -> None:
    arguments = tyro.cli(Arguments, args=argv, description=__doc__)
    if arguments.episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {arguments.episodes}")
    check_seed("seed", arguments.seed)
    experiment, algorithm, states = load_states(arguments.run, which=arguments.checkpoint)
    check_episodes(experiment, algorithm, "episodes", arguments.episodes)
    evaluation, _ = evaluate_seeds(
        experiment, algorithm, states, num_episodes=arguments.episodes, seed=arguments.seed, greedy=arguments.greedy
    )
    returns, lengths = np.asarray(evaluation.returns), np.asarray(evaluation.lengths)
    for seed, (seed_returns, seed_lengths) in enumerate(zip(returns, lengths, strict=True)):
        print(
            f"seed {seed}: return {seed_returns.mean():.4g} ± {seed_returns.std():.2g} "
            f"(min {seed_returns.min():.4g}, max {seed_returns.max():.4g}), length {seed_lengths.mean():.1f}"
        )
    metrics = {name: float(np.mean(values)) for name, values in evaluation.metrics.items()}
    result = {"episode_return": float(returns.mean()), "std_over_seeds": float(returns.mean(axis=1).std())}
    print(json.dumps(result | ({"metrics": metrics} if metrics else {})))


if __name__ == "__main__":
    run_script(main)
