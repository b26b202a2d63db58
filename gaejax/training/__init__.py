"""Training: the loop as a pure function, evaluation, and the driver that runs it with progress, logs, checkpoints."""

from gaejax.training.evaluation import Evaluation, evaluate
from gaejax.training.train import num_updates, train

__all__ = ["Evaluation", "evaluate", "num_updates", "train"]
