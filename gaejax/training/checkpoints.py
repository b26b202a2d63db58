"""Checkpoints: the whole training state, and nothing but the state.

A checkpoint is a folder with a number for a name: the arrays as Orbax writes them in `default/`, notes of the host
in `notes.json`, and last the checksums of all of it in `checksums.json`, without which it counts as half written.
"""

import hashlib
import json
import operator
import os
import shutil
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gaejax.training.devices import agreed, is_first
from gaejax.training.files import PART, check_room, without_patterns, write_whole

ARRAYS, NOTES, CHECKSUMS = "default", "notes.json", "checksums.json"
BYTES_OF_FORMAT = 2**20
"""More than what a checkpoint takes on a disk beside its arrays."""
EARLIER = "_CHECKPOINT_METADATA"
"""What a whole checkpoint has that was written before there were checksums."""


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
    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if isinstance(step, bool) or number < 0:
        raise ValueError(f"step must be a whole number of at least 0, got {step!r}")
    saver = Saver(folder, keep=1)
    saver.save(state, number)
    saver.wait()


def load_checkpoint(folder: Path | str, like: Any) -> Any:
    """Returns the newest state in `folder`, bit for bit.

    A damaged checkpoint, one whose files have other checksums than when they were written, is named in a warning on
    stderr, and the one before it is taken.

    Args:
      folder: Where `save_checkpoint` wrote.
      like: A state of the same structure, shapes and dtypes, or its `jax.eval_shape`. What is saved on other devices is
        put on those of `like`, or on the first one if it does not say.

    Raises:
      ValueError: if there is none, if all are damaged, or if it does not fit `like`; then the message names the first
        leaf that differs.
    """
    return load_newest(folder, like)[0]


def load_newest(folder: Path | str, like: Any) -> tuple[Any, Path]:
    """Returns what `load_checkpoint` does, and the checkpoint that it was read from."""
    checkpoint = Path(folder) / str(agreed(int(_newest_undamaged(Path(folder)).name)))
    with without_patterns(checkpoint) as readable:
        return _restore(readable / ARRAYS, folder, like), checkpoint


def load_notes(checkpoint: Path) -> dict[str, Any]:
    """Returns the notes that were saved with a checkpoint.

    Raises:
      ValueError: if there are none.
    """
    path = checkpoint / NOTES
    if not path.is_file():
        raise ValueError(
            f"{checkpoint} has no {NOTES}: it was written by an earlier version, and cannot be gone on from"
        )
    return json.loads(path.read_text("utf-8"))


def whole_checkpoints(folder: Path | str) -> list[Path]:
    """Returns the checkpoints in `folder` that were written to their end, oldest first."""
    folder = Path(folder)
    found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    found = [path for path in found if (path / CHECKSUMS).is_file() or (path / EARLIER).is_file()]
    return sorted(found, key=lambda path: int(path.name))


def set_aside_after(checkpoint: Path) -> None:
    """Renames the checkpoints that are newer than this one, which are damaged, so that they no longer count."""
    for path in whole_checkpoints(checkpoint.parent):
        if int(path.name) > int(checkpoint.name):
            path.rename(path.with_name(f"{path.name}.damaged"))


class Saver:
    """Writes the checkpoints of a folder in the background, one after the other.

    Where several processes train together, all of them make the same calls; each writes the arrays that it has, and
    process 0 the rest.

    Args:
      folder: Where to write; it is made if it does not exist.
      keep: How many of the newest checkpoints remain.
    """

    def __init__(self, folder: Path | str, keep: int = 2):
        self.folder, self.keep = Path(folder), keep
        self.thread: threading.Thread | None = None
        self.error: Exception | None = None

    def save(self, state: Any, step: int, notes: Any = None, copy_to: Path | None = None) -> None:
        """Waits for the last checkpoint, copies the state to the host, and returns; the rest is done in the background.

        Args:
          state: A pytree of arrays; it may be donated afterwards.
          step: As in `save_checkpoint`.
          notes: What JSON can hold, for `load_notes`.
          copy_to: A folder that gets the only copy of this checkpoint when it is whole.

        Raises:
          Exception: as `wait`, of the last checkpoint; and whatever goes wrong with this one up to the copy.
        """
        import orbax.checkpoint as ocp  # slow to import, and needed only here

        self.wait()
        if is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            _remove_halves(self.folder)
        target = self.folder / str(agreed(int(_next(self.folder, step).name)))
        check_room(self.folder, sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + BYTES_OF_FORMAT)
        with ExitStack() as stack:
            readable = stack.enter_context(without_patterns(self.folder))
            checkpointer = stack.enter_context(ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()))
            arguments = ocp.args.StandardSave(_without_empty(state))
            checkpointer.save(readable / target.name / ARRAYS, args=arguments)
            rest = stack.pop_all()

        def finish() -> None:
            try:
                with rest:
                    checkpointer.wait_until_finished()
                if is_first():
                    write_whole(target / NOTES, json.dumps(notes))
                    write_whole(target / CHECKSUMS, json.dumps(_checksums(target), indent=1))
                    _remove_old(self.folder, self.keep)
                    if copy_to is not None:
                        _copy(target, copy_to)
            except Exception as error:
                self.error = error
                if is_first():
                    _remove_halves(self.folder)  # a full disk has no room for them

        self.thread = threading.Thread(target=finish, name="checkpoint")
        self.thread.start()

    def is_done(self) -> bool:
        """Returns whether nothing is being written."""
        return self.thread is None or not self.thread.is_alive()

    def wait(self) -> None:
        """Waits until what was begun is written.

        Raises:
          Exception: whatever went wrong with it; a full disk, for example.
        """
        if self.thread is not None:
            self.thread.join()
        error, self.thread, self.error = self.error, None, None
        if error is not None:
            raise error


