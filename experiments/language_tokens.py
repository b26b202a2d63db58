"""Train a small language model from scratch on tasks whose answers can be checked, with PPO and GAE over tokens.

uv run experiments/language_tokens.py                             # reverse-5, exact in half a minute on two cores
uv run experiments/language_tokens.py --task sort --size 8
uv run experiments/language_tokens.py --baseline grpo --group-size 8
uv run experiments/language_tokens.py --shuffle-rewards           # the control: learns nothing
uv run experiments/language_tokens.py --resume runs/reverse-5-... # go on where it stopped

The reward is the fraction of the answer that is right, paid at the end; the result is the share of held-out prompts
that are answered exactly, greedily, as plain Python checks it.
"""

import argparse
import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro

import gaejax
from gaejax.algorithms import Algorithm
from gaejax.language import (
    TASKS,
    DecoderConfig,
    Task,
    aggregated,
    critic_warm_up,
    decoder_policy,
    examine,
    group_baseline,
    kl_penalty,
    share_exact,
    shuffle_scores,
    without_critic,
)
from gaejax.language.tasks import ALPHABET, decode
from gaejax.training import Run, load_states, run_experiment
from gaejax.training.samples import show_texts
from gaejax.training.scripts import is_resuming, resumed, run_script

SIZES = {"reverse": 5, "translation": 5, "sort": 8, "addition": 2, "question_answering": 4, "summary": 3}
UPDATES = {"reverse": 100, "translation": 100, "sort": 700, "addition": 2000, "question_answering": 100, "summary": 100}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained on what, beside the hyperparameters of PPO and of the decoder."""

    task: Literal["reverse", "translation", "sort", "addition", "question_answering", "summary"] = "reverse"
    """What to learn."""
    size: int | None = None
    """Digits (of addition: of a summand; of question_answering: names; of summary: sentences); default: see SIZES."""
    value: Literal["head", "trunk", "none"] = "head"
    """Where values are read: on the policy's trunk, on one of the critic's own, or nowhere."""
    value_lambda: float | None = None
    """Lambda of the value targets; default: that of the advantages, --gae-lambda."""
    objective: Literal["clip", "clip_higher", "kl", "dpo", "unclipped"] = "clip"
    """PPO's."""
    warm_up: float = 0.0
    """Share of the run in which only the critic learns."""
    baseline: Literal["critic", "rloo", "grpo", "dr_grpo"] = "critic"
    """What a score is judged against: the critic, or the other responses to its prompt."""
    group_size: int = 8
    """Responses to a prompt, for the baselines without a critic."""
    reference_kl: float = 0.0
    """Coefficient of the KL penalty to the policy at the start, in the reward."""
    kl_estimate: Literal["k1", "k2", "k3"] = "k1"
    """How that divergence is estimated."""
    kl_adapts_to: float | None = None
    """The divergence of a text, in nats, to which the coefficient is adapted."""
    temperature: float = 1.0
    """Of the samples."""
    top_k: int | None = None
    """Tokens that may be sampled."""
    top_p: float | None = None
    """Probability of the tokens that may be sampled."""
    log_prob_of: Literal["sampled", "model"] = "sampled"
    """Whose log-probabilities the ratios are of."""
    dense: bool = False
    """Whether every token is paid when it is right, instead of all at the end."""
    shuffle_rewards: bool = False
    """Whether scores are dealt out among the texts at random: a control that must stay at chance."""
    show_every: int = 10
    """Updates between two samples on the screen; 0: none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageExperiment(Run):
    """A task for a language model from scratch, as `run_experiment` wants it."""

    options: Options
    decoder: DecoderConfig
    eval_episodes: int = 500

    is_evaluated = False  # but by `exact`

    @property
    def task(self) -> Task:
        return TASKS[self.options.task](self.options.size or SIZES[self.options.task])

    @property
    def name(self) -> str:
        return self.task.name

    def policy(self) -> gaejax.Policy:
        options = self.options
        sampling = {name: getattr(options, name) for name in ("value", "temperature", "top_k", "top_p", "log_prob_of")}
        return decoder_policy(self.decoder, **sampling)

    def build(self) -> Algorithm:
        options, policy = self.options, self.policy()
        groups = options.baseline != "critic"
        transforms = [shuffle_scores()] if options.shuffle_rewards else []
        if options.reference_kl:
            kl = dict(estimate=options.kl_estimate, target=options.kl_adapts_to)
            transforms.append(kl_penalty(policy, options.reference_kl, **kl))
        estimator = gaejax.gae
        if options.value_lambda is not None:
            estimator = decoupled(options.value_lambda)
        if groups:
            transforms.append(group_baseline(options.group_size, options.baseline))
            estimator = {
                "rloo": without_critic,
                "grpo": aggregated(without_critic, "sequence"),
                "dr_grpo": aggregated(without_critic, "constant", max_length=self.task.max_response),
            }[options.baseline]
        if options.show_every:
            transforms.append(show_texts(decode, options.show_every))
        reward = {"reward": right_token, "dense": True} if options.dense else {}
        environment = self.task.environment(group_size=options.group_size if groups else 1, **reward)
        schedules = critic_warm_up(options.warm_up) if options.warm_up else {"entropy_coefficient": "linear"}
        parts = dict(transforms=transforms, estimator=estimator, schedules=schedules, objective=options.objective)
        return gaejax.ppo(environment, policy, **parts)

    def validate(self) -> None:
        super().validate()
        needed, context = steps(self.task) + 1, self.decoder.max_position_embeddings
        if context < needed:
            raise ValueError(f"max_position_embeddings must be at least {needed} for {self.name}, got {context}")
        self.decoder.validate()

    @classmethod
    def parts(cls, fields: dict[str, Any]) -> dict[str, type]:
        return {"options": Options, "config": gaejax.PPOConfig, "decoder": DecoderConfig}


def steps(task: Task) -> int:
    """The rows of the longest text, its final observation not among them."""
    return task.max_prompt + task.max_response - 1


def right_token(text: Any) -> jax.Array:
    """The dense reward: whether the last token is the answer's there."""
    place = text.response_length - 1
    return (text.response[place] == text.aux[place]).astype(jnp.float32) / text.aux.shape[0]


