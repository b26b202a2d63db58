"""Compiles the kernels and the whole PPO step for TPUs that are not there, and reads what came out.

    python tests/compiled/tpu.py         # in an environment with jax[tpu]; .ci/run makes one
    python tests/compiled/tpu.py --pretrained        # only the step that post-trains SmolLM2: two minutes

Nothing runs: libtpu compiles for a topology that it is told of.
"""

import os
import re
import sys
from functools import partial

os.environ.update(TPU_SKIP_MDS_QUERY="1", JAX_PLATFORMS="cpu", TF_CPP_MIN_LOG_LEVEL="3")

import jax
import jax.numpy as jnp
from jax.experimental import topologies

import gaejax
from gaejax.language import TASKS, DecoderConfig, decoder_policy, kl_penalty, lora, token_environment
from gaejax.recurrence import METHODS
from gaejax.transforms import encode_once

TOPOLOGIES = {"v5e": "v5e:2x2", "v6e": "v6e:2x2", "v5e, 256 devices": "v5e:16x16"}
# Bytes an element that must not be exceeded. For `gae` 22 is the least with next values and two flags; the others are
# what was reached when they were written, with a tenth to spare: to be lowered, not raised.
MOST_BYTES = {"gae": 24, "rows first": 25, "masked": 145, "step": 10_000, "step, temporary": 360}


def shapes(sharding, steps_rows, time_axis=0, masked=False):
    """The arguments of `gae`, as shapes on a device."""
    shape = steps_rows if time_axis == 0 else steps_rows[::-1]
    array = lambda dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)  # noqa: E731
    arrays = {name: array(jnp.float32) for name in ("rewards", "values", "next_values")}
    flags = ("terminated", "truncated", "mask") if masked else ("terminated", "truncated")
    return arrays | {name: array(jnp.bool_) for name in flags}


def compiled(sharding, steps_rows, time_axis=0, masked=False, method="auto", lambdas=None):
    def function(arrays, gae_lambda):
        return gaejax.gae(**arrays, discount=0.99, gae_lambda=gae_lambda, time_axis=time_axis, method=method)

    gae_lambda = jax.ShapeDtypeStruct(() if lambdas is None else (lambdas,), jnp.float32, sharding=sharding)
    function = function if lambdas is None else jax.vmap(function, (None, 0))
    return jax.jit(function).lower(shapes(sharding, steps_rows, time_axis, masked), gae_lambda).compile()


def report(name, program, elements, *, kernel=True):
    text, memory = program.as_text(), program.memory_analysis()
    bytes_ = program.cost_analysis().get("bytes accessed", float("nan")) / elements
    kernels = text.count("tpu_custom_call")
    print(f"{name:46s} {bytes_:8.1f} bytes an element, {memory.temp_size_in_bytes / elements:6.1f} of them temporary")
    assert (kernels > 0) == kernel, f"{name}: {kernels} Pallas kernels in the program"
    return bytes_, memory.temp_size_in_bytes / elements


def at_most(limit, bytes_):
    assert bytes_ <= MOST_BYTES[limit], f"{bytes_:.1f} bytes an element, more than {MOST_BYTES[limit]} ({limit})"


def step_program(sharding, num_seeds, num_envs=2048, num_steps=16, **policy):
    """The PPO training step on CartPole, vmapped over seeds, with a policy of some options."""
    environment = gaejax.make("CartPole-v1")
    algorithm = gaejax.ppo(environment, gaejax.policies.make_policy(environment, **policy))
    return compiled_step(sharding, num_seeds, algorithm, gaejax.PPOConfig(num_envs=num_envs, num_steps=num_steps))


def language_program(sharding, num_seeds):
    """The step that trains a language model, with a penalty for leaving its reference."""
    task = TASKS["reverse"](5)
    environment = task.environment()
    steps = 2 * 5 + 8
    policy = decoder_policy(DecoderConfig(environment.action_space.n, 64, 2, 4, max_position_embeddings=steps))
    algorithm = gaejax.ppo(environment, policy, transforms=[kl_penalty(policy)])
    config = gaejax.PPOConfig(num_envs=256, num_steps=steps, fresh_rows=True, discount=1.0)
    return compiled_step(sharding, num_seeds, algorithm, config), 256 * steps


def pretrained_program(sharding):
    """The step that post-trains SmolLM2-135M by LoRA; its weights are an argument."""
    steps, rows = 256, 32
    config = DecoderConfig(
        49152, 576, 30, 9, 3, 1536, max_position_embeddings=steps + 1, rope_theta=1e5, tie_word_embeddings=True
    )
    reward = lambda text: jnp.mean((text.response == 1) * 1.0)  # noqa: E731
    prompts = jnp.ones((16, 128), jnp.int32)
    environment = token_environment(prompts, config.vocab_size, 2, steps - 127, reward=reward)

    def make(weights):
        policy = lora(decoder_policy(config, frozen_layers=24, logits_chunk=64), weights)
        return gaejax.ppo(environment, policy, transforms=[encode_once(policy), kl_penalty(policy)])

    place = partial(jax.tree.map, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding))
    weights = place(jax.eval_shape(decoder_policy(config, value="none").init, jax.random.key(0)))
    training = gaejax.PPOConfig(num_envs=rows, num_steps=steps, fresh_rows=True, discount=1.0)
    state = place(jax.eval_shape(lambda weights: make(weights).init(jax.random.key(0), training), weights))
    step = jax.jit(lambda weights, state: make(weights).step(state), donate_argnums=1)
    return step.lower(weights, state).compile(), rows * steps


