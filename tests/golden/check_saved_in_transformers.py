"""Whether transformers reads what `save` wrote, and computes the same with it: run the first, then the second.

    uv run tests/golden/check_saved_in_transformers.py FOLDER
    uv run --no-project --with torch --with transformers tests/golden/check_saved_in_transformers.py FOLDER --torch

The first writes the golden models to FOLDER, each loaded and saved again; the second compares them with those, weight
by weight and bit for bit, and their logits and tokens with what was expected.
"""

import sys
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "language"
NAMES = {"llama": "llama", "qwen2": "qwen2", "smollm2": "smollm2", "llama.gguf": "llama", "qwen2.gguf": "qwen2"}


def write(folder: Path) -> None:
    from gaejax.language import load, save

    for name in NAMES:
        save(folder / name, load(GOLDEN / name))


def compare(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expected = np.load(GOLDEN / "expected.npz")
    for name, golden in NAMES.items():
        model = AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)
        original = AutoModelForCausalLM.from_pretrained(GOLDEN / golden, dtype=torch.float32).state_dict()
        assert model.state_dict().keys() == original.keys()
        assert all(torch.equal(weight, original[key]) for key, weight in model.state_dict().items())
        tokens, lengths = (torch.tensor(expected[f"{golden}/{key}"]) for key in ("tokens", "lengths"))
        mask = torch.arange(tokens.shape[1]) < lengths[:, None]
        with torch.no_grad():
            logits = model(input_ids=tokens, attention_mask=mask.long()).logits.numpy()
        difference = np.abs(logits - expected[f"{golden}/right"]).max()
        tokenized = (folder / name / "tokenizer.json").exists()
        if tokenized:
            fast = AutoTokenizer.from_pretrained(folder / name)
            for index in range(3):
                ids = fast(str(expected[f"text {index}"][0]), add_special_tokens=False).input_ids
                assert ids == expected[f"ids {index}"].tolist()
            messages = [{"role": "user", "content": "the answer"}, {"role": "assistant", "content": "in 12"}]
            chat = fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert chat == str(expected["chat True"]) and fast.eos_token_id == model.config.eos_token_id == 0
        same = "weights equal" + (", tokens and conversation equal" if tokenized else "")
        print(f"{name}: {type(model).__name__}, {same}, logits differ by at most {difference:.1e}")


if __name__ == "__main__":
    (compare if "--torch" in sys.argv else write)(Path(sys.argv[1]))
