"""The actor-critic: any body, the head for the action space, a value."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.environments import UNBOUNDED, Box, Dict, Discrete, Environment, MultiBinary, MultiDiscrete, Space
from gaejax.policies.core import Body, Policy
from gaejax.policies.heads import PolicyHead, ValueHead, choice_sizes
from gaejax.policies.layers import encode
from gaejax.policies.mlp import mlp
from gaejax.values import ValueBins

MASK = "action_mask"


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
    compute_dtype: Any = jnp.float32,
) -> Policy:
    """A policy of a body and the heads for an environment's spaces.

    Integers among the observations are one-hot encoded. Of a `Dict` the bodies get a dict (most flatten and join its
    parts; `parallel` gives each part a body of its own); a part called `"action_mask"`, a `MultiBinary` of one boolean
    an action (of several choices: theirs, joined), says which actions may be taken, and is not among the inputs.

    Args:
      environment: whose spaces the policy is for.
      body: between the observations and the policy's head. The critic reads its features too, unless it has a
      critic_body: of its own.
      actor_observations, critic_observations: the parts of a `Dict` that each sees (an asymmetric critic sees more than
        the actor); default: all.
      squash: whether real actions are squashed into their bounds by a tanh, instead of clipped there.
      value_bins: of a critic that predicts a histogram of values; default: a number.
      logits_chunk: positions whose logits are made at one time, where `[T, N, actions]` would not fit.
      compute_dtype: of the bodies, for example `jnp.bfloat16`; parameters, memories, heads and losses stay float32.

    Raises:
      ValueError: for an unsupported space or option, in one line.
    """
    space, actions = environment.observation_space, environment.action_space
    masked = isinstance(space, Dict) and MASK in space.spaces
    check_spaces(environment, masked, squash, logits_chunk, value_bins)
    bodies = {"actor": observing(body, space, "actor_observations", actor_observations, compute_dtype)}
    if critic_body is not None:
        bodies["critic"] = observing(critic_body, space, "critic_observations", critic_observations, compute_dtype)
    elif critic_observations is not None:
        raise ValueError("critic_observations needs a critic_body: a shared one sees what the actor sees")
    policy_head, value_head = PolicyHead(actions, squash, logits_chunk), ValueHead(value_bins)

    def initial_carry(batch: int) -> Any:
        carries = {name: body.initial_carry(batch) for name, body in bodies.items()}
        return carries if jax.tree.leaves(carries) else ()

    def features(params: dict, carry: Any, observations: Any, resets: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        """The new carry, and what the policy's and the value's head read."""
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
    """A feed-forward actor-critic without memory; `shared`: whether both share the hidden layers. See `mlp`."""
    body = mlp(hidden_sizes, activation)
    return actor_critic(environment, body, None if shared else body)


def observing(body: Body, space: Space, argument: str, names: Sequence[str] | None, compute_dtype: Any) -> Body:
    """A body of float inputs as one of observations, which computes in `compute_dtype` and returns float32."""
    if isinstance(space, Dict):
        known = [name for name in space.spaces if name != MASK]
        names = known if names is None else list(names)
        if not names or not set(names) <= set(known):
            raise ValueError(f"{argument} must be among {', '.join(known)}, got {', '.join(names) or 'none'}")
        space = Dict({name: space.spaces[name] for name in names})
    elif names is not None:
        raise ValueError(f"{argument} needs a Dict of observations, got a {type(space).__name__}")

    def compute(x: jax.Array) -> jax.Array:
        return x.astype(compute_dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    def init(key: jax.Array, observations: Any) -> Any:
        return body.init(key, encode(observations, space))

    def apply(params: Any, carry: Any, observations: Any, resets: jax.Array) -> tuple[Any, jax.Array]:
        params, inputs = jax.tree.map(compute, (params, encode(observations, space)))
        carry, features = body.apply(params, carry, inputs, resets)
        return carry, features.astype(jnp.float32)

    return Body(init, body.initial_carry, apply)


def distribution_of(policy: Policy, environment: Environment) -> type:
    """The kind of distribution that a policy returns for an environment's observations; nothing is computed."""

    def apply(key: jax.Array) -> Any:
        observations = jax.tree.map(lambda x: x[None, None], zeros(environment.observation_space))
        return policy.apply(policy.init(key), policy.initial_carry(1), observations, jnp.ones((1, 1), bool))[1]

    return type(jax.eval_shape(apply, jax.random.key(0)))


def zeros(space: Space) -> Any:
    """An observation of a space: zeros (of an action mask: everything allowed)."""
    if isinstance(space, Dict):
        return {name: zeros(part) for name, part in space.spaces.items()}
    dtype = {Box: jnp.float32, MultiBinary: jnp.bool_}.get(type(space), jnp.int32)
    return jnp.zeros(space.shape, dtype)


def check_spaces(
    environment: Environment,
    masked: bool,
    squash: bool = False,
    logits_chunk: int | None = None,
    value_bins: ValueBins | None = None,
) -> None:
    """Raises ValueError for what no head fits."""
    space, name = environment.action_space, environment.name
    if not isinstance(space, Discrete | MultiDiscrete | Box):
        kind = type(space).__name__
        raise ValueError(f"action_space of {name} must be Discrete, MultiDiscrete or Box, got {kind}")
    if not isinstance(environment.observation_space, Space):
        kind = type(environment.observation_space).__name__
        raise ValueError(f"observation_space of {name} must be one of gaejax.environments', got {kind}")
    if isinstance(space, Box):
        if len(space.shape) != 1:
            raise ValueError(f"action_space of {name} must be a Box of one axis, got shape {space.shape}")
        if squash and not np.all(np.abs([space.low, space.high]) < UNBOUNDED):
            raise ValueError(f"squash needs actions with two finite bounds, and those of {name} have not")
        if masked:
            raise ValueError(f"{name} has an action_mask, but its actions are real numbers")
    elif squash:
        raise ValueError(f"squash needs real actions, and those of {name} are discrete")
    if masked:
        mask, shape = environment.observation_space.spaces[MASK], (sum(choice_sizes(space)),)
        if not isinstance(mask, MultiBinary) or mask.shape != shape:
            raise ValueError(f"action_mask of {name} must be MultiBinary({shape}), a boolean an action, got {mask}")
    if logits_chunk is not None and (logits_chunk < 1 or masked or not isinstance(space, Discrete)):
        raise ValueError(f"logits_chunk must be at least 1, for one discrete action without a mask, got {logits_chunk}")
    if value_bins is not None:
        value_bins.validate()
