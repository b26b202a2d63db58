"""Training: the loop as a pure function, evaluation, and the driver with its observers, logs and checkpoints."""

from gaejax.training.checkpoints import load_checkpoint, save_checkpoint
from gaejax.training.driver import evaluate_seeds, load_states, run_experiment
from gaejax.training.evaluation import Evaluation, evaluate
from gaejax.training.export import export
from gaejax.training.metrics import read_metrics
from gaejax.training.observers import Checkpoint, Observer, Profiler, Progress, Row, Start, TensorBoard
from gaejax.training.plan import Collective, Plan, plan
from gaejax.training.plots import plot_heat_map, plot_learning_curve, plot_lineage, plot_sweep
from gaejax.training.population import (
    Lineage,
    ancestors,
    exploit,
    initial_population,
    mean_return,
    train_population,
)
from gaejax.training.presets import PRESETS, preset
from gaejax.training.run import Experiment, Run
from gaejax.training.sweep import GroupPlan, Sweep, SweepPlan, plan_sweep, sweep
from gaejax.training.train import num_updates, train

__all__ = [
    "PRESETS",
    "Checkpoint",
    "Collective",
    "Evaluation",
    "Experiment",
    "GroupPlan",
    "Lineage",
    "Observer",
    "Plan",
    "Profiler",
    "Progress",
    "Row",
    "Run",
    "Start",
    "Sweep",
    "SweepPlan",
    "TensorBoard",
    "ancestors",
    "evaluate",
    "evaluate_seeds",
    "exploit",
    "export",
    "initial_population",
    "load_checkpoint",
    "load_states",
    "mean_return",
    "num_updates",
    "plan",
    "plan_sweep",
    "plot_heat_map",
    "plot_learning_curve",
    "plot_lineage",
    "plot_sweep",
    "preset",
    "read_metrics",
    "run_experiment",
    "save_checkpoint",
    "sweep",
    "train",
    "train_population",
]
