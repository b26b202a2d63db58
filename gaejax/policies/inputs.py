"""How observations become the inputs of bodies, and the checks that a policy fits its environment's spaces."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.environments import UNBOUNDED, Box, Dict, Discrete, Environment, MultiBinary, MultiDiscrete, Space
from gaejax.policies.bodies import Body
from gaejax.policies.critics import ValueBins
from gaejax.policies.heads import choice_sizes
from gaejax.policies.policy import Policy

MASK = "action_mask"


def encode(observations: Any, space: Space) -> Any:
    """Observations `[..., *shape]` as floats: integers one-hot, all else as it is; of a dict, part by part."""
    if isinstance(space, Dict):
        return {name: encode(observations[name], part) for name, part in space.spaces.items()}
    if isinstance(space, Discrete):
        return jax.nn.one_hot(observations, space.n, dtype=jnp.float32)
    if isinstance(space, MultiDiscrete):
        choices = [jax.nn.one_hot(observations[..., k], size, dtype=jnp.float32) for k, size in enumerate(space.sizes)]
        return jnp.concatenate(choices, axis=-1) if choices else jnp.asarray(observations, jnp.float32)
    return jnp.asarray(observations, jnp.float32)


def observing(body: Body, space: Space, argument: str, names: Sequence[str] | None, compute_dtype: Any) -> Body:
    """A body of float inputs as one of observations, which computes in `compute_dtype` and returns float32."""
    if isinstance(space, Dict):
        known = [name for name in space.spaces if name != MASK]
        if not jax.tree.leaves(zeros(Dict({name: space.spaces[name] for name in known}))):
            raise ValueError(f"a Dict of observations must have one besides an action mask, got {list(space.spaces)}")
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
    if 0 in (*space.shape, len(getattr(space, "sizes", "discrete"))):
        raise ValueError(f"action_space of {name} must have at least one action, got {space}")
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
