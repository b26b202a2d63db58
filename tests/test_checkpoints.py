"""Checkpoints: the newest whole state, bit for bit, or one line that says what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gaejax
from gaejax.training import load_checkpoint, save_checkpoint

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
