"""Layers and checks that the bodies share."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.policies.initializers import orthogonal

Activation = Callable[[jax.Array], jax.Array]
ACTIVATIONS: dict[str, Activation] = {
    "tanh": nn.tanh,
    "relu": nn.relu,
    "swish": nn.swish,
    "gelu": nn.gelu,
    "elu": nn.elu,
}


def flat(inputs: Any) -> jax.Array:
    """Flattens and concatenates inputs with leaves `[B, ...]` to `[B, d]`; inputs of size 0 become a 0, `[B, 1]`."""
    parts = [x.reshape(x.shape[0], math.prod(x.shape[1:])) for x in jax.tree.leaves(inputs)]
    joined = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
    return joined if joined.shape[1] else jnp.zeros((joined.shape[0], 1), joined.dtype)


def activation_function(name: str) -> Activation:
    """Returns the activation function called `name`. Raises ValueError if there is none."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def check_positive(what: str, **sizes: int) -> None:
    """Raises ValueError if a size is less than 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} of {what} must be at least 1, got {size}")


class Readout(nn.Module):
    """A dense layer with few outputs: `[..., h]` to `[..., size]`.

    The kernel is stored as `[size, h]`, so that its gradient is `dy.T @ x`. The gradient of the usual form, `x.T @ dy`,
    takes XLA:CPU four to ten times as long when dy has few columns, and longer if the leading axes are not folded.
    """

    size: int
    gain: float

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        kernel = self.param("kernel", orthogonal(self.gain), (self.size, features.shape[-1]), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.size,), jnp.float32)
        outputs = features.reshape(math.prod(features.shape[:-1]), features.shape[-1]) @ kernel.T + bias
        return outputs.reshape(*features.shape[:-1], self.size)
