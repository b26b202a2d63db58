"""One agent's environments on several devices, compared with one device that draws the same random numbers.

    JAX_NUM_CPU_DEVICES=8 uv run tests/rows_over_devices.py              # every algorithm, 20 training steps each
    JAX_NUM_CPU_DEVICES=8 uv run tests/rows_over_devices.py ppo --steps 2

On each device of a run random numbers come from a key of its own, which one device cannot repeat. So here all devices
are given the same key, and the program of one device is made to draw what they draw: its rollout is that of the parts,
side by side, and its minibatches are those of the parts, put together. What is left to compare is every reduction.
"""

import argparse
import re
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

import gaejax
from gaejax import minibatches, rows
from gaejax.algorithms import parts
from gaejax.language import TASKS, DecoderConfig, decoder_policy, group_baseline, kl_penalty, without_critic
from gaejax.language.tasks import ALPHABET
from gaejax.policies import make_policy
from gaejax.rollout import Trajectory, init_rollout, rollout
from gaejax.training import Experiment
from gaejax.training.devices import make_layout
from gaejax.training.driver import lay_out, lower_training
from gaejax.training.plan import collectives

NUM_ENVS, NUM_STEPS = 16, 8
SMALL = dict(num_envs=NUM_ENVS, num_steps=NUM_STEPS, explain=True)
CASES: dict[str, tuple[str, dict, dict, dict]] = {  # algorithm, config, options, policy
    "ppo": ("ppo", {"num_minibatches": 2, "num_epochs": 2}, {}, {}),
    "ppo, both normalizers": ("ppo", {"normalize_observations": True, "normalize_rewards": True}, {}, {}),
    "ppo, batch": ("ppo", {"advantage_normalization": "batch", "target_kl": 0.01}, {"objective": "kl"}, {}),
    "ppo, gru": ("ppo", {"num_minibatches": 2}, {}, {"memory": "gru"}),
    # Where gradients or advantages are 0 but for rounding, that decides what `explain` counts.
    "ppo, transformer": (
        "ppo",
        {"num_minibatches": 1, "explain": False},
        {},
        {"memory": "transformer", "shared": True},
    ),
    "a2c": ("a2c", {}, {}, {}),
    "pqn": ("pqn", {"num_minibatches": 2, "anneal_steps": 1e5}, {}, {}),
    "reinforce": ("reinforce", {}, {}, {}),
    "reinforce, time": ("reinforce", {"explain": False}, {"baseline": "time"}, {}),
    "trpo": ("trpo", {"damping": 0.1}, {}, {}),
    "ppg": ("ppg", {"num_minibatches": 2, "num_policy_updates": 2, "num_auxiliary_epochs": 1}, {}, {"shared": True}),
    "impala": ("impala", {"actor_lag": 2}, {}, {}),
    "language, penalty": ("ppo", {}, {}, {}),
    "language, groups": ("ppo", {"advantage_normalization": "none", "value_coefficient": 0.0}, {}, {}),
}

ENVIRONMENTS = {"reinforce, time": "Pendulum-v1"}  # the returns of CartPole's first steps are all alike
KINDS = {"[0].params": 1e-6, "[0]": 2e-6, "[1]": 2e-6}
"""What is compared, parameters, states and diagnostics, and how far apart they may be, relative to what is above 1: a
few roundings of float32."""


def built(case: str, environment_name: str) -> tuple[gaejax.algorithms.Algorithm, Any]:
    """An algorithm and its config."""
    name, config, options, policy = CASES[case]
    if case.startswith("language"):
        return built_for_texts(case.endswith("groups"), config)
    spec = gaejax.algorithms.ALGORITHMS[name]
    environment = gaejax.make(environment_name)
    policy = make_policy(environment, hidden_sizes=(16,), action_values=spec.action_values, **policy)
    return spec.make(environment, policy, **options), spec.config(**(SMALL | config))


