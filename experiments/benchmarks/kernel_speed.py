"""The speed of `gae` beside the loops that people use, and beside one elementwise operation on the same bytes.

    uv run --with rlax==0.1.9 experiments/benchmarks/kernel_speed.py            # table and picture
    uv run experiments/benchmarks/kernel_speed.py --write-choices               # chooses methods anew for this CPU

Everything runs in one process, 200 times for each shape, each time in a new random order, on arrays of the same random
numbers (1 % of the steps terminated, 1 % truncated). Numbers are medians in microseconds. gaejax is given the values of
the successors and both flags; the other loops know one flag.
"""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gaejax
from gaejax.recurrence import choose
from gaejax.training.plots import new_figure, save_figure
from gaejax.training.results import read_results, results_parser, write_results
from gaejax.training.scripts import run_script

CHOICES = Path(gaejax.__file__).parent / "recurrence" / "choices.json"
DISCOUNT, LAMBDA = 0.99, 0.95
TIME_MAJOR = [(128, 4), (128, 64), (128, 2048), (10, 8192), (2048, 16), (1000, 1024)]
ROW_MAJOR = [(8, 4096), (64, 1024), (4, 32768), (1, 1_000_000)]
SEEDS, SEED_SHAPES = 8, [(128, 64), (128, 2048), (2048, 16)]


def steps_of(shape: tuple) -> dict:
    """Returns random steps."""
    rng = np.random.default_rng(0)
    floats = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name in ("rewards", "values", "next_values")}
    return floats | {name: jnp.asarray(rng.random(shape) < 0.01) for name in ("terminated", "truncated")}


def ours(time_axis: int, method: str = "auto") -> Callable:
    return lambda steps: gaejax.gae(**steps, discount=DISCOUNT, gae_lambda=LAMBDA, time_axis=time_axis, method=method)


def elementwise(steps: dict) -> tuple:
    """Computes one fused operation that reads and writes the same bytes."""
    ended = steps["terminated"] | steps["truncated"]
    delta = steps["rewards"] + DISCOUNT * jnp.where(ended, 0, steps["next_values"])
    return delta - steps["values"], delta + steps["values"]


def unrolled_loop(steps: dict, unroll: int = 16) -> tuple:
    """Computes GAE as most JAX scripts do: an unrolled scan over transitions, one `done` flag as a factor."""
    done = (steps["terminated"] | steps["truncated"]).astype(jnp.float32)
    last_value = steps["next_values"][-1]

    def step(carry: tuple, transition: tuple) -> tuple:
        advantage, next_value = carry
        reward, value, done = transition
        delta = reward + DISCOUNT * next_value * (1 - done) - value
        advantage = delta + DISCOUNT * LAMBDA * (1 - done) * advantage
        return (advantage, value), advantage

    transitions = (steps["rewards"], steps["values"], done)
    start = (jnp.zeros_like(last_value), last_value)
    advantages = jax.lax.scan(step, start, transitions, reverse=True, unroll=unroll)[1]
    return advantages, advantages + steps["values"]


def rlax_loop(steps: dict) -> tuple:
    """Computes rlax's truncated GAE, vmapped over environments."""
    import rlax

    discounts = DISCOUNT * (1 - (steps["terminated"] | steps["truncated"]).astype(jnp.float32))
    values = jnp.concatenate([steps["values"], steps["next_values"][-1:]])
    one = lambda rewards, discounts, values: rlax.truncated_generalized_advantage_estimation(  # noqa: E731
        rewards, discounts, LAMBDA, values
    )
    advantages = jax.vmap(one, 1, 1)(steps["rewards"], discounts, values)
    return advantages, advantages + steps["values"]


def for_rows(loop: Callable) -> Callable:
    """Turns a time-major loop into one for arrays `[B, T]`."""
    return lambda steps: tuple(x.T for x in loop({name: x.T for name, x in steps.items()}))


def medians(functions: dict, steps: dict, repeats: int) -> dict:
    """Returns the median microseconds of a call; the functions take turns in random order."""
    compiled = {name: jax.jit(function) for name, function in functions.items()}
    for function in list(compiled.values()) * 3:
        jax.block_until_ready(function(steps))
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in random.sample(list(compiled.items()), len(compiled)):
            start = time.perf_counter()
            jax.block_until_ready(function(steps))
            times[name].append(time.perf_counter() - start)
    return {name: 1e6 * float(np.median(values)) for name, values in times.items()}


