"""Compiles the kernels and the whole PPO step for an H100 that is not there: each in a process of its own.

    python tests/compiled/cuda.py        # in an environment with jax-cuda13-plugin and jax-cuda13-pjrt

No driver and no CUDA libraries are needed, and nothing runs.
"""

import os
import subprocess
import sys

H100 = """
gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA"
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 10 }
"""
PROGRAMS = {
    "gae (128, 2048)": "gae((128, 2048))",
    "gae (128, 2048), masked": "gae((128, 2048), masked=True)",
    "gae (8, 4096), rows first": "gae((4096, 8), time_axis=1)",
    "gae (10, 8192)": "gae((10, 8192))",
    "gae (1024, 256), scan": "gae((1024, 256), method='scan')",
    "gae (1024, 256), associative": "gae((1024, 256), method='associative')",
    "gae (1024, 256), slices": "gae((1024, 256), method='slices')",
    "gae (1024, 256), blocks": "gae((1024, 256), method='blocks')",
    "PPO step, 4 seeds": "ppo_step()",
    "PPO step, GRU": "ppo_step(memory='gru')",
    "PPO step, linear-recurrent": "ppo_step(memory='linear_recurrent')",
    "PPO step, transformer": "ppo_step(memory='transformer', shared=True)",
}


def one(expression):
    """Compiles one program, in this process."""
    from jax.experimental import topologies

    sys.path.insert(0, os.path.dirname(__file__))
    import tpu as programs  # the same programs, for another platform

    topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    sharding = programs.jax.sharding.SingleDeviceSharding(topology.devices[0])
    names = {
        "gae": lambda shape, **options: programs.compiled(sharding, shape, **options),
        "ppo_step": lambda **policy: programs.step_program(sharding, 4, num_envs=128, num_steps=64, **policy),
    }
    text = eval(expression, names).as_text()
    assert "tpu_custom_call" not in text
    print(f"{len(text.splitlines())} lines of HLO")


def main():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    for name, expression in PROGRAMS.items():
        command = [sys.executable, __file__, expression]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        print(f"{name:32s} {done.stdout.strip() or done.stderr.strip()[-2000:]}", flush=True)
        if done.returncode:
            sys.exit(f"{name} does not compile for CUDA")


if __name__ == "__main__":
    one(sys.argv[1]) if len(sys.argv) > 1 else main()
