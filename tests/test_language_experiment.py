"""The script that trains small language models: its command line, its file, what it refuses."""

import pytest
from scripts import load_script

tasks = load_script("benchmarks/language_tasks")


@pytest.fixture(scope="module")
def script():
    return load_script("language_tokens")


COMMANDS = {
    "reverse-5": [],
    "sort-8": ["--task", "sort", "--value", "trunk", "--warm-up", "0.1", "--objective", "clip_higher"],
    "addition-3": ["--task", "addition", "--size", "3", "--reference-kl", "0.1", "--kl-adapts-to", "5"],
    "summary-3": ["--task", "summary", "--baseline", "dr_grpo", "--group-size", "4", "--top-k", "3"],
    "question_answering-4": ["--task", "question_answering", "--shuffle-rewards", "--hidden-size", "32"],
    "translation-2": ["--task", "translation", "--size", "2", "--dense", "--value-lambda", "1.0", "--num-epochs", "2"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_line_is_an_experiment_that_can_be_written_down_and_built(script, name, tmp_path):
    experiment, output = script.parse(COMMANDS[name])
    experiment.validate()
    assert experiment.name == name and name in str(output)
    experiment.save(tmp_path / "config.json")
    assert script.LanguageExperiment.load(tmp_path / "config.json") == experiment
    environment = experiment.build().environment
    assert environment.name == name and environment.action_space.n == experiment.decoder.vocab_size


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--max-position-embeddings", "4"], "max_position_embeddings must be at least 12 for reverse-5, got 4"),
        (["--num-seeds", "0"], "num_seeds must be at least 1, got 0"),
        (["--num-key-value-heads", "3"], "num_key_value_heads must divide num_attention_heads = 4, got 3"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(script, arguments, words):
    with pytest.raises(ValueError) as caught:
        script.parse(arguments)[0].validate()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_resumed_run_takes_its_own_configuration(script, tmp_path):
    experiment, _ = script.parse([])
    experiment.save(tmp_path / "config.json")
    resumed, folder = script.resumed(["--resume", str(tmp_path), "--total-steps", "7"], script.LanguageExperiment)
    assert folder == tmp_path and resumed.total_steps == 7 and resumed.config == experiment.config
    with pytest.raises(ValueError, match="only --total-steps can be given, not --size"):
        script.resumed(["--resume", str(tmp_path), "--size", "3"], script.LanguageExperiment)
    with pytest.raises(ValueError, match="holds no run"):
        script.resumed(["--resume", str(tmp_path / "nothing")], script.LanguageExperiment)


@pytest.mark.slow
@pytest.mark.parametrize("case", tasks.CASES, ids=lambda case: case.name)
def test_tasks_are_learned_from_scratch(case):
    for seed in range(case.num_seeds):
        assert case.least <= tasks.learn(case, seed)["exact"] <= case.most