def built_for_texts(in_groups: bool, config: dict) -> tuple[gaejax.algorithms.Algorithm, Any]:
    """PPO of a small language model: near its reference with a critic, or relative to groups of texts without one."""
    task = TASKS["reverse"](2)
    num_steps = task.max_prompt + task.max_response - 1
    decoder = DecoderConfig(len(ALPHABET), 16, 1, 2, max_position_embeddings=num_steps + 1, positions="learned")
    policy = decoder_policy(decoder, value="none" if in_groups else "head")
    transforms = [group_baseline(2)] if in_groups else [kl_penalty(policy, 0.1, target=1.0, horizon=100.0)]
    estimator = without_critic if in_groups else "gae"
    algorithm = gaejax.ppo(task.environment(), policy, transforms=transforms, estimator=estimator)
    sizes = dict(num_envs=NUM_ENVS, num_steps=num_steps, fresh_rows=True, discount=1.0, num_minibatches=1)
    return algorithm, gaejax.PPOConfig(**(sizes | config))


@contextmanager
def one_device_that_draws_like(num_parts: int):
    """Traces a step as if its environments were in `num_parts` parts with the same keys."""

    def part(x: jax.Array) -> jax.Array:  # [N, ...] -> [parts, N / parts, ...]
        return x.reshape(num_parts, -1, *x.shape[1:])

    def whole(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *x.shape[2:])

    def in_parts(key: jax.Array, environment: Any, params: Any, act: Any, state: Any, num_steps: int) -> tuple:
        run = partial(rollout, key, environment, params, act, num_steps=num_steps)
        following, trajectory, episodes = jax.vmap(lambda state: run(state=state))(jax.tree.map(part, state))
        by_env = ("initial_carry", "last_observation", "last_reset")
        fields = {
            name: jax.tree.map(
                whole if name in by_env else lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:]), tree
            )
            for name, tree in trajectory._asdict().items()
        }
        sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), episodes)
        return jax.tree.map(whole, following), Trajectory(**fields), sums

    def fresh(key: jax.Array, environment: Any, params: Any, policy: Any, num_envs: int) -> Any:
        each = num_envs // num_parts
        one = init_rollout(key, environment, params, policy.initial_carry(each), each)
        return jax.tree.map(lambda x: jnp.concatenate([x] * num_parts), one)

    permutation = minibatches.random_permutation

    def permuted(key: jax.Array, size: int) -> jax.Array:
        each = NUM_ENVS // num_parts
        local = permutation(key, size // num_parts)
        before, env = local // each, local % each
        # Element by element from all parts, so that any number of minibatches has the same of each.
        places = [before * NUM_ENVS + number * each + env for number in range(num_parts)]
        return jnp.stack(places, axis=1).reshape(-1)

    patches = (
        mock.patch.object(parts, "rollout", in_parts),
        mock.patch.object(parts, "fresh_rollout", fresh),
        mock.patch.object(minibatches, "random_permutation", permuted),
    )
    with patches[0], patches[1], patches[2]:
        yield


def over_devices(algorithm: gaejax.algorithms.Algorithm, config: Any, num_devices: int) -> Callable[[Any], Any]:
    """The step, for the states of one seed, mapped over devices."""
    init = lambda config: jax.vmap(algorithm.init, (0, None))(jax.random.split(jax.random.key(0), 1), config)  # noqa: E731
    layout = make_layout(init, config, 1, row_devices=num_devices)
    step = jax.vmap(algorithm.step)
    return layout.mapped(step, (layout.states,), (layout.states, PartitionSpec("seeds")))


def simulated(algorithm: gaejax.algorithms.Algorithm, config: Any, num_devices: int) -> Callable[[Any], Any]:
    """The same on one device: the parts as a mapped axis."""
    init = lambda config: jax.vmap(algorithm.init, (0, None))(jax.random.split(jax.random.key(0), 1), config)  # noqa: E731
    specs = make_layout(init, config, 1, row_devices=num_devices, available=[jax.devices()[0]] * num_devices).states
    axes = jax.tree.map(
        lambda spec: spec.index(rows.ROWS) if rows.ROWS in spec else None,
        specs,
        is_leaf=lambda spec: isinstance(spec, PartitionSpec),
    )

    def call(states: Any) -> Any:
        def split(leaf: jax.Array, axis: int | None) -> jax.Array:
            return leaf if axis is None else jnp.stack(jnp.split(leaf, num_devices, axis), axis)

        def joined(leaf: jax.Array, axis: int | None) -> jax.Array:
            return leaf[0] if axis is None else jnp.concatenate(list(leaf), axis)

        leaves, structure = jax.tree.flatten(states)
        flat_axes = structure.flatten_up_to(axes)
        divided = [split(*pair) for pair in zip(leaves, flat_axes, strict=True)]
        step = lambda *leaves: jax.vmap(algorithm.step)(structure.unflatten(leaves))  # noqa: E731
        moved, infos = jax.vmap(step, in_axes=tuple(flat_axes), out_axes=0, axis_name=rows.ROWS)(*divided)
        moved_leaves = structure.flatten_up_to(moved)
        moved = structure.unflatten([joined(*pair) for pair in zip(moved_leaves, flat_axes, strict=True)])
        return moved, jax.tree.map(lambda info: info[0], infos)

    return call


def differences(case: str, num_devices: int, num_steps: int, mapped: Any) -> dict:
    """The largest difference between `num_devices` devices and one, over `num_steps` steps, each from one state."""
    algorithm, config = built(case, ENVIRONMENTS.get(case, "CartPole-v1"))
    states = jax.vmap(algorithm.init, (0, None))(jax.random.split(jax.random.key(7), 1), config)
    with mock.patch.object(rows, "own_key", lambda key: key):
        split = jax.jit(mapped(algorithm, config, num_devices))
        split(states)  # traced here, as the keys are
        with one_device_that_draws_like(num_devices):
            one = jax.jit(jax.vmap(lambda state: algorithm.step(state)))
            one(states)
    worst: dict[str, float] = {}
    for _ in range(num_steps):
        found, wanted = jax.device_get((split(states), one(states)))
        for (path, ours), theirs in zip(
            jax.tree_util.tree_leaves_with_path(_numbers(found)), jax.tree.leaves(_numbers(wanted)), strict=True
        ):
            gap = np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))) if ours.size else 0.0
            gap = 0.0 if np.array_equal(ours, theirs, equal_nan=True) else float(gap)
            where = jax.tree_util.keystr(path)
            worst[where] = max(worst.get(where, 0.0), gap)
        states = jax.device_put(wanted[0])
    return worst