def decoupled(value_lambda: float) -> Any:
    """Decoupled GAE with this lambda of the value targets."""

    def estimator(*, gae_lambda: Any, **arrays: Any) -> tuple:
        return gaejax.decoupled_gae(gae_lambda=gae_lambda, value_lambda=value_lambda, **arrays)

    return estimator


def exact(experiment: LanguageExperiment, states: Any) -> list[float]:
    """Of each seed, the share of fresh prompts that are answered exactly, greedily, as plain Python checks it."""
    key = jax.random.fold_in(jax.random.key(experiment.seed), 0x7E57)
    ask = partial(examine, experiment.task, experiment.policy(), key=key, count=experiment.eval_episodes)
    found = jax.device_get(jax.jit(jax.vmap(lambda params: ask(params)))(states.params))
    seeds = range(experiment.num_seeds)
    return [share_exact(experiment.task, *jax.tree.map(lambda x: x[seed], found)) for seed in seeds]  # noqa: B023


@dataclasses.dataclass
class Arguments:
    """A task for a small language model. Defaults are those known to work for `--task`."""

    options: Annotated[Options, tyro.conf.OmitArgPrefixes]
    config: Annotated[gaejax.PPOConfig, tyro.conf.OmitArgPrefixes]
    decoder: Annotated[DecoderConfig, tyro.conf.OmitArgPrefixes]
    total_steps: int | None = None
    """Rows to collect for each seed; default: what the task needs."""
    num_seeds: int = 1
    """Independent runs, vmapped."""
    seed: int = 0
    """Where the keys of all of them come from."""
    eval_episodes: int = 500
    """Held-out prompts."""
    output: Path | None = None
    """Folder of the results; default: runs/<task>-<time>."""
    resume: Path | None = None
    """Folder of a run to continue with its own configuration; only --total-steps may be given beside it."""


def parse(argv: list[str]) -> tuple[LanguageExperiment, Path]:
    """The command line, with defaults that depend on the task, as an experiment and its folder."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--task", "--size", "--baseline"):
        finder.add_argument(flag)
    found = finder.parse_known_args(argv)[0]
    name = found.task if found.task in TASKS else "reverse"
    task = TASKS[name](int(found.size) if (found.size or "").isdigit() else SIZES[name])
    rows = steps(task)
    groups = found.baseline not in (None, "critic")
    config = gaejax.PPOConfig(
        num_envs=256,
        num_steps=rows,
        fresh_rows=True,
        discount=1.0,
        learning_rate=1e-3,
        max_grad_norm=1.0,
        num_epochs=2,
        entropy_coefficient=0.05,
        value_coefficient=0.0 if groups else 0.5,
        advantage_normalization="none" if groups else "minibatch",
    )
    decoder = DecoderConfig(len(ALPHABET), max_position_embeddings=rows + 1, positions="learned")
    options = Options(task=name, value="none" if groups else "head")
    default = Arguments(options=options, config=config, decoder=decoder)
    arguments = tyro.cli(Arguments, default=default, args=argv, description=__doc__)
    config = arguments.config
    total_steps = arguments.total_steps or UPDATES[name] * config.num_envs * config.num_steps
    if config.anneal_steps is None:
        config = config.replace(anneal_steps=float(total_steps))
    output = arguments.output or Path("runs") / f"{task.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    fields = {name: getattr(arguments, name) for name in ("options", "decoder", "num_seeds", "seed", "eval_episodes")}
    return LanguageExperiment(config=config, total_steps=total_steps, **fields), output


def main(argv: list[str]) -> dict:
    started = time.perf_counter()
    resuming = is_resuming(argv)
    experiment, output = resumed(argv, LanguageExperiment) if resuming else parse(argv)
    summary = run_experiment(experiment, output, resume=resuming)
    summary["exact"] = exact(experiment, load_states(output, LanguageExperiment)[2])
    summary["wall_seconds"] = time.perf_counter() - started
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    shares = ", ".join(f"{100 * share:.1f} %" for share in summary["exact"])
    print(
        f"{experiment.name}: {shares} of held-out prompts answered exactly (greedy), after "
        f"{summary['total_env_steps']:,} tokens "
        f"({summary['compile_seconds']:.1f} s of compiling, {summary['wall_seconds']:.1f} s in all)\n{output}"
    )
    return summary


if __name__ == "__main__":
    run_script(main)
