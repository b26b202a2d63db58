"""Pictures: one look for all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaejax.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
COLOR = "tab:blue"


def new_figure(rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 4.2) -> "tuple[Figure, Any]":
    """Returns a figure and its axes `[rows, columns]`, as all pictures have them: a grid, no frame on top and right.

    Args:
      rows, columns: Number of axes; those of one column share their x axis.
      width, height: Of the whole figure, in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, sharex="col", squeeze=False)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def save_figure(figure: "Figure", path: Path | str) -> None:
    """Writes a figure; the suffix of `path` says how: `.png`, or a vector format such as `.svg` or `.pdf`."""
    figure.savefig(path, dpi=DPI)


def ordered_colors(count: int) -> np.ndarray:
    """Returns colors `[count, 4]` for values that have an order, dark to bright."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.93, count))


def plot_learning_curve(
    metrics: Path | str, picture: Path | str, title: str, columns: Sequence[str] = ("episode_return",)
) -> None:
    """Draws columns of a `metrics.csv` against environment steps, one below the other.

    Each seed is a thin line. Their mean is a thick one with a band of one standard deviation, drawn where every seed
    has a value.

    Args:
      metrics: The file.
      picture: Where to draw; the suffix is the format.
      title: Should name the environment and the algorithm.
      columns: The columns to draw.
    """
    rows = read_metrics(metrics)
    figure, panels = new_figure(len(columns), height=1.4 + 2.8 * len(columns))
    for axes, name in zip(panels[:, 0], columns, strict=True):
        if rows and name in rows[0]:
            _plot_seeds(axes, rows, name)
        axes.set(ylabel=f"{name.replace('_', ' ')} (training)")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    panels[0, 0].set(title=title)
    panels[-1, 0].set(xlabel="environment steps per seed")
    save_figure(figure, picture)


def _plot_seeds(axes: "Axes", rows: list[dict[str, float]], name: str) -> None:
    """Draws one column: each seed, and their mean and spread if there are several."""
    seeds = sorted({row["seed"] for row in rows})
    by_seed = [[row for row in rows if row["seed"] == seed] for seed in seeds]
    steps, values = (np.array([[row[column] for row in own] for own in by_seed]) for column in ("env_steps", name))
    alone = len(seeds) == 1
    known = np.isfinite(values)  # while no episode ends there is no return
    for own_steps, own_values, own_known in zip(steps, values, known, strict=True):
        marker = "o" if own_known.sum() == 1 else ""
        width, alpha = (2.0, 1.0) if alone else (0.8, 0.3)
        line = own_steps[own_known], own_values[own_known]
        axes.plot(*line, color=COLOR, alpha=alpha, linewidth=width, marker=marker, markersize=4)
    everywhere = known.all(axis=0)
    if alone or not everywhere.any():
        return
    steps, values = steps[:, everywhere].mean(axis=0), values[:, everywhere]
    mean, spread = values.mean(axis=0), values.std(axis=0)
    marker = "o" if len(steps) == 1 else ""
    axes.plot(steps, mean, color=COLOR, linewidth=2, marker=marker, label=f"mean of {len(seeds)} seeds")
    axes.fill_between(steps, mean - spread, mean + spread, color=COLOR, alpha=0.15, linewidth=0, label="± 1 std")
    axes.legend(frameon=False)
