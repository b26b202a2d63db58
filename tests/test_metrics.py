"""What is logged, reported, drawn and tabulated."""

import csv

import numpy as np
import pytest

from gaejax.training import plot_learning_curve
from gaejax.training.metrics import EPISODE_MEANS, Aggregate, explain_report
from gaejax.training.plots import DPI
from gaejax.training.results import COLUMNS, read_results, write_results

INFOS = {
    "env_steps": np.array([[4, 4], [4, 4]]),
    "episodes": np.array([[1, 0], [3, 0]]),
    "episode_return": np.array([[8.0, np.nan], [4.0, np.nan]]),
    "success": np.array([[1.0, np.nan], [0.0, np.nan]]),
    "episode_cost": np.array([[1.0, 2.0], [3.0, 4.0]]),
}


def test_returns_and_the_environments_metrics_are_means_over_episodes_and_the_rest_over_updates():
    aggregate = Aggregate((*EPISODE_MEANS, "success"))
    aggregate.add({name: values[:1] for name, values in INFOS.items()})
    aggregate.add({name: values[1:] for name, values in INFOS.items()})
    row = aggregate.take()
    np.testing.assert_array_equal(row["episode_return"], [5.0, np.nan])  # (8 + 3 * 4) / 4; none ended: not 0
    np.testing.assert_array_equal(row["success"], [0.25, np.nan])
    np.testing.assert_array_equal(row["episode_cost"], [2.0, 3.0])  # only its name looks like one of an episode
    np.testing.assert_array_equal(row["episodes"], [4, 0])
    assert "env_steps" not in row and aggregate.take() == {}


def test_a_return_that_is_no_number_is_shown_as_none():
    aggregate = Aggregate(EPISODE_MEANS)
    aggregate.add({**INFOS, "episode_return": np.array([[np.nan, 1.0], [4.0, 1.0]])})
    assert np.isnan(aggregate.take()["episode_return"]).all()


def test_a_critic_is_not_judged_by_targets_that_do_not_vary():
    row = {"update": 1, "explained_variance": -4.4, "limit_bias": 2.0, "clip_fraction": 0.5}
    verdicts = lambda row: {entry["name"]: entry["verdict"] for entry in explain_report([row])}  # noqa: E731
    varied, constant = verdicts({**row, "target_spread": 0.5}), verdicts({**row, "target_spread": 0.001})
    assert varied["explained_variance"].startswith("the critic does not predict returns")
    for name in ("explained_variance", "limit_bias"):
        assert constant[name].startswith("not judged: the value targets are nearly constant")
    assert constant["clip_fraction"] == varied["clip_fraction"] != "healthy"
    assert verdicts({**row, "explained_variance": 0.9, "target_spread": 0.001})["explained_variance"] == "healthy"


@pytest.mark.parametrize("seeds, updates", [(3, 5), (1, 5), (2, 1)])
def test_curves_are_drawn_in_print_quality(seeds, updates, tmp_path):
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "update", "env_steps", "episode_return", "success"])
        for update in range(updates):
            for seed in range(seeds):
                writer.writerow([seed, update, 100 * update, "nan" if update == seed else update, 0.5])
    plot_learning_curve(tmp_path / "metrics.csv", tmp_path / "c.png", "PPO on x", ("episode_return", "success"))
    header = (tmp_path / "c.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG") and int.from_bytes(header[16:20], "big") == 7 * DPI >= 1050
    plot_learning_curve(tmp_path / "metrics.csv", tmp_path / "c.svg", "PPO on x")
    assert "<svg" in (tmp_path / "c.svg").read_text()


def test_a_table_says_where_each_line_was_measured(tmp_path):
    path = tmp_path / "new" / "table.csv"
    write_results(path, [{"case": "a", "value": 1}, {"case": "b", "value": 2, "commit": "1234567", "date": "then"}])
    first, second = read_results(path)
    assert all(first[name] for name in COLUMNS) and "jax " in first["versions"] and "cores" in first["machine"]
    assert (second["commit"], second["date"], second["machine"]) == ("1234567", "then", first["machine"])
    assert list(first) == ["case", "value", *COLUMNS]
    write_results(path, [*read_results(path), {"case": "c", "value": 3}])  # lines that are kept say what they said
    assert read_results(path)[:2] == [first, second]
    assert read_results(tmp_path / "nothing.csv") == []
