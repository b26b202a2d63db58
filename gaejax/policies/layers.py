"""Layers that the bodies share, and how observations become their inputs."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.policies.initializers import orthogonal

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "swish": nn.swish, "gelu": nn.gelu, "elu": nn.elu}


def flat(inputs: Any) -> jax.Array:
    """Flattens and concatenates inputs with leaves `[B, ...]` to `[B, d]`; inputs of size 0 become a 0, `[B, 1]`."""
    parts = [x.reshape(x.shape[0], math.prod(x.shape[1:])) for x in jax.tree.leaves(inputs)]
    joined = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
    return joined if joined.shape[1] else jnp.zeros((joined.shape[0], 1), joined.dtype)


def activation_function(name: str) -> Any:
    """The function called `name`; ValueError if there is none."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def check_positive(what: str, **sizes: int) -> None:
    """Raises ValueError for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} of {what} must be at least 1, got {size}")


class Readout(nn.Module):
    """A dense layer to a few outputs: `[..., h]` to `[..., size]`.

    The kernel is stored `[size, h]`, so its gradient is `dy.T @ x`: XLA:CPU takes four to ten times as long for the
    `x.T @ dy` of the usual form when dy has few columns, and longer still where the product's rows are not one axis.
    """

    size: int
    gain: float

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        kernel = self.param("kernel", orthogonal(self.gain), (self.size, features.shape[-1]), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.size,), jnp.float32)
        outputs = features.reshape(math.prod(features.shape[:-1]), features.shape[-1]) @ kernel.T + bias
        return outputs.reshape(*features.shape[:-1], self.size)
