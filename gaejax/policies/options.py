"""Policies described by names and numbers, as in scripts and configuration files."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from gaejax._arguments import check_whole, did_you_mean, short
from gaejax.environments import Environment, check_is_environment
from gaejax.policies.actor_critic import actor_critic
from gaejax.policies.bodies import Body, chain, skip
from gaejax.policies.cnn import cnn
from gaejax.policies.gru import gru
from gaejax.policies.linear_recurrent import linear_recurrent
from gaejax.policies.mlp import mlp
from gaejax.policies.policy import Policy
from gaejax.policies.q_network import q_network
from gaejax.policies.transformer import transformer


@dataclasses.dataclass(frozen=True)
class PolicyOptions:
    """An encoder of the observations, a memory after it, and heads for the environment's spaces."""

    encoder: Literal["mlp", "cnn"] = "mlp"
    """What reads the observations: hidden layers (mlp), or a convolution before them (cnn)."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the encoder's hidden layers."""
    activation: str = "tanh"
    """Activation of the encoder: tanh, relu, swish, gelu or elu."""
    memory: Literal["none", "gru", "linear_recurrent", "transformer"] = "none"
    """The memory after the encoder."""
    memory_size: int = 64
    """Width of the memory."""
    skip: bool = True
    """Whether the heads read the encoder's features too, besides a GRU's (the other memories have residuals)."""
    context: int = 64
    """Number of steps that a transformer sees."""
    layer_norm: bool = False
    """Whether layer normalization is applied in the encoder, before each activation."""
    shared: bool = False
    """Whether actor and critic share everything except their heads."""
    squash: bool = False
    """Whether real actions are squashed into their bounds by a tanh, instead of clipped."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of encoder and memory; parameters, heads and losses stay float32."""


MEMORIES: dict[str, Callable[[PolicyOptions], tuple[Body, ...]]] = {
    "none": lambda options: (),
    "gru": lambda options: (skip(gru(options.memory_size)) if options.skip else gru(options.memory_size),),
    "linear_recurrent": lambda options: (linear_recurrent(options.memory_size),),
    "transformer": lambda options: (transformer(options.memory_size, context=options.context),),
}


NAMES = {"encoder": ("mlp", "cnn"), "memory": tuple(MEMORIES), "compute_dtype": ("float32", "bfloat16")}
"""The options that are one of a few names."""

MOST_WIDTH = 2**31 - 1


def checked_options(options: dict[str, Any]) -> PolicyOptions:
    """Returns options as a `PolicyOptions`.

    Raises:
      ValueError: for an unknown option, or a value that it cannot have; one line that names it.
    """
    known = [field.name for field in dataclasses.fields(PolicyOptions)]
    for name in options:
        if name not in known:
            raise ValueError(f"policy has no option {name!r}{did_you_mean(name, known)}")
    chosen = PolicyOptions(**options)
    for name, names in NAMES.items():
        if (value := getattr(chosen, name)) not in names:
            raise ValueError(f"{name} must be one of {', '.join(names)}, got {short(value)}")
    if not isinstance(chosen.activation, str):
        raise ValueError(f"activation must be the name of one, such as 'tanh', got {short(chosen.activation)}")
    for name in ("skip", "layer_norm", "shared", "squash"):
        if not isinstance(value := getattr(chosen, name), bool):
            raise ValueError(f"{name} must be True or False, got {short(value)}")
    if isinstance(chosen.hidden_sizes, str) or not isinstance(chosen.hidden_sizes, Sequence):
        raise ValueError(f"hidden_sizes must be a list of whole numbers, got {short(chosen.hidden_sizes)}")
    for name, sizes in {
        "memory_size": [chosen.memory_size],
        "context": [chosen.context],
        "each of hidden_sizes": chosen.hidden_sizes,
    }.items():
        for size in sizes:
            check_whole(name, size, least=1)
            if size > MOST_WIDTH:
                raise ValueError(f"{name} must be at most {MOST_WIDTH}, got {short(size)}")
    return chosen


def make_policy(environment: Environment, *, action_values: bool = False, **options: Any) -> Policy:
    """Returns the policy for an environment that some options describe.

    Args:
      environment: The environment whose spaces the policy is for.
      action_values: Whether to make a `q_network` instead of an `actor_critic`.
      **options: Fields of `PolicyOptions`.

    Raises:
      ValueError: for an unknown option or value.
    """
    check_is_environment(environment)
    chosen = checked_options(options)
    encoder = {"mlp": mlp, "cnn": cnn}[chosen.encoder]
    first = encoder(hidden_sizes=chosen.hidden_sizes, activation=chosen.activation, layer_norm=chosen.layer_norm)
    memory = MEMORIES[chosen.memory](chosen)
    body = chain(first, *memory) if memory else first
    if action_values:
        return q_network(environment, body, compute_dtype=chosen.compute_dtype)
    critic_body = None if chosen.shared else body
    return actor_critic(environment, body, critic_body, squash=chosen.squash, compute_dtype=chosen.compute_dtype)
