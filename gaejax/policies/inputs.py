"""How observations become the inputs of bodies, and the check that heads fit an environment's spaces."""

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
    """Encodes observations `[..., *shape]` as floats: integers one-hot, others as they are; a dict entry by entry."""
    if isinstance(space, Dict):
        return {name: encode(observations[name], part) for name, part in space.spaces.items()}
    if isinstance(space, Discrete):
        return jax.nn.one_hot(observations, space.n, dtype=jnp.float32)
    if isinstance(space, MultiDiscrete):
        choices = [jax.nn.one_hot(observations[..., k], size, dtype=jnp.float32) for k, size in enumerate(space.sizes)]
        return jnp.concatenate(choices, axis=-1) if choices else jnp.asarray(observations, jnp.float32)
    return jnp.asarray(observations, jnp.float32)


def observing(
    body: Body, space: Space, argument: str, names: Sequence[str] | None, compute_dtype: jax.typing.DTypeLike
) -> Body:
    """Returns a body of observations from one of float inputs; it computes in `compute_dtype` and returns float32.

    Args:
      body: The body of float inputs.
      space: The observation space.
      argument: How the caller's argument for `names` is called, for messages.
      names: The entries of a `Dict` that the body sees; default: all but the action mask.
      compute_dtype: The floating-point type of parameters and inputs inside of the body.

    Raises:
      ValueError: if `names` are not among the space's.
    """
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
    """Returns the class of the distributions that a policy returns in an environment, without computing anything."""

    def apply(key: jax.Array) -> Any:
        observations = jax.tree.map(lambda x: x[None, None], zeros(environment.observation_space))
        return policy.apply(policy.init(key), policy.initial_carry(1), observations, jnp.ones((1, 1), bool))[1]

    return type(jax.eval_shape(apply, jax.random.key(0)))


def zeros(space: Space) -> Any:
    """Returns an observation of zeros. (An action mask of zeros allows everything.)"""
    if isinstance(space, Dict):
        return {name: zeros(part) for name, part in space.spaces.items()}
    dtypes: dict[type, Any] = {Box: jnp.float32, MultiBinary: jnp.bool_}
    return jnp.zeros(space.shape, dtypes.get(type(space), jnp.int32))


def check_spaces(
    environment: Environment,
    masked: bool,
    squash: bool = False,
    logits_chunk: int | None = None,
    value_bins: ValueBins | None = None,
) -> Discrete | MultiDiscrete | Box:
    """Returns the action space of an environment, after checking that heads fit it.

    Args:
      environment: The environment.
      masked: Whether its observations have an action mask.
      squash, logits_chunk, value_bins: As for `actor_critic`.

    Raises:
      ValueError: for spaces and options that no head fits.
    """
    space, name = environment.action_space, environment.name
    if not isinstance(space, Discrete | MultiDiscrete | Box):
        kind = type(space).__name__
        raise ValueError(f"action_space of {name} must be Discrete, MultiDiscrete or Box, got {kind}")
    if not isinstance(environment.observation_space, Space):
        kind = type(environment.observation_space).__name__
        raise ValueError(f"observation_space of {name} must be one of gaejax.environments', got {kind}")
    if 0 in space.shape:
        raise ValueError(f"action_space of {name} must have at least one action, got {space}")
    if isinstance(space, Box):
        _check_real_actions(space, name, masked, squash)
    elif squash:
        raise ValueError(f"squash needs real actions, but the actions of {name} are discrete")
    elif masked:
        _check_mask(environment.observation_space, (sum(choice_sizes(space)),), name)
    if logits_chunk is not None and (logits_chunk < 1 or masked or not isinstance(space, Discrete)):
        raise ValueError(f"logits_chunk must be at least 1, for one discrete action without a mask, got {logits_chunk}")
    if value_bins is not None:
        value_bins.validate()
    return space


def _check_real_actions(space: Box, name: str, masked: bool, squash: bool) -> None:
    if len(space.shape) != 1:
        raise ValueError(f"action_space of {name} must be a Box with one axis, got shape {space.shape}")
    if squash and not all(np.all(np.abs(bound) < UNBOUNDED) for bound in (space.low, space.high)):
        raise ValueError(f"squash needs actions with two finite bounds, which the actions of {name} do not have")
    if masked:
        raise ValueError(f"{name} has an action_mask, but its actions are real numbers")


def _check_mask(space: Space, shape: tuple[int, ...], name: str) -> None:
    mask = space.spaces[MASK] if isinstance(space, Dict) else None
    if not isinstance(mask, MultiBinary) or mask.shape != shape:
        raise ValueError(f"action_mask of {name} must be MultiBinary({shape}), one boolean per action, got {mask}")
