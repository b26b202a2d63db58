"""Checkpoints: the whole training state, and nothing but the state."""

import operator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


def save_checkpoint(folder: Path | str, state: Any, step: int) -> None:
    """Writes `state` into `folder` and then removes what was there, so that at any moment one checkpoint is whole.

    The checkpoint is a folder that is called `step`, or by the next free number if a checkpoint with this number or a
    higher one is there: the highest number is always the newest state.

    Args:
      folder: Where to write; it is made if it does not exist.
      state: A pytree of arrays.
      step: A whole number of at least 0, usually the updates taken.

    Raises:
      ValueError: for any other step.
    """
    import orbax.checkpoint as ocp  # slow to import, and needed only here

    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if isinstance(step, bool) or number < 0:
        raise ValueError(f"step must be a whole number of at least 0, got {step!r}")
    with _manager(folder) as manager:
        latest = manager.latest_step()
        number = number if latest is None else max(number, latest + 1)
        manager.save(number, args=ocp.args.StandardSave(_without_empty(state)), force=True)


def load_checkpoint(folder: Path | str, like: Any) -> Any:
    """Returns the newest state in `folder`, bit for bit.

    Args:
      folder: Where `save_checkpoint` wrote.
      like: A state of the same structure, shapes and dtypes, or its `jax.eval_shape`.

    Raises:
      ValueError: if there is none, or if it does not fit `like`; then the message names the first leaf that differs.
    """
    import orbax.checkpoint as ocp

    if not Path(folder).is_dir():
        raise ValueError(f"there is no checkpoint in {folder}")
    with _manager(folder) as manager:
        step = manager.latest_step()
        if step is None:
            raise ValueError(f"there is no checkpoint in {folder}")
        wanted = _without_empty(like)
        _check_fit(folder, manager.item_metadata(step), wanted)
        try:
            restored = iter(jax.tree.leaves(manager.restore(step, args=ocp.args.StandardRestore(wanted))))
        except (KeyError, TypeError, ValueError) as error:  # a structure that has no arrays, such as a None
            said = str(error).strip().splitlines()
            raise ValueError(f"the checkpoint in {folder} does not fit: {said[0] if said else error!r}") from error
        return jax.tree.map(lambda leaf: next(restored) if leaf.size else jnp.zeros(leaf.shape, leaf.dtype), like)


def _check_fit(folder: Path | str, stored: Any, wanted: Any) -> None:
    """Compares the stored shapes with the wanted ones before anything is read."""
    there = {_names(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(stored, "tree", stored))}
    here = {_names(path): (path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
    for names, (path, leaf) in here.items():
        theirs = _described(there[names]) if names in there else "missing"
        if theirs != _described(leaf):
            where = jax.tree_util.keystr(path).lstrip(".")
            raise ValueError(
                f"the checkpoint in {folder} does not fit: {where} is {theirs} there, {_described(leaf)} here"
            )
    for names in there:
        if names not in here:
            where = ".".join(names)
            described = f"{where} is {_described(there[names])} there, missing here"
            raise ValueError(f"the checkpoint in {folder} does not fit: {described}")


def _names(path: tuple) -> tuple[str, ...]:
    """The path of a leaf as names, which are the same for a named tuple and for the dict that it is stored as."""
    return tuple(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path)


def _described(leaf: Any) -> str:
    """Shape and dtype, of keys those of their data."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return f"{jnp.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _without_empty(state: Any) -> Any:
    """The state without arrays of size 0, which the format cannot hold."""
    return jax.tree.map(lambda leaf: leaf if leaf.size else None, state)


def _manager(folder: Path | str) -> Any:
    import orbax.checkpoint as ocp

    # The manager keeps the highest number, and removes the others only when the new one is whole.
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    handler = ocp.StandardCheckpointHandler()
    return ocp.CheckpointManager(Path(folder).absolute(), options=options, item_handlers=handler)
