"""The multi-layer perceptron actor-critic."""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.distributions import Categorical, DiagonalGaussian, Distribution
from gaejax.environments import Box, Discrete, Environment, Space
from gaejax.policies.core import Policy
from gaejax.policies.initializers import orthogonal

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "swish": nn.swish, "gelu": nn.gelu, "elu": nn.elu}


def mlp_policy(
    environment: Environment, hidden_sizes: Sequence[int] = (64, 64), activation: str = "tanh", shared: bool = False
) -> Policy:
    """A feed-forward actor-critic for an environment's spaces, without memory.

    Discrete actions get a categorical head, real ones a diagonal Gaussian with a state-independent standard deviation
    of 1 at the start. Discrete observations are one-hot encoded, boxes flattened. Weights are orthogonal with gain
    sqrt(2), .01 for the actor's head and 1 for the critic's (Andrychowicz et al. 2021, arXiv:2006.05990).

    Args:
      environment: whose observation and action spaces the policy is for.
      hidden_sizes: widths of the hidden layers.
      activation: one of "tanh", "relu", "swish", "gelu", "elu".
      shared: whether actor and critic share the hidden layers.

    Raises:
      ValueError: for an unsupported space, width or activation.
    """
    for role in ("observation_space", "action_space"):
        space = getattr(environment, role)
        if not isinstance(space, Discrete | Box):
            raise ValueError(f"{role} of {environment.name} must be Discrete or Box, got {type(space).__name__}")
    if isinstance(environment.action_space, Box) and len(environment.action_space.shape) != 1:
        shape = environment.action_space.shape
        raise ValueError(f"action_space of {environment.name} must be a Box of one axis, got shape {shape}")
    hidden_sizes = (hidden_sizes,) if isinstance(hidden_sizes, int) else tuple(hidden_sizes)
    if not all(isinstance(size, numbers.Integral) and size > 0 for size in hidden_sizes):
        raise ValueError(f"hidden_sizes must be positive integers, got {hidden_sizes}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    module = ActorCritic(environment.action_space, hidden_sizes, ACTIVATIONS[activation], shared)
    observation_space = environment.observation_space

    def init(key: jax.Array) -> Any:
        return module.init(key, encode(jnp.zeros((1, *observation_space.shape), jnp.int32), observation_space))

    def initial_carry(batch: int) -> tuple:
        return ()

    def apply(
        params: Any, carry: tuple, observations: jax.Array, resets: jax.Array
    ) -> tuple[tuple, Distribution, jax.Array]:
        # Products on one folded axis: XLA:CPU takes 2.9 times as long for the gradient of a layer on [1, B, d].
        steps, rows = observations.shape[:2]
        folded = observations.reshape(steps * rows, *observations.shape[2:])
        outputs = module.apply(params, encode(folded, observation_space))
        distributions, values = jax.tree.map(lambda x: x.reshape(steps, rows, *x.shape[1:]), outputs)
        return carry, distributions, values

    return Policy(init, initial_carry, apply)


def encode(observations: jax.Array, space: Space) -> jax.Array:
    """Observations `[B, ...]` as float features `[B, d]`: one-hot for a discrete space, flattened for a box."""
    if isinstance(space, Discrete):
        return jax.nn.one_hot(observations, space.n, dtype=jnp.float32)
    return observations.reshape(observations.shape[0], -1).astype(jnp.float32)


class Readout(nn.Module):
    """A dense layer to a few outputs: `[B, h]` to `[B, size]`.

    The kernel is stored `[size, h]`, so its gradient is `dy.T @ x`: XLA:CPU takes four to ten times as long for the
    `x.T @ dy` of the usual form when dy has few columns.
    """

    size: int
    gain: float

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        kernel = self.param("kernel", orthogonal(self.gain), (self.size, features.shape[-1]), jnp.float32)
        return features @ kernel.T + self.param("bias", nn.initializers.zeros, (self.size,), jnp.float32)


class Body(nn.Module):
    """Hidden layers: `[B, d]` to `[B, h]`."""

    hidden_sizes: Sequence[int]
    activation: Callable

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        for size in self.hidden_sizes:
            dense = nn.Dense(size, kernel_init=orthogonal(math.sqrt(2)))
            features = self.activation(dense(features))
        return features


class Head(nn.Module):
    """The distribution over an action space, from features `[B, h]`."""

    space: Space

    @nn.compact
    def __call__(self, features: jax.Array) -> Distribution:
        if isinstance(self.space, Discrete):
            return Categorical(Readout(self.space.n, gain=0.01)(features))
        mean = Readout(self.space.shape[0], gain=0.01)(features)
        log_std = self.param("log_std", nn.initializers.zeros, self.space.shape, jnp.float32)
        return DiagonalGaussian(mean, jnp.broadcast_to(log_std, mean.shape))


class ActorCritic(nn.Module):
    """A policy head and a value head on separate bodies, or on a shared one."""

    action_space: Space
    hidden_sizes: Sequence[int]
    activation: Callable
    shared: bool

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[Distribution, jax.Array]:
        actor = Body(self.hidden_sizes, self.activation, name="shared" if self.shared else "actor")(features)
        critic = actor if self.shared else Body(self.hidden_sizes, self.activation, name="critic")(features)
        distribution = Head(self.action_space, name="policy")(actor)
        values = Readout(1, gain=1.0, name="value")(critic)
        return distribution, values[..., 0]