def compare(repeats: int) -> list[dict]:
    rows = []
    for shape in TIME_MAJOR + ROW_MAJOR:
        time_axis = int(shape in ROW_MAJOR)
        turn = for_rows if time_axis else lambda loop: loop
        functions = {"gaejax": ours(time_axis), "elementwise": elementwise}
        functions |= {"rlax": turn(rlax_loop), "unroll=16": turn(unrolled_loop)}
        measured = medians(functions, steps_of(shape), repeats if shape[time_axis] < 100_000 else repeats // 5)
        steps, count = shape[time_axis], shape[0] * shape[1]
        rows.append(
            {
                "shape": ("[B, T] " if time_axis else "[T, N] ") + str(shape),
                "method": choose("cpu", shape, time_axis),
                **{name: round(value, 1) for name, value in measured.items()},
                "vs rlax": round(measured["rlax"] / measured["gaejax"], 2),
                "vs unroll=16": round(measured["unroll=16"] / measured["gaejax"], 2),
                "of elementwise": round(measured["gaejax"] / measured["elementwise"], 2),
                "bar": (4 if steps == count else 2) if count >= 8192 else "",
            }
        )
        print(rows[-1], flush=True)
    for shape in SEED_SHAPES:
        batched = {"gaejax": jax.vmap(ours(0)), "elementwise": elementwise}
        measured = medians(batched, steps_of((SEEDS, *shape)), repeats // 4)
        rows.append(
            {
                "shape": f"{SEEDS} seeds {shape}",
                "method": choose("cpu", shape, 0),
                **{name: round(value, 1) for name, value in measured.items()},
                "of elementwise": round(measured["gaejax"] / measured["elementwise"], 2),
                "bar": 2.5,
            }
        )
        print(rows[-1], flush=True)
    return rows


def geometric_mean(rows: list[dict], column: str) -> float:
    return float(np.exp(np.mean([np.log(row[column]) for row in rows if column in row])))


def draw(rows: list[dict], picture: Path) -> None:
    """Draws the times of the first shapes, on a logarithmic axis, which has no zero: as dots, not as bars."""
    rows = [row for row in rows if row.get("rlax")]
    figure, panels = new_figure(height=1.2 + 0.38 * len(rows))
    axes = panels[0, 0]
    looks = {
        "elementwise": ("|", "gray"),
        "gaejax": ("o", "tab:blue"),
        "rlax": ("s", "tab:orange"),
        "unroll=16": ("^", "tab:red"),
    }
    for name, (marker, color) in looks.items():
        times = [float(row[name]) for row in rows]
        axes.plot(times, range(len(rows)), marker, color=color, label=name, markersize=8 if marker == "|" else 6)
    axes.set(xscale="log", xlabel="microseconds a call (median)", title="GAE on two CPU cores")
    axes.set_yticks(range(len(rows)), [row["shape"] for row in rows])
    axes.invert_yaxis()
    figure.legend(frameon=False, ncols=4, loc="outside lower center")
    save_figure(figure, picture)


def write_choices(repeats: int) -> None:
    """Measures the CPU's methods for many shapes and layouts, and rewrites its rules in `choices.json`: one more rule,
    for a shape and all larger ones, wherever the rules so far are beaten by more than a quarter."""
    table = json.loads(CHOICES.read_text())
    methods = ("slices", "staged", "blocks")  # a plain scan is as fast as slices, but slower under vmap
    table["cpu"] = {"first": [{"method": "slices"}], "last": [{"method": "slices"}]}
    for layout, axis in (("first", 0), ("last", 1)):
        for steps in (128, 512, 2048, 16384):
            for rows in (1, 2, 4, 8, 16, 64, 256, 1024):
                if steps * rows > 2**21:
                    continue
                shape = (steps, rows) if axis == 0 else (rows, steps)
                measured = medians({method: ours(axis, method) for method in methods}, steps_of(shape), repeats)
                print(layout, shape, {name: round(value) for name, value in measured.items()}, flush=True)
                best = min(measured, key=lambda method: measured[method])
                if measured[choose("cpu", shape, axis, table)] > 1.25 * measured[best]:
                    table["cpu"][layout].append({"min_steps": steps, "min_rows": rows, "method": best})
    CHOICES.write_text(json.dumps(table, indent=2) + "\n")


def main(argv: list[str]) -> None:
    parser = results_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=200, help="calls of each function (default: %(default)s)")
    parser.add_argument("--draw", action="store_true", help="only draw the picture of the table that is there")
    parser.add_argument("--write-choices", action="store_true", help="rewrite the CPU's rules in choices.json")
    arguments = parser.parse_args(argv)
    if arguments.write_choices:
        write_choices(arguments.repeats)
        return
    path = arguments.output / "kernel_speed.csv"
    if not arguments.draw:
        rows = compare(arguments.repeats)
        for column, bar in (("vs rlax", 1.5), ("vs unroll=16", 7)):
            print(f"geometric mean {column}: {geometric_mean(rows, column):.2f} (bar {bar})")
        write_results(path, rows)
    draw(read_results(path), arguments.output / "kernel_speed.png")


if __name__ == "__main__":
    run_script(main)
