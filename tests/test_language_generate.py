"""The script that writes with a pretrained model: its responses, its file, its count of tokens, what it refuses."""

import json
from pathlib import Path

import jax
import pytest
from scripts import load_script

from gaejax.language import decoder_policy, encode_prompts, generate, load

MODEL = Path(__file__).parent / "golden" / "language" / "llama.gguf"
WITHOUT_TOKENIZER = MODEL.parent / "smollm2"
PROMPTS = ["the cap", "of", "a man"]


@pytest.fixture(scope="module")
def script():
    return load_script("generate")


def test_responses_are_those_of_the_library_whatever_the_batches(script, tmp_path):
    model, max_new, output = load(MODEL), 6, tmp_path / "new" / "responses.jsonl"
    prompts = encode_prompts(PROMPTS, model.tokenizer)
    policy, eos = decoder_policy(model.config, value="none"), model.tokenizer.eos
    ask = lambda params: generate(policy, params, *prompts, max_new, jax.random.key(0), eos=eos, greedy=True)  # noqa: E731
    expected = jax.device_get(jax.jit(ask)(model.params))
    texts = [model.tokenizer.decode(row[:size]) for row, size in zip(*expected, strict=True)]

    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    options = ["--prompts", str(tmp_path / "prompts.jsonl"), "--output", str(output), "--batch-size", "2"]
    found = script.main([str(MODEL), "--greedy", "--max-new", str(max_new), *options])
    assert found.texts == texts and found.num_tokens == sum(int((row != eos).sum()) for row in expected.tokens)
    lines = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert lines == [{"prompt": prompt, "response": text} for prompt, text in zip(PROMPTS, texts, strict=True)]


def test_chat_is_the_template_around_the_prompt_and_samples_are_the_seeds(script, capsys):
    asked = [str(MODEL), "--prompt", "a", "--max-new", "4", "--temperature", "2"]
    spelled = load(MODEL).tokenizer.chat([{"role": "user", "content": "a"}])
    chat = script.main([*asked, "--chat"]).texts
    assert chat == script.main([str(MODEL), "--prompt", spelled, *asked[3:]]).texts
    others = [script.main([*asked, "--chat", "--seed", str(seed)]).texts for seed in range(1, 3)]
    assert any(other != chat for other in others)
    assert "per second" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([MODEL], "give either --prompt TEXT ... or --prompts FILE.jsonl"),
        ([MODEL, "--prompt", "a", "--prompts", "x"], "give either --prompt TEXT ... or --prompts FILE.jsonl"),
        ([MODEL, "--prompts", "nothing.jsonl"], "nothing.jsonl must be a file"),
        ([MODEL, "--prompt", "a", "--max-new", "0"], "max_new must be at least 1, got 0"),
        ([MODEL, "--prompt", "of", "--max-new", "32"], "32 after a prompt of 2 tokens need 33"),
        ([MODEL, "--prompt", "a", "--max-new", "4", "--temperature", "0"], "temperature must be positive"),
        ([MODEL, "--prompt", ""], "prompt 1 must have at least one token, got ''"),
        ([WITHOUT_TOKENIZER, "--prompt", "a"], "holds no tokenizer: put the model's tokenizer.json beside its weights"),
        (["nowhere", "--prompt", "a"], "path must be a folder, a .gguf file"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(script, arguments, words):
    with pytest.raises(ValueError) as caught:
        script.main([str(argument) for argument in arguments])
    assert words in str(caught.value) and "\n" not in str(caught.value)
