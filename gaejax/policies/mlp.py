"""The multi-layer perceptron."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from gaejax.policies.bodies import Body, feed_forward
from gaejax.policies.initializers import orthogonal
from gaejax.policies.layers import Activation, activation_function, flat


def mlp(hidden_sizes: Sequence[int] = (64, 64), activation: str = "tanh", layer_norm: bool = False) -> Body:
    """Returns a body of hidden layers over the flattened inputs, without memory.

    Weights are orthogonal with gain sqrt(2).

    Args:
      hidden_sizes: Widths of the layers; without any, the flattened inputs are the features.
      activation: One of "tanh", "relu", "swish", "gelu", "elu".
      layer_norm: Whether to apply layer normalization before each activation.

    Raises:
      ValueError: for an invalid width or an unknown activation.
    """
    module = MLP(check_sizes("hidden_sizes", hidden_sizes), activation_function(activation), layer_norm)
    return feed_forward(module.init, module.apply)


def check_sizes(name: str, sizes: Sequence[int] | int) -> tuple[int, ...]:
    """Returns `sizes` as a tuple. Raises ValueError unless they are positive integers."""
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if not all(isinstance(size, numbers.Integral) and size > 0 for size in sizes):
        raise ValueError(f"{name} must be positive integers, got {sizes}")
    return sizes


class MLP(nn.Module):
    """Hidden layers: `[B, ...]` to `[B, h]`."""

    hidden_sizes: Sequence[int]
    activation: Activation
    layer_norm: bool = False

    @nn.compact
    def __call__(self, inputs: Any) -> jax.Array:
        features = flat(inputs)
        for size in self.hidden_sizes:
            features = nn.Dense(size, kernel_init=orthogonal(math.sqrt(2)))(features)
            features = self.activation(nn.LayerNorm()(features) if self.layer_norm else features)
        return features