def check_collectives() -> None:
    """Seeds over devices communicate nothing; of environments, a minibatch sums its gradient once."""
    config = gaejax.PPOConfig(num_envs=NUM_ENVS, num_steps=NUM_STEPS, num_minibatches=2)
    experiment = Experiment(environment="CartPole-v1", config=config, total_steps=10**6, num_seeds=8)

    def found(**options: int) -> tuple[str, Any]:
        algorithm = experiment.build()
        layout, shapes = lay_out(experiment, algorithm, **options)
        text = lower_training(algorithm, shapes, 10, layout).compile().as_text()
        return text, collectives(text)

    assert found()[1] == ()
    text, traffic = found(row_devices=8)
    assert [each.kind for each in traffic] == ["all-reduce"], traffic
    inside = [line for line in text.splitlines() if " all-reduce" in line and re.search(r"op_name=.*rollout/", line)]
    assert len(inside) <= 1, inside  # the statistics of episodes, after the steps
    parameters = sum(leaf.size // 8 for leaf in jax.tree.leaves(lay_out(experiment, experiment.build())[1].params))
    large = [line for line in text.splitlines() if re.search(r" all-reduce(-start)?\(", line)]
    print(f"{traffic[0].count} all-reduces, {traffic[0].bytes} bytes; {parameters} parameters, {len(large)} lines")
    assert traffic[0].bytes < 1.2 * 4 * 8 * parameters, traffic


def _numbers(tree: Any) -> Any:
    def number(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf, np.float64)

    return jax.tree.map(number, tree)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--simulated", action="store_true", help="on one device, the parts as a mapped axis")
    parser.add_argument("--collectives", action="store_true", help="also read the compiled programs")
    parser.add_argument("--parts", type=int, default=8)
    parsed = parser.parse_args(argv)
    failed = []
    if parsed.collectives:
        check_collectives()
    for case in parsed.case or CASES:
        worst = differences(case, parsed.parts, parsed.steps, simulated if parsed.simulated else over_devices)
        largest = {kind: max((gap, where) for where, gap in worst.items() if where.startswith(kind)) for kind in KINDS}
        print(f"{case:24s}", *(f"{gap:.1e} {where:50s}" for gap, where in largest.values()), flush=True)
        failed += [case] * any(largest[kind][0] > KINDS[kind] for kind in KINDS)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
