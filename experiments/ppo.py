"""PPO: `experiments/train.py` with its default algorithm.

uv run experiments/ppo.py                                    # CartPole-v1, five seeds, solved in seconds
"""

import sys

from train import main

from gaejax.training.scripts import run_script

if __name__ == "__main__":
    run_script(main, ["--algorithm", "ppo", *sys.argv[1:]])
