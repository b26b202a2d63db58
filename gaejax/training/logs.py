"""The log of a run, `metrics.csv`, and the picture drawn from it."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gaejax.algorithms import HEALTHY, TrainingInfo


class Log:
    """`metrics.csv`: a row for each seed and each stretch of `updates_per_row` updates, in which counts are summed,
    episode means weighted by episodes, and all else averaged."""

    def __init__(self, path: Path, num_seeds: int, done: int):
        self.path, self.updates, self.pending = path, done, []
        self.env_steps, self.new_env_steps, self.episode_return = np.zeros(num_seeds, np.int64), 0, float("nan")
        header, *rows = path.read_text().splitlines(keepends=True) if done else [""]
        rows = [row for row in rows if int(row.split(",")[1]) <= done]  # what a crash wrote behind the checkpoint goes
        if rows:
            last_update = rows[-1].split(",")[1]
            self.env_steps = np.array([int(row.split(",")[2]) for row in rows if row.split(",")[1] == last_update])
        path.write_text("".join([header, *rows]))
        self.has_header = bool(header)

    def add(self, infos: dict[str, np.ndarray]) -> None:
        """Takes in the infos `[updates, seeds]` of one call."""
        self.pending.append(infos)
        self.updates += len(infos["env_steps"])
        self.env_steps = self.env_steps + infos["env_steps"].sum(axis=0)
        self.new_env_steps += int(infos["env_steps"].sum())
        episodes = infos["episodes"].sum()
        if episodes:
            self.episode_return = float(np.nansum(infos["episode_return"] * infos["episodes"]) / episodes)

    def write_row(self) -> None:
        """Writes what has been taken in since the last row, if anything."""
        if not self.pending:
            return
        infos = {name: np.concatenate([part[name] for part in self.pending]) for name in self.pending[0]}
        self.pending = []
        episodes = infos["episodes"].sum(axis=0)
        columns = {}
        for name, values in infos.items():
            if name == "episodes":
                columns[name] = episodes
            elif name.startswith("episode_"):
                sums = np.nansum(values * infos["episodes"], axis=0)
                columns[name] = np.divide(sums, episodes, where=episodes > 0, out=np.full(len(sums), np.nan))
            elif name != "env_steps":
                columns[name] = values.mean(axis=0)
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if not self.has_header:
                writer.writerow(["seed", "update", "env_steps", *columns])
                self.has_header = True
            for seed, env_steps in enumerate(self.env_steps):
                writer.writerow([seed, self.updates, env_steps, *(values[seed] for values in columns.values())])


def flat(info: TrainingInfo) -> dict[str, np.ndarray]:
    """The entries of an info by name, the extras among them; what the algorithm has not is left out."""
    entries = info._asdict()
    extra = entries.pop("extra")
    return {name: value for name, value in (entries | extra).items() if value is not None}


def explain_report(rows: list[dict[str, float]]) -> list[dict]:
    """What a run's diagnostics came to in the last fifth of its metrics, healthy ranges, and verdicts."""
    last = max(row["update"] for row in rows)
    late = [row for row in rows if row["update"] > 0.8 * last]
    report = []
    for name, healthy in HEALTHY.items():
        values = np.array([row[name] for row in late if name in row])
        if values.size == 0 or np.isnan(values).all():
            continue
        value = float(np.nanmean(values))
        verdict = healthy.below if value < healthy.least else healthy.above if value > healthy.most else "healthy"
        report.append({"name": name, "value": value, "healthy": [healthy.least, healthy.most], "verdict": verdict})
    return report


def read_metrics(path: Path | str) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`."""
    with Path(path).open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def plot_learning_curve(metrics: Path, picture: Path, title: str, columns: Sequence[str] = ("episode_return",)) -> None:
    """Draws columns of a run, by default the training return, against environment steps, one below the other: the mean
    over seeds, their spread, and each seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(metrics)
    seeds = sorted({row["seed"] for row in rows})
    figure = Figure(figsize=(7, 1.4 + 2.8 * len(columns)), layout="constrained")
    panels = figure.subplots(len(columns), sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, columns, strict=True):
        if rows:
            steps, values = (
                np.array([[row[column] for row in rows if row["seed"] == seed] for seed in seeds])
                for column in ("env_steps", name)
            )
            known = ~np.isnan(values).all(axis=0)  # an interval in which no seed ended an episode has no return
            steps, values = steps[:, known].mean(axis=0), values[:, known]
            mean, spread = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
            axes.plot(steps, values.T, color="tab:blue", alpha=0.25, linewidth=0.8)
            axes.plot(steps, mean, color="tab:blue", linewidth=2, label=f"mean of {len(seeds)} seeds")
            if len(seeds) > 1:  # one alone has no spread
                axes.fill_between(steps, mean - spread, mean + spread, color="tab:blue", alpha=0.2, label="± 1 std")
                axes.legend()
        axes.set(ylabel=f"{name.replace('_', ' ')} (training)")
        axes.grid(alpha=0.3)
    panels[0].set(title=title)
    panels[-1].set(xlabel="environment steps per seed")
    FigureCanvasAgg(figure).print_png(picture)
