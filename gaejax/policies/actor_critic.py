"""The actor-critic: any body, the head for the action space, and a value head."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gaejax.distributions import ValueBins
from gaejax.environments import Dict, Environment, check_is_environment
from gaejax.environments.spaces import MASK, zeros
from gaejax.policies.bodies import Body, observing
from gaejax.policies.inputs import check_spaces
from gaejax.policies.layers import PolicyHead, ValueHead
from gaejax.policies.mlp import mlp
from gaejax.policies.policy import Policy


def actor_critic(
    environment: Environment,
    body: Body,
    critic_body: Body | None = None,
    *,
    actor_observations: Sequence[str] | None = None,
    critic_observations: Sequence[str] | None = None,
    squash: bool = False,
    value_bins: ValueBins | None = None,
    logits_chunk: int | None = None,
    compute_dtype: jax.typing.DTypeLike = jnp.float32,
) -> Policy:
    """Returns a policy made of a body and the heads for an environment's spaces.

    Integers among the observations are one-hot encoded. For a `Dict` of observations the bodies get a dict: most
    flatten and concatenate its entries, `parallel` gives each entry a body of its own. An entry called `"action_mask"`,
    a `MultiBinary` with one boolean per action (for several choices: concatenated), says which actions may be taken; it
    is not among the inputs.

    Args:
      environment: The environment whose spaces the policy is for.
      body: Computes the features that the policy head reads, and the value head too if there is no `critic_body`.
      critic_body: Computes the features that the value head reads; default: `body` does.
      actor_observations, critic_observations: The entries of a `Dict` that each body sees (an asymmetric critic sees
        more than the actor); default: all.
      squash: Whether real actions are squashed into their bounds by a tanh, instead of clipped to them.
      value_bins: The bins of a critic that predicts a histogram of values; default: it predicts a number.
      logits_chunk: The number of positions whose logits are computed at a time, where `[T, N, actions]` would not fit
        in memory.
      compute_dtype: The type that bodies compute in, for example `jnp.bfloat16`; parameters, memories, heads and losses
        stay float32.

    Raises:
      TypeError: if `environment` is not a `gaejax.Environment`.
      ValueError: for an unsupported space or option.
    """
    check_is_environment(environment)
    space = environment.observation_space
    masked = isinstance(space, Dict) and MASK in space.spaces
    actions = check_spaces(environment, masked, squash, logits_chunk, value_bins)
    bodies = {"actor": observing(body, space, "actor_observations", actor_observations, compute_dtype)}
    if critic_body is not None:
        bodies["critic"] = observing(critic_body, space, "critic_observations", critic_observations, compute_dtype)
    elif critic_observations is not None:
        raise ValueError("critic_observations needs a critic_body: a shared body sees what the actor sees")
    policy_head, value_head = PolicyHead(actions, squash, logits_chunk), ValueHead(value_bins)

    def initial_carry(batch: int) -> Any:
        carries = {name: body.initial_carry(batch) for name, body in bodies.items()}
        return carries if jax.tree.leaves(carries) else ()

    def features(params: dict, carry: Any, observations: Any, resets: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        """Returns the new carry, and the features that the policy head and the value head read."""
        remembers, features = bool(carry), []
        carry = dict(carry) if remembers else {name: body.initial_carry(1) for name, body in bodies.items()}
        for name, body in bodies.items():
            carry[name], output = body.apply(params[name], carry[name], observations, resets)
            features.append(output)
        return (carry if remembers else ()), features[0], features[-1]

    def init(key: jax.Array) -> dict:
        policy_key, value_key, *keys = jax.random.split(key, 2 + len(bodies))
        observations = jax.tree.map(lambda x: x[None, None], zeros(space))
        params = {name: bodies[name].init(key, observations) for name, key in zip(bodies, keys, strict=True)}
        shapes = jax.eval_shape(features, params, initial_carry(1), observations, jnp.zeros((1, 1), bool))
        actor, critic = (jnp.zeros(shape.shape, shape.dtype) for shape in shapes[1:])
        mask = observations[MASK] if masked else None
        heads = {"policy": policy_head.init(policy_key, actor, mask), "value": value_head.init(value_key, critic)}
        return params | heads

    def apply(params: dict, carry: Any, observations: Any, resets: jax.Array) -> tuple:
        carry, actor, critic = features(params, carry, observations, resets)
        mask = observations[MASK] if masked else None
        return carry, policy_head.apply(params["policy"], actor, mask), value_head.apply(params["value"], critic)

    return Policy(init, initial_carry, apply, space)


def mlp_policy(
    environment: Environment, hidden_sizes: Sequence[int] = (64, 64), activation: str = "tanh", shared: bool = False
) -> Policy:
    """Returns a feed-forward actor-critic without memory.

    Args:
      environment: The environment whose spaces the policy is for.
      hidden_sizes, activation: As for `mlp`.
      shared: Whether actor and critic share the hidden layers.
    """
    body = mlp(hidden_sizes, activation)
    return actor_critic(environment, body, None if shared else body)