def compiled_step(sharding, num_seeds, algorithm, config):
    """A training step, vmapped over seeds."""
    init = jax.vmap(algorithm.init, in_axes=(0, None))
    states = jax.eval_shape(lambda keys: init(keys, config), jax.random.split(jax.random.key(0), num_seeds))
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)  # noqa: E731
    return jax.jit(jax.vmap(algorithm.step), donate_argnums=0).lower(jax.tree.map(place, states)).compile()


def pretrained():
    one = jax.sharding.SingleDeviceSharding(
        topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    )
    program, elements = pretrained_program(one)
    report("v5e PPO step of SmolLM2-135M with LoRA", program, elements)
    memory = program.memory_analysis()
    gigabytes = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30
    print(f"SmolLM2-135M with LoRA, 32 texts of 256 tokens: {gigabytes:.1f} GiB")
    assert gigabytes < 16, "more than a v5e has"


def main():
    import meshes  # the whole table takes minutes; one mesh of both axes shows that it compiles

    print(*meshes.row("tpu", "v5e:2x2", 2, 2).values())
    for name, topology in TOPOLOGIES.items():
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
        one = jax.sharding.SingleDeviceSharding(devices[0])
        for shape in ((128, 2048), (10, 8192), (128, 4), (2048, 16), (1000, 1024), (1_000_000, 1)):
            bytes_, _ = report(f"{name} gae {shape}", compiled(one, shape), shape[0] * shape[1])
            if min(shape) >= 128:
                at_most("gae", bytes_)
        for shape in ((4096, 8), (1024, 64), (32768, 4)):
            program = compiled(one, shape, time_axis=1)
            at_most("rows first", report(f"{name} gae {shape}, rows first", program, shape[0] * shape[1])[0])
        program = compiled(one, (128, 2048), masked=True)
        at_most("masked", report(f"{name} gae (128, 2048), masked", program, 128 * 2048)[0])
        report(f"{name} gae (128, 2048), 8 lambdas", compiled(one, (128, 2048), lambdas=8), 8 * 128 * 2048)
        for method in METHODS[1:]:
            program = compiled(one, (1024, 256), method=method)
            report(f"{name} gae (1024, 256), {method}", program, 1024 * 256, kernel="pallas" in method)

        mesh = jax.make_mesh((len(devices),), ("time",), devices=devices)
        split = jax.sharding.NamedSharding(mesh, jax.P("time"))
        sharded = jax.shard_map(
            lambda arrays: gaejax.gae(**arrays, discount=0.99, gae_lambda=0.95, axis_name="time"),
            mesh=mesh,
            in_specs=jax.P("time"),
            out_specs=jax.P("time"),
            check_vma=False,
        )
        shape = (512 * len(devices), 128)
        program = jax.jit(sharded).lower(shapes(split, shape)).compile()
        report(f"{name} gae {shape}, time over {len(devices)} devices", program, shape[0] * shape[1] // len(devices))
        exchanges = re.findall(r" = \S+ (all-gather|all-gather-start|all-reduce|all-reduce-start)\(", program.as_text())
        assert len(exchanges) == 1, exchanges  # one all-gather, which XLA may write as a sum
        bytes_, temporary = report(f"{name} PPO step, 4 seeds", step_program(one, 4), 4 * 2048 * 16)
        at_most("step", bytes_)
        at_most("step, temporary", temporary)

    one = jax.sharding.SingleDeviceSharding(
        topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    )
    for memory, dtype in {"gru": "float32", "linear_recurrent": "float32", "transformer": "bfloat16"}.items():
        policy = {"memory": memory, "shared": True, "compute_dtype": dtype}
        program = step_program(one, 2, num_envs=256, num_steps=64, **policy)
        report(f"v5e PPO step, 2 seeds, {memory}, {dtype}", program, 2 * 256 * 64)

    program, elements = language_program(one, 4)
    report("v5e PPO step of a language model, 4 seeds", program, 4 * elements)
    # A green run means something only if what cannot work is refused.
    from gaejax.recurrence import tpu

    tpu.BLOCK_STEPS, tpu.BLOCK_ROWS = 8192, 8192
    jax.clear_caches()
    try:
        compiled(one, (8192, 8192), method="pallas")
    except jax.errors.JaxRuntimeError as error:
        assert "vmem" in str(error).lower(), error
        print("a kernel that overflows VMEM is refused")
    else:
        raise AssertionError("a kernel that overflows VMEM was accepted")


if __name__ == "__main__":
    if sys.argv[1:] == ["--pretrained"]:
        pretrained()
    else:
        main()
