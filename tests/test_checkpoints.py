"""Checkpoints: the newest whole state, bit for bit, or one line that says what does not fit."""

import errno
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gaejax
from gaejax.training import load_checkpoint, save_checkpoint
from gaejax.training.checkpoints import CHECKSUMS, Saver, load_notes, set_aside_after, whole_checkpoints
from gaejax.training.files import locked, write_whole

STATE = {"a": jnp.arange(3.0), "none": (jnp.zeros((2, 0), jnp.int32), ()), "key": jax.random.key(3)}


def test_a_checkpoint_holds_arrays_without_elements_too(tmp_path):
    save_checkpoint(tmp_path, STATE, 1)
    restored = load_checkpoint(tmp_path, jax.eval_shape(lambda: STATE))
    assert jax.tree.structure(restored) == jax.tree.structure(STATE)
    assert restored["none"][0].shape == (2, 0) and restored["none"][0].dtype == jnp.int32
    np.testing.assert_array_equal(restored["a"], STATE["a"])


def test_the_newest_of_several_states_is_kept_whatever_their_steps(tmp_path):
    """The same step again, and a step below that of an older run in the same folder."""
    for value, step in enumerate((0, 0, 10, 5, 6, 6, np.int64(20))):
        save_checkpoint(tmp_path, {"a": jnp.full(2, value)}, step)
        np.testing.assert_array_equal(load_checkpoint(tmp_path, {"a": jnp.zeros(2, jnp.int32)})["a"], value)
        assert len(list(tmp_path.iterdir())) == 1
    assert [folder.name for folder in tmp_path.iterdir()] == ["20"]


@pytest.mark.parametrize("step", [475.3, 2.0, -1, True, None, "3"])
def test_a_step_is_a_whole_number_and_what_is_there_stays(step, tmp_path):
    save_checkpoint(tmp_path, STATE, 1)
    with pytest.raises(ValueError, match="step must be a whole number of at least 0, got"):
        save_checkpoint(tmp_path, STATE, step)
    np.testing.assert_array_equal(load_checkpoint(tmp_path, STATE)["a"], STATE["a"])


@pytest.mark.parametrize(
    "like, words",
    [
        ({**STATE, "a": jnp.zeros(4)}, "['a'] is float32[3] there, float32[4] here"),
        ({**STATE, "a": jnp.zeros(3, jnp.int32)}, "['a'] is float32[3] there, int32[3] here"),
        ({**STATE, "b": jnp.zeros(1)}, "['b'] is missing there, float32[1] here"),
        ({"a": STATE["a"]}, "key is uint32[2] there, missing here"),
        ({**STATE, "key": jax.random.key(0, impl="rbg")}, "['key'] is uint32[2] there, uint32[4] here"),
    ],
)
def test_a_state_of_another_shape_is_refused_with_the_first_leaf_that_differs(like, words, tmp_path):
    save_checkpoint(tmp_path, STATE, 1)
    with pytest.raises(ValueError) as caught:
        load_checkpoint(tmp_path, like)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_training_state_of_another_size_is_refused_in_one_line(tmp_path):
    environment = gaejax.make("CartPole-v1")
    algorithm = gaejax.ppo(environment, gaejax.mlp_policy(environment, (4,)))
    config = gaejax.PPOConfig(num_envs=4, num_steps=8)
    save_checkpoint(tmp_path, algorithm.init(jax.random.key(0), config), 0)
    like = jax.eval_shape(lambda: algorithm.init(jax.random.key(0), config.replace(num_envs=8)))
    with pytest.raises(ValueError, match=r"does not fit: rollout\.environment.* is .*\[4\] there, .*\[8\] here"):
        load_checkpoint(tmp_path, like)


class Pair:
    """A pytree that says nothing about the names of its parts."""

    def __init__(self, first, second):
        self.parts = first, second


jax.tree_util.register_pytree_node(Pair, lambda pair: (pair.parts, None), lambda _, parts: Pair(*parts))


def test_states_hold_pytrees_of_any_kind(tmp_path):
    state = {"pair": Pair(jnp.arange(3), jnp.zeros((2, 0))), "list": [jnp.ones(2), None, ({"x": jnp.zeros(1)},)]}
    save_checkpoint(tmp_path, state, 0)
    restored = load_checkpoint(tmp_path, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    np.testing.assert_array_equal(restored["pair"].parts[0], [0, 1, 2])


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="there is no checkpoint in"):
            load_checkpoint(folder, STATE)


def save_twice(folder):
    """Saves zeros and then ones, and keeps both."""
    saver = Saver(folder)
    for value in (0.0, 1.0):
        saver.save({"a": jnp.full(3, value)}, int(value))
    saver.wait()