def _next(folder: Path, step: int) -> Path:
    """The folder of a new checkpoint: its number is the highest."""
    there = whole_checkpoints(folder)
    return folder / str(max(step, int(there[-1].name) + 1) if there else step)


def _copy(checkpoint: Path, folder: Path) -> None:
    """Makes a copy of `checkpoint` the only one in `folder`."""
    folder.mkdir(exist_ok=True)
    _remove_halves(folder)
    target = _next(folder, int(checkpoint.name))
    part = folder / (PART + target.name)
    shutil.copytree(checkpoint, part)
    os.replace(part, target)
    _remove_old(folder, keep=1)


def _remove_halves(folder: Path) -> None:
    """Removes what kills left: nothing else writes to this folder."""
    whole = whole_checkpoints(folder)
    for path in folder.iterdir():
        is_part = path.name.startswith(PART) or "orbax-checkpoint-tmp" in path.name or path.name.isdigit()
        if is_part and path.is_dir() and path not in whole:
            shutil.rmtree(path, ignore_errors=True)


def _remove_old(folder: Path, keep: int) -> None:
    for path in whole_checkpoints(folder)[:-keep]:
        (path / CHECKSUMS).unlink(missing_ok=True)  # from now on it is not whole
        shutil.rmtree(path)


def _checksums(checkpoint: Path) -> dict[str, str]:
    """The checksum of each file by its path in the checkpoint."""
    digests = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path != checkpoint / CHECKSUMS:
            with path.open("rb") as file:
                digests[path.relative_to(checkpoint).as_posix()] = hashlib.file_digest(file, "blake2b").hexdigest()
    return digests


def _damaged(checkpoint: Path) -> str | None:
    """A file of the checkpoint that is not as it was written, if there is one."""
    if not (checkpoint / CHECKSUMS).is_file():  # of an earlier version
        return None
    try:
        written = json.loads((checkpoint / CHECKSUMS).read_text("utf-8"))
        found = _checksums(checkpoint)
        return next((name for name, digest in written.items() if found.get(name) != digest), None)
    except (ValueError, AttributeError, OSError):
        return CHECKSUMS


def _newest_undamaged(folder: Path) -> Path:
    """The newest checkpoint whose files are as they were written."""
    there = whole_checkpoints(folder)
    for path in reversed(there):
        name = _damaged(path)
        if name is None:
            return path
        print(f"warning: the checkpoint {path} is damaged, it is not used: {name} has changed", file=sys.stderr)
    raise ValueError(f"every checkpoint in {folder} is damaged" if there else f"there is no checkpoint in {folder}")


def _restore(arrays: Path, folder: Path | str, like: Any) -> Any:
    """Reads a state; `folder` is how errors name it."""
    import orbax.checkpoint as ocp

    with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        wanted = _placed(_without_empty(like))
        _check_fit(folder, _stored(checkpointer.metadata(arrays)), wanted)
        try:
            restored = iter(jax.tree.leaves(checkpointer.restore(arrays, args=ocp.args.StandardRestore(wanted))))
        except (KeyError, TypeError, ValueError) as error:  # a structure that has no arrays, such as a None
            said = str(error).strip().splitlines()
            raise ValueError(f"the checkpoint in {folder} does not fit: {said[0] if said else error!r}") from error
        return jax.tree.map(lambda leaf: next(restored) if leaf.size else jnp.zeros(leaf.shape, leaf.dtype), like)


def _stored(metadata: Any) -> Any:
    """The tree of shapes and dtypes in what Orbax says of a checkpoint."""
    metadata = getattr(metadata, "item_metadata", metadata)
    return getattr(metadata, "tree", metadata)


def _check_fit(folder: Path | str, stored: Any, wanted: Any) -> None:
    """Compares the stored shapes with the wanted ones before anything is read."""
    there = {_names(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(stored)}
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


def _placed(like: Any) -> Any:
    """Puts what has no place on the first device: that where it was saved may not be here."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def shape(leaf: Any) -> Any:
        sharding = getattr(leaf, "sharding", None) or place
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape, like)


def _without_empty(state: Any) -> Any:
    """The state without arrays of size 0, which the format cannot hold."""
    return jax.tree.map(lambda leaf: leaf if leaf.size else None, state)
