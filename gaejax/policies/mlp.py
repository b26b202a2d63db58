"""The multi-layer perceptron."""

import numbers
from collections.abc import Sequence

from gaejax.policies.bodies import Body, feed_forward
from gaejax.policies.layers import MLP, activation_function


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
