"""Pictures: one look for all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaejax._arguments import did_you_mean
from gaejax.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gaejax.training.population import Lineage
    from gaejax.training.sweep import Sweep

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


def plot_sweep(
    sweep: "Sweep", picture: Path | str, metric: str = "evaluated_return", axes: Sequence[str] | None = None
) -> None:
    """Draws a metric of a sweep over one or two of its hyperparameters.

    One: the mean over seeds with a band of one standard deviation, and each seed as a point. Two: a heat-map of means
    over seeds, the first hyperparameter downward; the best is framed. What is not finished is left white.

    Args:
      sweep: What `gaejax.sweep` returned.
      picture: Where to draw; the suffix is the format.
      metric: A name in `sweep.values`; of a learning curve the last row is drawn.
      axes: The hyperparameters. Default: the first two, or the only one. Of the others, the value of the best point.

    Raises:
      ValueError: for a metric or hyperparameters that the sweep does not have.
    """
    axes = list(sweep.axes)[:2] if axes is None else list(axes)
    if metric not in sweep.values:
        raise ValueError(f"metric: the sweep has no {metric!r}{did_you_mean(metric, sweep.values)}")
    if not 1 <= len(axes) <= 2 or len(set(axes)) < len(axes) or not set(axes) <= set(sweep.axes):
        raise ValueError(f"axes must be one or two of {', '.join(sweep.axes)}, got {', '.join(map(str, axes))}")
    values, title = _plane(sweep, metric, axes)
    label = metric.replace("_", " ")
    if len(axes) == 1:
        _plot_band(axes[0], sweep.axes[axes[0]], values, picture, title, label)
    else:
        grid = {name: sweep.axes[name] for name in axes}
        plot_heat_map(_mean_of_known(values), grid, picture, title, f"{label}, mean over seeds")


def _plane(sweep: "Sweep", metric: str, axes: Sequence[str]) -> tuple[np.ndarray, str]:
    """A metric `[*axes, seed]`, at the best point's values of the other hyperparameters, and a title that says so."""
    values = sweep.values[metric]
    values = values[..., -1] if values.ndim > sweep.finished.ndim else values
    values = np.where(sweep.finished, values, np.nan).astype(np.float64)
    means = _mean_of_known(values)
    known = np.where(np.isnan(means), -np.inf, means)
    best = np.unravel_index(int(known.argmax()), known.shape)
    names, title = list(sweep.axes), [sweep.title]
    for position in reversed(range(len(names))):
        if names[position] not in axes:
            values = np.take(values, best[position], axis=position)
            title.insert(1, f"{names[position]} = {_short(sweep.axes[names[position]][best[position]])}")
    kept = [name for name in names if name in axes]
    order = [kept.index(name) for name in axes]
    return values.transpose(*order, -1), ", ".join(title)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is not NaN; NaN if nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return np.where(count, np.where(known, values, 0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def plot_heat_map(
    values: np.ndarray, axes: Mapping[str, Sequence[Any]], picture: Path | str, title: str, label: str
) -> None:
    """Draws a table of numbers as colors, with the numbers in them. The largest is framed; NaN is left white.

    Args:
      values: `[A, B]`.
      axes: The A names of the lines and the B names of the columns, by what they are of.
      picture: Where to draw; the suffix is the format.
      title: Of the picture.
      label: What the numbers are.
    """
    from matplotlib.patches import Rectangle

    (down, lines), (right, columns) = axes.items()
    width, height = 2.6 + 0.75 * len(columns), 1.5 + 0.45 * len(lines)
    figure, panels = new_figure(width=max(width, 5.5), height=max(height, 3.0))
    panel = panels[0, 0]
    panel.grid(False)
    image = panel.imshow(values, cmap="viridis", aspect="auto")
    known = np.where(np.isnan(values), -np.inf, values)
    if np.isfinite(known).any():
        line, column = np.unravel_index(int(known.argmax()), known.shape)
        panel.add_patch(Rectangle((column - 0.5, line - 0.5), 1, 1, fill=False, edgecolor="tab:red", linewidth=2.5))
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(known).any() else (0.0, 1.0)
    for (line, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            bright = value > low + 0.6 * (high - low)
            color = "black" if bright else "white"
            panel.text(column, line, f"{value:.3g}", ha="center", va="center", fontsize=8, color=color)
    panel.set_xticks(range(len(columns)), [_short(value) for value in columns])
    panel.set_yticks(range(len(lines)), [_short(value) for value in lines])
    panel.set(title=title, xlabel=right, ylabel=down)
    figure.colorbar(image, label=label)
    save_figure(figure, picture)


def _plot_band(
    name: str, places: Sequence[Any], values: np.ndarray, picture: Path | str, title: str, label: str
) -> None:
    """Draws `[A, seed]` over a hyperparameter: on a line of numbers if its values are some, otherwise side by side."""
    figure, panels = new_figure()
    panel = panels[0, 0]
    numbers = all(isinstance(place, int | float) and not isinstance(place, bool) for place in places)
    order = np.argsort(places) if numbers else np.arange(len(places))
    x, values = (np.array(places, float)[order], values[order]) if numbers else (np.arange(len(places)), values)
    known = ~np.isnan(values).any(axis=1)
    mean, spread = values[known].mean(axis=1), values[known].std(axis=1)
    panel.plot(np.repeat(x, values.shape[1]), values.ravel(), ".", color=COLOR, alpha=0.35, markersize=5)
    panel.plot(x[known], mean, color=COLOR, linewidth=2, marker="o", label=f"mean of {values.shape[1]} seeds")
    panel.fill_between(x[known], mean - spread, mean + spread, color=COLOR, alpha=0.15, linewidth=0, label="± 1 std")
    if numbers and x.min() > 0 and x.max() / x.min() >= 30:
        panel.set_xscale("log")
    if not numbers:
        panel.set_xticks(x, [_short(place) for place in places])
    panel.set(title=title, xlabel=name, ylabel=label)
    panel.legend(frameon=False)
    save_figure(figure, picture)


def plot_lineage(lineage: "Lineage", picture: Path | str, title: str) -> None:
    """Draws who descends from whom in a population, and how its hyperparameters moved.

    Above, a line leads from each agent to whoever has its state in the next generation. The descendants of each founder
    whose line is alive at the end have a color; lines that end are grey. Below, one panel for each hyperparameter, in
    the same colors.

    Args:
      lineage: Of one population, `[G, N]`, as `gaejax.training.train_population` returned it.
      picture: Where to draw; the suffix is the format.
      title: Should name the environment and the algorithm.
    """
    from matplotlib.lines import Line2D

    source = np.asarray(lineage.source)
    generations, num_agents = source.shape
    founders, alive = np.empty((generations, num_agents), int), np.ones((generations, num_agents), bool)
    founders[0] = np.arange(num_agents)
    for g in range(1, generations):
        founders[g] = founders[g - 1][source[g - 1]]
    for g in reversed(range(generations - 1)):
        alive[g] = np.isin(np.arange(num_agents), source[g][alive[g + 1]])
    final, counts = np.unique(founders[-1], return_counts=True)
    final = final[np.argsort(-counts, kind="stable")]
    colors = dict(zip(final.tolist(), ordered_colors(len(final)), strict=True))
    names = list(lineage.hyperparameters)
    figure, panels = new_figure(1 + len(names), height=3.6 + 1.9 * len(names))
    values = [np.asarray(lineage.hyperparameters[name]) for name in names]
    for g in range(generations - 1):
        for agent, origin in enumerate(source[g].tolist()):
            lives = alive[g + 1, agent]
            own = {"color": colors[founders[g + 1, agent]] if lives else "0.8", "linewidth": 1.8 if lives else 0.7}
            own["zorder"] = 2 if lives else 1
            panels[0, 0].plot([g + 1, g + 2], [origin, agent], **own)
            for axes, value in zip(panels[1:, 0], values, strict=True):
                axes.plot([g + 1, g + 2], [value[g, origin], value[g + 1, agent]], **own)
    for axes, name, value in zip(panels[1:, 0], names, values, strict=True):
        axes.set(ylabel=name.replace("_", " "))
        if value.min() > 0 and value.max() / value.min() >= 30:
            axes.set_yscale("log")
    panels[0, 0].set(title=title, ylabel="agent")
    panels[-1, 0].set(xlabel="generation")
    for axis in (panels[0, 0].yaxis, panels[-1, 0].xaxis):
        axis.get_major_locator().set_params(integer=True)
    shown = [Line2D([], [], color=colors[founder], linewidth=1.8) for founder in final[:8].tolist()]
    labels = [f"{count} of agent {founder}" for founder, count in zip(final[:8], -np.sort(-counts)[:8], strict=True)]
    legend = {"title": "final population", "loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}
    panels[0, 0].legend(shown, labels, **legend)
    save_figure(figure, picture)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
