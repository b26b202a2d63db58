"""Checkpoints: the whole training state, and nothing but the state."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


def save_checkpoint(folder: Path | str, state: Any, step: int) -> None:
    """Writes `state` into `folder`, as of `step`, then removes older ones: at any moment one is whole."""
    import orbax.checkpoint as ocp  # slow to import, and needed only here

    with _manager(folder) as manager:
        if manager.latest_step() != step:  # a step is a state: what is there already need not be written again
            manager.save(step, args=ocp.args.StandardSave(_without_empty(state)), force=True)


def load_checkpoint(folder: Path | str, like: Any) -> Any:
    """Reads the newest state in `folder`, bit for bit.

    Args:
      folder: where `save_checkpoint` wrote.
      like: a state of the same structure, shapes and dtypes, or its `jax.eval_shape`.

    Raises:
      ValueError: if there is none.
    """
    import orbax.checkpoint as ocp

    if not Path(folder).is_dir():
        raise ValueError(f"there is no checkpoint in {folder}")
    with _manager(folder) as manager:
        step = manager.latest_step()
        if step is None:
            raise ValueError(f"there is no checkpoint in {folder}")
        restored = iter(jax.tree.leaves(manager.restore(step, args=ocp.args.StandardRestore(_without_empty(like)))))
        return jax.tree.map(lambda leaf: next(restored) if leaf.size else jnp.zeros(leaf.shape, leaf.dtype), like)


def _without_empty(state: Any) -> Any:
    """The state without arrays of size 0, which the format cannot hold."""
    return jax.tree.map(lambda leaf: leaf if leaf.size else None, state)


def _manager(folder: Path | str) -> Any:
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    return ocp.CheckpointManager(Path(folder).absolute(), options=options)
