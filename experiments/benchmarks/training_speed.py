"""Environment steps per second of a whole PPO training, beside rejax at equal work.

    uv run experiments/benchmarks/training_speed.py

CartPole-v1, separate 64-64 tanh actor and critic, 4 epochs. Each side is a process of its own (rejax needs an older
gymnax) that compiles once and then trains on request. Requests alternate; the ratio of the medians counts. Only
environment steps are counted: our transitions that only show a final observation are work, but not steps.
"""

import json
import statistics
import subprocess
import sys
import time

SIZES = {(4, 128, 4): 1.1, (64, 128, 4): 1.7, (2048, 16, 32): 1.5}  # (envs, steps, minibatches): the bar
TOTAL_STEPS, ROUNDS = 1_000_000, 7
PEER = "uv run --no-project --python 3.11 --with jax==0.10.2 --with rejax==0.1.3 --with gymnax==0.0.9 --with six python"


def ours(num_envs: int, num_steps: int, num_minibatches: int):
    """Returns a compiled training of ours: `key -> environment steps taken`."""
    import jax

    import gaejax

    environment = gaejax.make("CartPole-v1")
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment))
    config = gaejax.PPOConfig(num_envs=num_envs, num_steps=num_steps, num_minibatches=num_minibatches)
    train = jax.jit(lambda key: gaejax.train(algorithm, key, config, TOTAL_STEPS))

    def run(key):
        _, history = jax.block_until_ready(train(key))
        return int(history.env_steps.sum())

    return run


def rejax(num_envs: int, num_steps: int, num_minibatches: int):
    """Returns a compiled training of rejax's: `key -> environment steps taken`."""
    import jax
    from rejax import PPO

    algorithm = PPO.create(
        env="CartPole-v1",
        num_envs=num_envs,
        num_steps=num_steps,
        num_epochs=4,
        num_minibatches=num_minibatches,
        total_timesteps=TOTAL_STEPS,
        eval_freq=TOTAL_STEPS,
        skip_initial_evaluation=True,
        learning_rate=2.5e-4,
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": (64, 64)},
    )
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: state.global_step)
    train = jax.jit(algorithm.train)

    def run(key):
        state, _ = jax.block_until_ready(train(key))
        return int(state.global_step)

    return run


def serve(side: str, *sizes: str) -> None:
    """Compiles, then trains once for each line read and prints environment steps per second."""
    import jax

    run = {"ours": ours, "rejax": rejax}[side](*map(int, sizes))
    started = time.perf_counter()
    run(jax.random.PRNGKey(0))
    print(json.dumps(time.perf_counter() - started), flush=True)
    for index, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        steps = run(jax.random.PRNGKey(index))
        print(json.dumps(steps / (time.perf_counter() - started)), flush=True)


def answer(worker: subprocess.Popen) -> float:
    """Returns the next number that a worker prints."""
    assert worker.stdout is not None  # it is a pipe
    return json.loads(worker.stdout.readline())


def main(argv: list[str]) -> None:
    from gaejax.training.results import results_parser, write_results  # not in rejax's environment

    arguments = results_parser(__doc__).parse_args(argv)
    rows = []
    for sizes, bar in SIZES.items():
        serving = [__file__, "serve"]
        workers = {
            side: subprocess.Popen(
                [*python, *serving, side, *map(str, sizes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for side, python in (("ours", [sys.executable]), ("rejax", PEER.split()))
        }
        first = {side: answer(worker) for side, worker in workers.items()}
        speeds = {side: [] for side in workers}
        for _ in range(ROUNDS):
            for side, worker in workers.items():
                print("go", file=worker.stdin, flush=True)
                speeds[side].append(answer(worker))
        for worker in workers.values():
            worker.communicate()
        medians = {side: statistics.median(values) for side, values in speeds.items()}
        row = {
            "envs x steps": f"{sizes[0]}x{sizes[1]}",
            "minibatches": sizes[2],
            "ours_steps_per_s": round(medians["ours"]),
            "rejax_steps_per_s": round(medians["rejax"]),
            "ratio": round(medians["ours"] / medians["rejax"], 2),
            "bar": bar,
            "ours_first_call_s": round(first["ours"], 1),
            "rejax_first_call_s": round(first["rejax"], 1),
        }
        print("  ".join(f"{name}: {value}" for name, value in row.items()), flush=True)
        rows.append(row)
    write_results(arguments.output / "training_speed.csv", rows)


if __name__ == "__main__":
    serve(*sys.argv[2:]) if sys.argv[1:2] == ["serve"] else main(sys.argv[1:])
