"""PPO: `experiments/train.py` with its default algorithm.

uv run experiments/ppo.py                                    # CartPole-v1, five seeds, solved in seconds
"""

import sys

from train import run

if __name__ == "__main__":
    run(["--algorithm", "ppo", *sys.argv[1:]])
