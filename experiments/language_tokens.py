"""Train a small language model from scratch on tasks with checkable answers, with PPO and GAE over tokens.

The reward is the fraction of the answer that is right, paid at its end. The result is the fraction of held-out prompts
that greedy answers get exactly right, as checked by plain Python.

Examples:
    # Reverse five digits: learned exactly in half a minute on two cores.
    uv run experiments/language_tokens.py
    # Another task, and a baseline from groups of responses instead of a critic.
    uv run experiments/language_tokens.py --task sort --size 8
    uv run experiments/language_tokens.py --baseline grpo --group-size 8
    # The control: with shuffled rewards it must learn nothing.
    uv run experiments/language_tokens.py --shuffle-rewards
    # Continue a run where it stopped.
    uv run experiments/language_tokens.py --resume runs/reverse-5-...
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
from gaejax._arguments import check_whole, short
from gaejax.algorithms import Algorithm
from gaejax.language import (
    TASKS,
    DecoderConfig,
    Task,
    Text,
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
from gaejax.training.files import write_whole
from gaejax.training.scripts import Host, host_of, is_resuming, resumed, run_script, was_terminated
from gaejax.training.show_texts import show_texts

SIZES = {"reverse": 5, "translation": 5, "sort": 8, "addition": 2, "question_answering": 4, "summary": 3}
MOST_SIZE = 1024  # every token of a text is a step, and attends to all before it
UPDATES = {"reverse": 100, "translation": 100, "sort": 700, "addition": 2000, "question_answering": 100, "summary": 100}


@dataclasses.dataclass(frozen=True)
class Options:
    """The task, its rewards, and how advantages and tokens are computed."""

    task: Literal["reverse", "translation", "sort", "addition", "question_answering", "summary"] = "reverse"
    """The task to learn."""
    size: int | None = None
    """Digits (addition: per summand), names (question_answering) or sentences (summary); default depends on --task."""
    value: Literal["head", "trunk", "none"] = "head"
    """Where values are read: on the policy's trunk, on a separate trunk of the critic, or nowhere."""
    value_lambda: float | None = None
    """Lambda of the value targets; default: --gae-lambda, as for the advantages."""
    objective: Literal["clip", "clip_higher", "kl", "dpo", "unclipped"] = "clip"
    """Objective of PPO."""
    warm_up: float = 0.0
    """Fraction of the run in which only the critic learns."""
    baseline: Literal["critic", "rloo", "grpo", "dr_grpo"] = "critic"
    """Baseline that a score is compared with: the critic, or the other responses to the same prompt."""
    group_size: int = 8
    """Responses to each prompt, for baselines other than the critic."""
    reference_kl: float = 0.0
    """Coefficient of the KL penalty, in the reward, to the initial policy."""
    kl_estimate: Literal["k1", "k2", "k3"] = "k1"
    """Estimator of this KL divergence."""
    kl_adapts_to: float | None = None
    """Target of the KL divergence per text, in nats, to which the coefficient is adapted; default: no adaptation."""
    temperature: float = 1.0
    """Sampling temperature."""
    top_k: int | None = None
    """Number of most probable tokens that may be sampled; default: all."""
    top_p: float | None = None
    """Nucleus sampling threshold; default: off."""
    log_prob_of: Literal["sampled", "model"] = "sampled"
    """Distribution that probability ratios are of: the one sampled from, or the model at temperature 1."""
    dense: bool = False
    """Reward every token that is right at once, instead of all at the end."""
    shuffle_rewards: bool = False
    """Permute scores among texts at random: a control that must stay at chance."""
    show_every: int = 10
    """Updates between two samples on the screen; 0 shows none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageExperiment(Run):
    """A run of `run_experiment` that trains a language model from scratch on a task."""

    options: Options
    decoder: DecoderConfig
    eval_episodes: int = 500

    is_evaluated = False  # by `exact` instead

    @property
    def task(self) -> Task:
        return TASKS[self.options.task](self.options.size or SIZES[self.options.task])

    @property
    def name(self) -> str:
        return self.task.name

    def policy(self) -> gaejax.Policy:
        options = self.options
        return decoder_policy(
            self.decoder,
            value=options.value,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            log_prob_of=options.log_prob_of,
        )

    def build(self) -> Algorithm:
        options, policy = self.options, self.policy()
        transforms = [shuffle_scores()] if options.shuffle_rewards else []
        if options.reference_kl:
            coefficient, target = options.reference_kl, options.kl_adapts_to
            transforms.append(kl_penalty(policy, coefficient, estimate=options.kl_estimate, target=target))
        estimator = gaejax.gae
        if options.value_lambda is not None:
            estimator = partial(gaejax.decoupled_gae, value_lambda=options.value_lambda)
        if options.baseline != "critic":
            transforms.append(group_baseline(options.group_size, options.baseline))
            estimator = {
                "rloo": without_critic,
                "grpo": aggregated(without_critic, "sequence"),
                "dr_grpo": aggregated(without_critic, "constant", max_length=self.task.max_response),
            }[options.baseline]
        if options.show_every:
            transforms.append(show_texts(decode, options.show_every))
        reward = {"reward": right_token, "dense": True} if options.dense else {}
        group_size = 1 if options.baseline == "critic" else options.group_size
        environment = self.task.environment(group_size=group_size, **reward)
        schedules = critic_warm_up(options.warm_up) if options.warm_up else {"entropy_coefficient": "linear"}
        return gaejax.ppo(
            environment,
            policy,
            transforms=transforms,
            estimator=estimator,
            schedules=schedules,
            objective=options.objective,
        )

    def validate(self) -> None:
        super().validate()
        if self.options.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {short(self.options.task)}")
        if self.options.size is not None:
            check_whole("size", self.options.size, least=1)
            if self.options.size > MOST_SIZE:
                raise ValueError(f"size must be at most {MOST_SIZE}, got {short(self.options.size)}")
        needed, context = steps(self.task) + 1, self.decoder.max_position_embeddings
        if context < needed:
            raise ValueError(f"max_position_embeddings must be at least {needed} for {self.name}, got {context}")
        self.decoder.validate()

    @classmethod
    def parts(cls, fields: dict[str, Any]) -> dict[str, type]:
        return {"options": Options, "config": gaejax.PPOConfig, "decoder": DecoderConfig}


def steps(task: Task) -> int:
    """Returns the number of steps of the longest text, without its final observation."""
    return task.max_prompt + task.max_response - 1


def right_token(text: Text) -> jax.Array:
    """Returns the dense reward: 1 / R if the last token is the answer's at its place, else 0."""
    place = text.response_length - 1
    return (text.response[place] == text.aux[place]).astype(jnp.float32) / text.aux.shape[0]


