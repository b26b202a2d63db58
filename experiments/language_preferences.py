"""Make the committed preferences that `language_sentiment.py --reward learned` learns from.

    uv run experiments/language_preferences.py

SmolLM2 continues the prompts. Of two continuations of a prompt, the one with VADER's higher sentiment is preferred; the
preferences hold only which of the two it is.
"""

import argparse
import json
from pathlib import Path

from generate import Arguments, respond
from language_sentiment import DATA, pretrained, vader

from gaejax.language import read_jsonl
from gaejax.training.scripts import run_script

TOKENS, LEAST_DIFFERENCE = 20, 0.1


def main(argv: list[str]) -> None:
    """Writes the preferences for training and the held-out ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    for seed, (split, count) in enumerate({"": 240, "held_out_": 48}.items()):
        prompts = [line["prompt"] for line in read_jsonl(DATA / f"sentiment_{split}prompts.jsonl", ["prompt"])]
        write(DATA / f"sentiment_{split}preferences.jsonl", prompts, count, seed)


def write(path: Path, prompts: list[str], count: int, seed: int) -> None:
    """Samples `count` continuations of each prompt and writes preferences between neighbours; pairs whose sentiments
    are nearly equal are left out."""
    many = [prompt for prompt in prompts for _ in range(count)]
    responses = respond(pretrained(None), many, Arguments(max_new=TOKENS, batch_size=64, seed=seed)).texts
    scored = list(zip(many, responses, vader(many, responses), strict=True))
    lines = []
    for (prompt, one, first), (_, other, second) in zip(scored[::2], scored[1::2], strict=True):
        if abs(first - second) >= LEAST_DIFFERENCE:
            chosen, rejected = (one, other) if first > second else (other, one)
            lines.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    print(f"{len(lines)} preferences in {path}")


if __name__ == "__main__":
    run_script(main)
