"""The script that post-trains a pretrained model, end to end on a tiny one, and what it refuses."""

import json
from pathlib import Path

import jax
import pytest
from scripts import load_script

MODEL = Path(__file__).parent / "golden" / "language" / "llama"
TINY = ["--model", str(MODEL), "--frozen-layers", "1", "--max-response", "5", "--num-envs", "8", "--eval-episodes", "6"]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The script, with prompts and a score that need no other package; what it sets globally is set back."""
    module = load_script("language_sentiment")
    module.vader = lambda prompts, responses: [response.count("a") / 5 for response in responses]
    yield module
    jax.config.update("jax_use_simplified_jaxpr_constants", False)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    files = {"prompts": ["the cap", "of", "a man"], "held_out": ["the man", "a cap"]}
    folder, flags = tmp_path_factory.mktemp("prompts"), []
    for name, texts in files.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
        flags += [f"--{name.replace('_', '-')}", str(path)]
    return flags


def test_a_run_is_trained_judged_and_resumed(script, prompts, tmp_path, capsys):
    summary = script.main([*TINY, *prompts, "--updates", "2", "--output", str(tmp_path / "run")])
    assert set(summary["held_out"]) == {"start", "seed 0"} and summary["finished"]
    assert summary["held_out"]["start"]["kl"] == 0 and summary["held_out"]["seed 0"]["kl"] != 0
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 6 and samples[0]["prompt"] == "the man" and samples[1]["prompt"] == "a cap"
    assert samples[0]["start"]["vader"] == samples[0]["start"]["response"].count("a") / 5
    for name in ("config.json", "metrics.csv", "curve.png", "checkpoint"):
        assert (tmp_path / "run" / name).exists()
    steps = summary["env_steps_per_seed"][0]
    longer = script.main(["--resume", str(tmp_path / "run"), "--total-steps", "300"])
    assert longer["updates"] > summary["updates"] and longer["env_steps_per_seed"][0] > steps


def test_the_control_learns_nothing(script, prompts):
    run, output = script.parse([*TINY, *prompts, "--control"])
    assert run.config.learning_rate == 0 and "control" in str(output)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--model", str(MODEL.parent / "smollm2")], "model must come with its tokenizer.json"),
        (["--model", "nowhere"], "nowhere"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl must be a file"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(script, prompts, arguments, words):
    with pytest.raises(ValueError) as caught:
        script.parse([*TINY, *prompts, *arguments])
    assert words in str(caught.value) and "\n" not in str(caught.value)
