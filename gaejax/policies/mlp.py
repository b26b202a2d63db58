"""The multi-layer perceptron."""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from gaejax.policies.bodies import Body, feed_forward
from gaejax.policies.initializers import orthogonal
from gaejax.policies.layers import activation_function, flat


def mlp(hidden_sizes: Sequence[int] = (64, 64), activation: str = "tanh", layer_norm: bool = False) -> Body:
    """Hidden layers over the flattened inputs, without memory; orthogonal weights with gain sqrt(2).

    Args:
      hidden_sizes: widths of the layers; none leaves the inputs as they are.
      activation: one of "tanh", "relu", "swish", "gelu", "elu".
      layer_norm: whether each layer is normalized before its activation.

    Raises:
      ValueError: for a width or an activation that there is not.
    """
    module = MLP(check_sizes("hidden_sizes", hidden_sizes), activation_function(activation), layer_norm)
    return feed_forward(module.init, module.apply)


def check_sizes(name: str, sizes: Sequence[int] | int) -> tuple[int, ...]:
    """`sizes` as a tuple; ValueError unless they are positive integers."""
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if not all(isinstance(size, numbers.Integral) and size > 0 for size in sizes):
        raise ValueError(f"{name} must be positive integers, got {sizes}")
    return sizes


class MLP(nn.Module):
    """`[B, ...]` to `[B, h]`."""

    hidden_sizes: Sequence[int]
    activation: Callable
    layer_norm: bool = False

    @nn.compact
    def __call__(self, inputs: Any) -> jax.Array:
        features = flat(inputs)
        for size in self.hidden_sizes:
            features = nn.Dense(size, kernel_init=orthogonal(math.sqrt(2)))(features)
            features = self.activation(nn.LayerNorm()(features) if self.layer_norm else features)
        return features
