"""Devices: on which of them the seeds of a run and the environments of each agent are, and what processes agree on.

One code path from one core to many hosts. The compiled call of a run is mapped over a mesh of devices (`jax.shard_map`)
whose first axis splits the seeds, which never communicate, and whose second, if there is one, splits the environments
of every agent (`gaejax.rows`). On one device nothing is mapped.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gaejax.rows import ROWS

HEARTBEAT_SECONDS = 30
"""How long a process may be silent, or late at the end, before the others end too."""

SEEDS = "seeds"
"""The name of the mesh axis over which seeds are split."""

Function = TypeVar("Function", bound=Callable[..., Any])


class Layout(NamedTuple):
    """How a run lies on devices.

    Attributes:
      mesh: of seeds, or of seeds and rows; None: on one device, and nothing is mapped.
      states: how the stacked training states are split, a tree of `PartitionSpec`.
    """

    mesh: Mesh | None
    states: Any

    def mapped(self, function: Function, in_specs: Any, out_specs: Any) -> Function:
        """Returns a function of whole arrays that runs `function` on each device's part of them."""
        if self.mesh is None:
            return function
        # Not checked for what varies between devices: the scans of a training step start from fresh zeros.
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def shardings(self, specs: Any) -> Any:
        """Returns where arrays with such specs are."""
        mesh = self.mesh
        if mesh is None:
            one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            return jax.tree.map(lambda _: one, specs, is_leaf=_is_spec)
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)

    def placed(self, shapes: Any) -> Any:
        """Returns the shapes of stacked training states with the places where they are."""
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            self.shardings(self.states),
        )

    def sizes(self) -> dict[str, int]:
        """Returns the number of devices along each axis, for a summary."""
        return {SEEDS: 1, ROWS: 1} if self.mesh is None else {SEEDS: 1, ROWS: 1, **self.mesh.shape}


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, PartitionSpec)


def make_layout(
    states_of: Callable[[Any], Any],
    config: Any,
    num_seeds: int,
    *,
    devices: int | None = None,
    row_devices: int = 1,
    available: list[Any] | None = None,
) -> Layout:
    """Chooses the devices of a run, and how its states are split over them.

    Args:
      states_of: `config -> stacked training states`, leaves `[S, ...]`. It is only traced.
      config: The algorithm's hyperparameters.
      num_seeds: S.
      devices: How many devices to use; default: as many as can be used evenly.
      row_devices: Over how many of them the environments of each agent are split.
      available: The devices to choose from; default: all there are, of all processes.

    Raises:
      ValueError: if seeds, environments or minibatches cannot be split evenly; one line that names the number.
    """
    available = jax.devices() if available is None else available
    _check_rows(config, row_devices)
    chosen = _num_devices(num_seeds, len(available), devices, row_devices)
    if len({device.process_index for device in available}) > 1 and chosen < len(available):
        over = f"{len(available)} devices of all processes" + (" / row_devices" if row_devices > 1 else "")
        raise ValueError(
            f"num_seeds must be a multiple of {len(available) // row_devices}, the {over}, got {num_seeds}"
        )
    shape, names = ((chosen,), (SEEDS,)) if row_devices == 1 else ((-1, row_devices), (SEEDS, ROWS))
    mesh = Mesh(np.array(available[:chosen]).reshape(shape), names) if chosen > 1 else None
    return Layout(mesh, _specs(states_of, config, splits_rows=row_devices > 1))


def _num_devices(num_seeds: int, available: int, devices: int | None, row_devices: int) -> int:
    """Returns how many devices a run uses."""
    if devices is not None and not 1 <= devices <= available:
        raise ValueError(f"devices must be at least 1 and at most the {available} there are, got {devices}")
    if row_devices > (devices or available):
        raise ValueError(f"row_devices must be at most the {devices or available} devices, got {row_devices}")
    if devices is not None and devices % row_devices:
        raise ValueError(f"row_devices must divide devices = {devices}, got {row_devices}")
    agents = (devices or available) // row_devices  # that are trained at a time, each on `row_devices` devices
    if devices is None:
        agents = max(number for number in range(1, agents + 1) if num_seeds % number == 0)
    elif num_seeds % agents:
        over = "devices" if row_devices == 1 else "devices / row_devices"
        raise ValueError(f"num_seeds must be a multiple of {over} = {agents}, got {num_seeds}")
    return agents * row_devices


