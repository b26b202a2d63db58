"""Compiles the training step for slices of TPUs and for eight H100, none of which are here, and lists what is in it.

    python tests/compiled/meshes.py tpu --output FILE      # in an environment with jax[tpu]
    python tests/compiled/meshes.py cuda --output FILE     # in one with jax-cuda13-plugin and jax-cuda13-pjrt
    python tests/compiled/meshes.py tpu --table FILE       # the table of docs/devices.md, from that file

The run is PPO on CartPole (64-64, 16 steps of 2048 environments for each device of an agent, 32 minibatches): seeds
over devices, an agent's environments over devices, or both. What stands in a loop counts once.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

os.environ.update(TPU_SKIP_MDS_QUERY="1", JAX_PLATFORMS="cpu", TF_CPP_MIN_LOG_LEVEL="3")

import gaejax
from gaejax.training import Experiment
from gaejax.training.devices import SEEDS
from gaejax.training.driver import lay_out, lower_training
from gaejax.training.plan import collectives, compile_program
from gaejax.training.results import read_results, write_results

MESHES = {  # devices along the seeds, and along the rows
    ("tpu", "v5e:2x2"): [(4, 1), (1, 4), (2, 2)],
    ("tpu", "v5e:4x4"): [(16, 1), (1, 16), (4, 4)],
    ("tpu", "v5e:16x16"): [(256, 1), (1, 256), (64, 4)],
    ("cuda", "1x1x8"): [(8, 1), (1, 8), (2, 4)],
}
SEEDS_PER_DEVICE, ENVS_PER_DEVICE = 4, 2048


def devices_of(platform, topology):
    from jax.experimental import topologies

    if platform == "tpu":
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    sys.path.insert(0, os.path.dirname(__file__))
    from cuda import H100

    return topologies.get_topology_desc(platform="cuda", target_config=H100, topology=topology).devices


def in_the_rollout(text):
    """How many collectives stand in the scan over environment steps: the loops inside of the loop over updates that
    draw random numbers for the environments are the only ones with a step counter of `num_steps`."""
    return len(re.findall(r'op_name="[^"]*rollout[^"]*(?:psum|all_gather|all_reduce)', text))


def row(platform, topology, seeds, rows):
    """Compiles one program."""
    config = gaejax.PPOConfig(num_envs=ENVS_PER_DEVICE * rows, num_steps=16, num_minibatches=32)
    experiment = Experiment(
        environment="CartPole-v1", config=config, total_steps=10**9, num_seeds=SEEDS_PER_DEVICE * seeds
    )
    algorithm, devices = experiment.build(), list(devices_of(platform, topology))
    layout, shapes = lay_out(experiment, algorithm, devices=seeds * rows, row_devices=rows, available=devices)
    assert layout.sizes()[SEEDS] == seeds
    started = time.perf_counter()
    program = compile_program(lower_training(algorithm, shapes, 100, layout))
    seconds, text = time.perf_counter() - started, program.compiled.as_text()
    found = collectives(text)
    kernels = text.count("tpu_custom_call")
    assert rows > 1 or not found, f"seeds communicate: {found}"
    assert platform != "tpu" or kernels >= 2, f"{kernels} Pallas kernels in the program"
    assert not in_the_rollout(text), "environments communicate while they are stepped"
    assert all(each.kind == "all-reduce" for each in found), found
    return {
        "platform": platform,
        "topology": topology,
        "seeds_x_rows": f"{seeds} x {rows}",
        "agents": experiment.num_seeds,
        "environments_of_each": config.num_envs,
        "compile_seconds": round(seconds, 1),
        "kernels": kernels,
        "all_reduces": sum(each.count for each in found),
        "all_reduce_bytes": sum(each.bytes for each in found),
        "mebibytes_per_device": round(program.bytes / 2**20, 2),
    }


def table(rows):
    """The table in Markdown."""
    columns = [name for name in rows[0] if name not in ("platform", "date", "commit", "versions", "machine")]
    lines = [columns, ["---"] * len(columns), *([each[name] for name in columns] for each in rows)]
    return "\n".join("| " + " | ".join(str(cell).replace("_", " ") for cell in line) + " |" for line in lines)


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("platform", choices=("tpu", "cuda"))
    parser.add_argument("--output", type=Path, help="a CSV, whose lines of other platforms stay")
    parser.add_argument("--table", type=Path, help="print the table in this CSV, and compile nothing")
    parser.add_argument("--topology", help="only this one")
    parsed = parser.parse_args(argv)
    if parsed.table:
        print(table(read_results(parsed.table)))
        return
    rows = []
    for (platform, topology), meshes in MESHES.items():
        if platform == parsed.platform and parsed.topology in (None, topology):
            for mesh in meshes:
                rows.append(row(platform, topology, *mesh))
                print(*rows[-1].values(), flush=True)
    if parsed.output:
        others = [each for each in read_results(parsed.output) if each["platform"] != parsed.platform]
        write_results(parsed.output, [*others, *rows])


if __name__ == "__main__":
    main(sys.argv[1:])
