"""What a policy must know of an environment's spaces: whether heads fit them, and what it returns for them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.distributions import ValueBins
from gaejax.environments import UNBOUNDED, Box, Dict, Discrete, Environment, MultiBinary, MultiDiscrete, Space
from gaejax.environments.spaces import MASK, zeros
from gaejax.policies.policy import Policy, check_is_policy


def distribution_of(policy: Policy, environment: Environment) -> type:
    """Returns the class of the distributions that a policy returns in an environment, without computing anything."""
    check_is_policy(policy)

    def apply(key: jax.Array) -> Any:
        observations = jax.tree.map(lambda x: x[None, None], zeros(environment.observation_space))
        return policy.apply(policy.init(key), policy.initial_carry(1), observations, jnp.ones((1, 1), bool))[1]

    return type(jax.eval_shape(apply, jax.random.key(0)))


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


def choice_sizes(space: Discrete | MultiDiscrete) -> tuple[int, ...]:
    """Returns the number of actions of each choice in a discrete space."""
    return (space.n,) if isinstance(space, Discrete) else tuple(space.sizes)