def _check_rows(config: Any, row_devices: int) -> None:
    """Raises ValueError if the environments of an agent, or what a device has of a minibatch, cannot be split."""
    if row_devices < 1:
        raise ValueError(f"row_devices must be at least 1, got {row_devices}")
    if config.num_envs % row_devices:
        raise ValueError(f"num_envs must be a multiple of row_devices = {row_devices}, got {config.num_envs}")


def _specs(states_of: Callable[[Any], Any], config: Any, splits_rows: bool) -> Any:
    """Returns how stacked states are split: by seed along the first axis and, if `splits_rows`, by environment along
    the axis whose size follows `num_envs`."""
    states = jax.eval_shape(states_of, config)
    if not splits_rows:
        return jax.tree.map(lambda _: PartitionSpec(SEEDS), states)
    larger = jax.tree.leaves(jax.eval_shape(states_of, config.replace(num_envs=2 * config.num_envs)))

    def spec(leaf: Any, other: Any) -> PartitionSpec:
        pairs = list(zip(leaf.shape, other.shape, strict=True))
        return PartitionSpec(SEEDS, *(ROWS if here != there else None for here, there in pairs[1:]))

    leaves, structure = jax.tree.flatten(states)
    return structure.unflatten([spec(*pair) for pair in zip(leaves, larger, strict=True)])


def fetch(tree: Any) -> Any:
    """Returns arrays that lie on any devices, of any processes, as NumPy arrays on each."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def agreed(number: Any) -> Any:
    """Returns process 0's number in every process: what depends on a clock or a file is decided once."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(np.asarray(number))


def of_all(number: Any) -> np.ndarray:
    """Returns the numbers of all processes `[P, ...]`."""
    if jax.process_count() == 1:
        return np.asarray(number)[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(number)))


def check_same(name: str, fact: bool, wanted: str) -> bool:
    """Returns what all processes see, once they have all looked.

    Raises:
      ValueError: if they see different things; says that `name` must be `wanted`.
    """
    facts = of_all(fact)
    if facts.any() != facts.all():
        raise ValueError(f"{name} must be {wanted}: they see different things in it")
    return bool(facts.all())


def is_one_of_several() -> bool:
    """Returns whether the environment of a launcher (Slurm, Open MPI, a TPU pod on Kubernetes, or `JAX_NUM_PROCESSES`)
    says that this is one of several processes."""
    numbers = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    lists = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
    several = [os.environ.get(name, "") not in ("", "0", "1") for name in numbers]
    return any(several) or any("," in os.environ.get(name, "") for name in lists)


def join_processes() -> None:
    """Joins the other processes of a run. TPUs, Slurm, Open MPI and Kubernetes say who they are; elsewhere
    `JAX_COORDINATOR_ADDRESS` (host and port of process 0), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` do.

    Raises:
      ValueError: if nobody says it, or this comes after something was computed.
    """
    given = [os.environ.get(name, "") for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")]
    num_processes, process_id = (int(number) if number.isdigit() else None for number in given)
    try:
        jax.distributed.initialize(
            num_processes=num_processes,
            process_id=process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        remedy = "start it by srun, mpirun or on a TPU pod, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and"
        said = str(error).strip().partition("\n")[0]
        raise ValueError(f"distributed: {said} ({remedy} JAX_PROCESS_ID)") from error


def is_first() -> bool:
    """Returns whether this is process 0, which decides, and alone writes logs."""
    return jax.process_index() == 0
