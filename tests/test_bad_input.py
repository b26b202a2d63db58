"""Bad input of every kind is refused in one line, before anything is compiled or written."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from scripts import load_script

import gaejax
from gaejax.language import load
from gaejax.language.files import templates
from gaejax.training import Experiment, read_metrics, run_experiment
from gaejax.training.metrics import env_steps_at
from gaejax.training.sizes import check_sizes, least_sizes

fuzz = load_script("benchmarks/fuzz")
CONFIG = gaejax.PPOConfig(num_envs=4, num_steps=8)
EXPERIMENT = Experiment(environment="CartPole-v1", config=CONFIG, total_steps=320, num_seeds=2)


@pytest.mark.parametrize(
    ("kind", "count"), [("damages", 15), ("command lines", 20), ("configs", 400), ("gae", 60), ("folders", 30)]
)
def test_no_traceback_and_nothing_accepted_that_cannot_work(kind, count):
    line, failures = fuzz.run_kind(kind, count, seed=1, quick=True)
    assert not failures and line["refused"] > count / 3


@pytest.mark.parametrize("field", ["seed", "num_seeds", "config.learning_rate", "config.num_envs", "policy.memory"])
def test_an_edited_field_is_noticed_and_named(field, tmp_path):
    path = tmp_path / "config.json"
    dataclasses.replace(EXPERIMENT, policy={"memory": "gru"}).save(path)
    assert Experiment.load(path).policy == {"memory": "gru"}
    fields = json.loads(path.read_text())
    *outer, name = field.split(".")
    place = fields[outer[0]] if outer else fields
    place[name] = "none" if name == "memory" else 2 * place[name] + 1
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"config.json: {field} = .* is not what was written: undo the edit"):
        Experiment.load(path)


def test_a_run_of_an_earlier_version_without_a_digest_is_loaded(tmp_path):
    path = tmp_path / "config.json"
    EXPERIMENT.save(path)
    fields = json.loads(path.read_text())
    del fields["digest"]
    path.write_text(json.dumps(fields))
    assert Experiment.load(path) == EXPERIMENT


TABLE = "seed,update,env_steps,entropy\n0,1,5,0.5\n1,1,6,0.5\n0,2,9,0.5\n1,2,9,0.5\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("0,2,9,0.5", "0,2,9"), "line 4 has 3 columns of 4"),
        (lambda text: text.replace("0,2,9", "0,2,x"), "line 4: env_steps must be a number, got 'x'"),
        (lambda text: text.replace("0,2,9", "0,2,1.5"), "line 4: env_steps must be a whole number"),
        (lambda text: text.replace("0,2,9", "0,2,1"), "env_steps of seed 0 must not fall"),
        (lambda text: text.replace("1,1,6,0.5\n", ""), "the lines of seed 1 do not have the updates of the others"),
        (lambda text: text.replace("update", "step"), "its first line names no column update"),
    ],
)
def test_a_damaged_table_is_refused_with_its_path_and_line(damage, message, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(TABLE)
    assert len(read_metrics(path)) == 4
    np.testing.assert_array_equal(env_steps_at(path, 2, 2), [9, 9])
    with pytest.raises(ValueError, match="no lines up to update 3"):
        env_steps_at(path, 3, 2)
    path.write_text(TABLE + "0,3,9,0.5\n1,3,")  # as a crash after the checkpoint of update 2 leaves it
    np.testing.assert_array_equal(env_steps_at(path, 2, 2), [9, 9])
    for half in (TABLE + "0,3,9", TABLE + "0,3,9,0.5\n", TABLE + "0,3,9,0.5\n1,3,"):
        path.write_text(half)
        assert len(read_metrics(path)) == 4
    path.write_text(damage(TABLE))
    with pytest.raises(ValueError, match=f"metrics.csv is damaged: {message}"):
        read_metrics(path)


UNFIT = [
    (dict(config=CONFIG.replace(num_envs=3), policy={"memory": "gru"}), "num_minibatches must divide num_envs = 3"),
    (dict(config=CONFIG.replace(num_minibatches=3)), "num_minibatches must divide"),
    (dict(config=CONFIG.replace(num_minibatches=32)), "num_minibatches must leave at least 2 of 32 transitions"),
    (dict(config=CONFIG.replace(num_minibatches=8), policy={"memory": "gru"}), "num_minibatches must divide num_envs"),
    (dict(policy={"encoder": "cnn"}), "inputs of cnn must be images"),
    (dict(policy={"squash": True}), "squash needs real actions"),
    (dict(policy={"memory": "transformer", "memory_size": 7}), "size must be a multiple of"),
    (dict(policy={"memory": "gru", "memory_size": 10**8}), "must be lowered"),
    (dict(options={"estimator": "retrace"}), "estimator retrace needs a policy of action values"),
    (dict(options={"schedules": {"discount": "linear"}}), "anneal_steps must be the transitions"),
    (dict(options={"schedules": {"num_envs": "linear"}}), "schedules must be of float fields"),
    (dict(options={"objective": "x"}), "objective must be one of"),
    (dict(options={"optimizer": None}), "options cannot hold optimizer"),
    (dict(environment_arguments={"gravity": np.ones(2)}), "environment_arguments must be made of finite numbers"),
    (dict(environment_arguments={"gravity": (1,)}), r"gravity must be a number, such as 9.8, got \(1,\)"),
    (dict(seed=2**32), r"seed must be between 0 and 2\*\*32 - 1"),
    (dict(eval_episodes=10**9), "eval_episodes must be lowered: 1,000,000,000 episodes"),
    (dict(num_seeds=10**9), "num_seeds must be lowered"),
    (dict(total_steps=10**30), "total_steps must be at most"),
    (dict(config=CONFIG.replace(num_envs=10**9)), r"num_envs \* num_steps must be at most"),
    (dict(config=gaejax.A2CConfig()), "config must be a PPOConfig, since algorithm is 'ppo', got a A2CConfig"),
    (dict(config={}), "config must be a PPOConfig"),
    (dict(environment=None), "environment must be a gaejax.Environment, got None"),
]


@pytest.mark.parametrize("case", range(len(UNFIT)))
def test_what_the_trace_would_refuse_leaves_no_folder(case, tmp_path):
    changes, message = UNFIT[case]
    with pytest.raises(ValueError, match=message) as caught:
        run_experiment(dataclasses.replace(EXPERIMENT, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_the_first_check_of_sizes_counts_what_is_there():
    algorithm = EXPERIMENT.build()
    needs = least_sizes(EXPERIMENT, algorithm)
    state = jax.eval_shape(lambda key: algorithm.init(key, CONFIG), jax.random.key(0)).params
    assert needs.state > 2 * 3 * 4 * sum(leaf.size for leaf in jax.tree.leaves(state))  # and Adam's moments
    assert needs.rollout > 2 * 8 * 4 * 4 * 4  # the observations alone
    check_sizes(EXPERIMENT, algorithm, memory=needs.state + needs.rollout)
    with pytest.raises(ValueError, match="num_seeds must be lowered: the state and one rollout of 2 seeds need"):
        check_sizes(EXPERIMENT, algorithm, memory=needs.state + needs.rollout - 1)


@pytest.mark.parametrize("value", [-1, 1.5, float("inf"), float("nan"), np.float32(2), np.full((3, 1), 2.0)])
@pytest.mark.parametrize("name", ["discount", "gae_lambda"])
def test_discount_and_lambda_are_shares_unless_they_are_traced(name, value):
    flags = np.zeros((3, 1), bool)
    given = dict.fromkeys(("rewards", "values", "next_values"), np.ones((3, 1), np.float32))
    given |= dict(terminated=flags, truncated=flags, discount=0.9, gae_lambda=0.9)
    with pytest.raises(ValueError, match=f"{name} must be between 0 and 1, got"):
        gaejax.gae(**given | {name: value})
    jax.eval_shape(lambda traced: gaejax.gae(**given | {name: traced}), jax.ShapeDtypeStruct((), np.float32))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LunarLander-v3", "unknown environment 'LunarLander-v3': gymnasium has it"),
        ("ALE/Pong-v5", "ale_py has it"),
        ("Reacher-v5", "did you mean Reacher-misc"),
        (None, "environment must be a gaejax.Environment, got None"),
        (object(), "environment must be a gaejax.Environment, got a object"),
    ],
)
def test_environments_of_other_packages_are_told_apart(name, message):
    with pytest.raises(ValueError, match=message):
        gaejax.make(name)


def test_a_template_is_stopped_when_it_uses_up_its_time(monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 0)
    with pytest.raises(ValueError, match="chat template cannot be used: it takes too much time or memory"):
        templates.render("{{ 10**(10**9) }}", [[{"role": "user", "content": "x"}]], {})


def test_many_conversations_are_rendered_as_each_alone():
    tokenizer = load(fuzz.GOLDEN / "llama").tokenizer
    conversations = [[{"role": "user", "content": text}] for text in ("one", "two {{ 1 }}")]
    assert tokenizer.chats(conversations) == [tokenizer.chat(messages) for messages in conversations]


def test_the_caches_links_are_followed_and_no_others(tmp_path):
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "main", tmp_path / "hub" / "blobs"
    shutil.copytree(fuzz.GOLDEN / "smollm2", snapshot)
    blobs.mkdir()
    (snapshot / "model.safetensors").rename(blobs / "weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/weights")
    assert load(snapshot).config.vocab_size
    (blobs / "weights").rename(tmp_path / "weights")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../../weights")
    with pytest.raises(ValueError, match=r"model\.safetensors must be a file in its folder, and is a link"):
        load(snapshot)


class TimeLimit:
    """As Gymnasium wraps its environments."""

    unwrapped = None


TimeLimit.__module__ = "gymnasium.wrappers.common"


@pytest.mark.parametrize(
    "call",
    [
        gaejax.mlp_policy,
        gaejax.policies.make_policy,
        gaejax.training.preset,
        gaejax.environments.auto_reset,
        gaejax.environments.rescale_actions,
        lambda environment: gaejax.ppo(environment, None),
        lambda environment: dataclasses.replace(EXPERIMENT, environment=environment).validate(),
        lambda environment: gaejax.make(environment),
    ],
)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (TimeLimit(), "got a gymnasium.wrappers.common.TimeLimit: its step is ordinary Python, which JAX cannot"),
        (None, "got None: make one with gaejax.make"),
    ],
)
def test_an_object_of_another_library_is_told_what_to_use_instead(call, given, words):
    with pytest.raises((TypeError, ValueError), match=f"environment must be a gaejax.Environment, {words}") as caught:
        call(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{}, None, gaejax.A2CConfig(), gaejax.PPOConfig, 3])
def test_the_config_of_another_algorithm_is_refused_and_so_is_what_is_none(given):
    algorithm = EXPERIMENT.build()
    with pytest.raises(TypeError, match="config of ppo must be a PPOConfig, got"):
        gaejax.train(algorithm, jax.random.key(0), given, 10)
    with pytest.raises(TypeError, match=r"key must be one key, such as jax.random.key\(0\), got 0"):
        gaejax.train(algorithm, 0, CONFIG, 10)
    with pytest.raises(TypeError, match=r"algorithm must be an Algorithm, such as gaejax\.ppo"):
        gaejax.train("ppo", jax.random.key(0), CONFIG, 10)
    with pytest.raises(TypeError, match="state must be a training state"):
        gaejax.evaluate(algorithm, given, jax.random.key(0))


@pytest.mark.parametrize("name", gaejax.algorithms.ALGORITHMS)
def test_what_is_no_policy_is_told_to_every_algorithm(name):
    if name != "reinforce":  # which has a default
        with pytest.raises(TypeError, match=r"policy must be a gaejax\.Policy, got None: make one with"):
            gaejax.algorithms.ALGORITHMS[name].make(gaejax.make("CartPole-v1"), None)


def test_what_is_no_experiment_is_told(tmp_path):
    with pytest.raises(TypeError, match=r"experiment must be a gaejax\.Experiment, got a NoneType"):
        run_experiment(None, tmp_path / "run")
