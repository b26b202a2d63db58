"""Training: the loop as a pure function, evaluation, and the driver with its observers, logs and checkpoints."""

from gaejax.training.checkpoints import load_checkpoint, save_checkpoint
from gaejax.training.driver import evaluate_seeds, load_states, run_experiment
from gaejax.training.evaluation import Evaluation, evaluate
from gaejax.training.export import export
from gaejax.training.metrics import read_metrics
from gaejax.training.observers import Checkpoint, Observer, Progress, Row, Start, TensorBoard
from gaejax.training.plan import Collective, Plan, plan
from gaejax.training.plots import plot_learning_curve
from gaejax.training.presets import PRESETS, preset
from gaejax.training.run import Experiment, Run
from gaejax.training.train import num_updates, train

__all__ = [
    "PRESETS",
    "Checkpoint",
    "Collective",
    "Evaluation",
    "Experiment",
    "Observer",
    "Plan",
    "Progress",
    "Row",
    "Run",
    "Start",
    "TensorBoard",
    "evaluate",
    "evaluate_seeds",
    "export",
    "load_checkpoint",
    "load_states",
    "num_updates",
    "plan",
    "plot_learning_curve",
    "preset",
    "read_metrics",
    "run_experiment",
    "save_checkpoint",
    "train",
]