def test_a_flipped_bit_in_any_file_is_found_and_the_checkpoint_before_is_taken(tmp_path, capsys):
    save_twice(tmp_path)
    files = [path for path in (tmp_path / "1").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        np.testing.assert_array_equal(load_checkpoint(tmp_path, {"a": jnp.ones(3)})["a"], np.zeros(3))
        error = capsys.readouterr().err
        assert error.startswith(f"warning: the checkpoint {tmp_path / '1'} is damaged") and error.count("\n") == 1
        path.write_bytes(whole)
    np.testing.assert_array_equal(load_checkpoint(tmp_path, {"a": jnp.ones(3)})["a"], np.ones(3))


def test_where_every_checkpoint_is_damaged_one_line_says_so(tmp_path):
    save_checkpoint(tmp_path, STATE, 7)
    shutil.rmtree(tmp_path / "7" / "default")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
        load_checkpoint(tmp_path, STATE)


def test_a_damaged_checkpoint_is_set_aside_where_a_run_goes_on_from_the_one_before(tmp_path):
    save_twice(tmp_path)
    set_aside_after(tmp_path / "0")
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1.damaged"}
    save_checkpoint(tmp_path, STATE, 1)
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["1"]


def test_what_a_kill_left_half_written_is_not_loaded_and_goes_with_the_next_save(tmp_path):
    save_checkpoint(tmp_path, STATE, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    (tmp_path / "2" / CHECKSUMS).unlink()
    (tmp_path / "3" / "default.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "mine").mkdir()
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["1"]
    load_checkpoint(tmp_path, STATE)
    save_checkpoint(tmp_path, STATE, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"2", "mine"}


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
    """The two newest are kept, with their notes, and the best in a folder of its own."""
    add = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state, saver = {"a": jnp.zeros(300_000), "b": jnp.zeros(())}, Saver(tmp_path / "checkpoint")
    for step in range(5):
        saver.save(state, step, {"step": step, "nan": float("nan")}, tmp_path / "best" if step in (1, 3) else None)
        for _ in range(3):
            state = add(state)
    saver.wait()
    assert [path.name for path in whole_checkpoints(tmp_path / "checkpoint")] == ["3", "4"]
    newest, best = (load_checkpoint(tmp_path / name, state)["a"] for name in ("checkpoint", "best"))
    np.testing.assert_array_equal(newest, np.full(300_000, 12.0))
    np.testing.assert_array_equal(best, np.full(300_000, 9.0))
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["3"]
    assert load_notes(tmp_path / "best" / "3")["step"] == 3


def test_a_disk_without_room_is_noticed_before_orbax_is(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=2**20))
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(tmp_path, STATE, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["copy_to_the_host", "background"])
def test_an_error_is_raised_where_it_is_waited_for_and_the_checkpoint_before_stays(where, tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    save_checkpoint(tmp_path, STATE, 1)

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    saver = Saver(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.AsyncCheckpointer, "save" if where == "copy_to_the_host" else "wait_until_finished", fail)
        with pytest.raises(OSError, match="No space left"):
            saver.save(STATE, 2)
            saver.wait()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()][:1] == ["1"]
    load_checkpoint(tmp_path, STATE)
    saver.save(STATE, 3)
    saver.wait()
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["1", "3"]


@pytest.mark.parametrize("name", ["lr[0.1]", "a\\b", "with a space", "a*b?", "{a,b}", "ü%20#"])
def test_folders_may_have_names_that_libraries_read_as_patterns(name, tmp_path):
    save_checkpoint(tmp_path / name, STATE, 1)
    np.testing.assert_array_equal(load_checkpoint(tmp_path / name, STATE)["a"], STATE["a"])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_checkpoint_from_before_there_were_checksums_is_loaded_and_kept_until_the_next(tmp_path):
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager(tmp_path, options=options, item_handlers=ocp.StandardCheckpointHandler()) as manager:
        manager.save(4, args=ocp.args.StandardSave({"a": jnp.arange(3.0)}))
    np.testing.assert_array_equal(load_checkpoint(tmp_path, {"a": jnp.zeros(3)})["a"], [0, 1, 2])
    with pytest.raises(ValueError, match=r"has no notes\.json"):
        load_notes(tmp_path / "4")
    save_checkpoint(tmp_path, STATE, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["5"]


def test_a_file_is_the_old_or_the_new_one(tmp_path, monkeypatch):
    write_whole(tmp_path / "a.json", "old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="No space left"):
            write_whole(tmp_path / "a.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "old"


def test_a_folder_has_one_owner_at_a_time(tmp_path):
    refused = pytest.raises(ValueError, match=r"another process is writing to .*run: wait")
    with locked(tmp_path / "run"), refused, locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        pass
