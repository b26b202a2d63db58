"""Training: the loop as a pure function, evaluation, and the driver that runs it with progress, logs, checkpoints."""

from gaejax.training.acting import export
from gaejax.training.checkpoints import load_checkpoint, save_checkpoint
from gaejax.training.evaluation import Evaluation, evaluate
from gaejax.training.experiment import Experiment, evaluate_seeds, load_states, run_experiment
from gaejax.training.logs import read_metrics
from gaejax.training.presets import PRESETS, preset
from gaejax.training.train import num_updates, train

__all__ = [
    "PRESETS",
    "Evaluation",
    "Experiment",
    "evaluate",
    "evaluate_seeds",
    "export",
    "load_checkpoint",
    "load_states",
    "num_updates",
    "preset",
    "read_metrics",
    "run_experiment",
    "save_checkpoint",
    "train",
]
