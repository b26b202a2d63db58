"""Language models as policies.

models: decoders as policies, sampling, low-rank adaptation, generation.
files: pretrained models on disk.
data: prompts and texts as arrays.
rewards: scores, KL penalties and group baselines as transforms of the trajectory.
environment, credit, supervised, tasks: the token environment, estimators for tokens, losses on given texts, tasks.
"""

from gaejax.language.credit import (
    aggregated,
    critic_warm_up,
    length_adaptive_gae,
    relative_position_gae,
)
from gaejax.language.data.datasets import Texts, encode_pairs, encode_prompts, read_jsonl
from gaejax.language.data.prompts import Text
from gaejax.language.environment import token_environment
from gaejax.language.files.language_model import LanguageModel, load, save
from gaejax.language.files.packages import smollm2
from gaejax.language.files.tokenizer import Tokenizer
from gaejax.language.models.config import DecoderConfig
from gaejax.language.models.decoder import decoder
from gaejax.language.models.generate import Generation, generate
from gaejax.language.models.lora import lora, merged
from gaejax.language.models.policy import decoder_policy
from gaejax.language.models.sampling import sampling_logits
from gaejax.language.rewards.groups import group_baseline, without_critic
from gaejax.language.rewards.kl import kl_in_loss, kl_penalty
from gaejax.language.rewards.scores import python_score, score, shuffle_scores, whiten_rewards
from gaejax.language.supervised import (
    encode_texts,
    fit,
    joined,
    preference_loss,
    response_log_probs,
    supervised_loss,
    text_reward,
    text_scores,
)
from gaejax.language.tasks import TASKS, Task, examine, share_exact

__all__ = [
    "TASKS",
    "DecoderConfig",
    "Generation",
    "LanguageModel",
    "Task",
    "Text",
    "Texts",
    "Tokenizer",
    "aggregated",
    "critic_warm_up",
    "decoder",
    "decoder_policy",
    "encode_pairs",
    "encode_prompts",
    "encode_texts",
    "examine",
    "fit",
    "generate",
    "group_baseline",
    "joined",
    "kl_in_loss",
    "kl_penalty",
    "length_adaptive_gae",
    "load",
    "lora",
    "merged",
    "preference_loss",
    "python_score",
    "read_jsonl",
    "relative_position_gae",
    "response_log_probs",
    "sampling_logits",
    "save",
    "score",
    "share_exact",
    "shuffle_scores",
    "smollm2",
    "supervised_loss",
    "text_reward",
    "text_scores",
    "token_environment",
    "whiten_rewards",
    "without_critic",
]