def exact(experiment: LanguageExperiment, states: Any) -> list[float]:
    """Returns, for each seed, the fraction of fresh prompts whose greedy answers are exact, checked by plain Python."""
    key = jax.random.fold_in(jax.random.key(experiment.seed), 0x7E57)
    ask = partial(examine, experiment.task, experiment.policy(), key=key, count=experiment.eval_episodes)
    found = jax.device_get(jax.jit(jax.vmap(lambda params: ask(params)))(states.params))
    seeds = [jax.tree.map(lambda x, seed=seed: x[seed], found) for seed in range(experiment.num_seeds)]
    return [share_exact(experiment.task, *prompts_and_answers) for prompts_and_answers in seeds]


@dataclasses.dataclass
class Arguments:
    """A task for a small language model. Defaults depend on `--task` and are known to work."""

    task: Annotated[Options, tyro.conf.OmitArgPrefixes]
    ppo: Annotated[gaejax.PPOConfig, tyro.conf.OmitArgPrefixes]
    decoder: Annotated[DecoderConfig, tyro.conf.OmitArgPrefixes]
    host: Annotated[Host, tyro.conf.OmitArgPrefixes] = dataclasses.field(default_factory=Host)
    total_steps: int | None = None
    """Transitions to collect per seed; default: what the task needs."""
    num_seeds: int = 1
    """Number of independent runs, vmapped."""
    seed: int = 0
    """Seed of the random keys of all runs."""
    eval_episodes: int = 500
    """Number of held-out prompts."""
    output: Path | None = None
    """Folder of the results; default: runs/<task>-<time>."""
    resume: Path | None = None
    """Folder of a run to continue with its own configuration; only --total-steps may be given with it."""


def parse(argv: list[str]) -> tuple[LanguageExperiment, Path]:
    """Parses the command line, whose defaults depend on the task, into an experiment and its folder."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--task", "--size", "--baseline"):
        finder.add_argument(flag)
    found = finder.parse_known_args(argv)[0]
    name = found.task if found.task in TASKS else "reverse"
    task = TASKS[name](int(found.size) if (found.size or "").isdigit() else SIZES[name])
    num_steps = steps(task)
    groups = found.baseline not in (None, "critic")
    config = gaejax.PPOConfig(
        num_envs=256,
        num_steps=num_steps,
        fresh_rows=True,
        discount=1.0,
        learning_rate=1e-3,
        max_grad_norm=1.0,
        num_epochs=2,
        entropy_coefficient=0.05,
        value_coefficient=0.0 if groups else 0.5,
        advantage_normalization="none" if groups else "minibatch",
    )
    decoder = DecoderConfig(len(ALPHABET), max_position_embeddings=num_steps + 1, positions="learned")
    options = Options(task=name, value="none" if groups else "head")
    default = Arguments(task=options, ppo=config, decoder=decoder)
    arguments = tyro.cli(Arguments, default=default, args=argv, description=__doc__)
    config = arguments.ppo
    total_steps = arguments.total_steps or UPDATES[name] * config.num_envs * config.num_steps
    if config.anneal_steps is None:
        config = config.replace(anneal_steps=float(total_steps))
    output = arguments.output or Path("runs") / f"{task.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    experiment = LanguageExperiment(
        config=config,
        options=arguments.task,
        decoder=arguments.decoder,
        total_steps=total_steps,
        num_seeds=arguments.num_seeds,
        seed=arguments.seed,
        eval_episodes=arguments.eval_episodes,
    )
    return experiment, output


def main(argv: list[str]) -> dict:
    started = time.perf_counter()
    host, rest = host_of(argv)
    host.join()
    resuming = is_resuming(argv)
    experiment, output = resumed(rest, LanguageExperiment) if resuming else parse(argv)
    summary = run_experiment(experiment, output, resume=resuming, **host.keywords())
    if was_terminated(summary) or not (summary["finished"] or summary["interrupted_by"]):
        return summary
    summary["exact"] = exact(experiment, load_states(output, LanguageExperiment)[2])
    summary["wall_seconds"] = time.perf_counter() - started
    write_whole(output / "summary.json", json.dumps(summary, indent=2) + "\n")
    shares = ", ".join(f"{100 * share:.1f} %" for share in summary["exact"])
    print(
        f"{experiment.name}: {shares} of held-out prompts answered exactly (greedy), after "
        f"{summary['total_env_steps']:,} tokens "
        f"({summary['compile_seconds']:.1f} s of compiling, {summary['wall_seconds']:.1f} s in all)\n{output}"
    )
    return summary


if __name__ == "__main__":
    run_script(main)
