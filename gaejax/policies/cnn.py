"""The convolutional network for small images."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.policies.bodies import Body, feed_forward
from gaejax.policies.layers import MLP, Activation, activation_function, orthogonal
from gaejax.policies.mlp import check_sizes


def cnn(
    channels: int = 16,
    window: int = 3,
    hidden_sizes: Sequence[int] = (128,),
    activation: str = "relu",
    layer_norm: bool = False,
) -> Body:
    """Returns a body of one convolution over images `[H, W, C]` and hidden layers after it, without memory.

    (Young & Tian 2019, arXiv:1903.03176.)

    Args:
      channels: Number of filters.
      window: Height and width of the filters in pixels; there is no padding.
      hidden_sizes: Widths of the hidden layers.
      activation: One of "tanh", "relu", "swish", "gelu", "elu".
      layer_norm: Whether to apply layer normalization before each activation.

    Raises:
      ValueError: for an invalid size or an unknown activation; in `init`, if the inputs are not images.
    """
    check_sizes("channels and window", (channels, window))
    hidden_sizes = check_sizes("hidden_sizes", hidden_sizes)
    module = CNN(channels, window, hidden_sizes, activation_function(activation), layer_norm)
    return feed_forward(module.init, module.apply)


class CNN(nn.Module):
    """A convolution and hidden layers: `[B, H, W, C]` to `[B, h]`."""

    channels: int
    window: int
    hidden_sizes: Sequence[int]
    activation: Activation
    layer_norm: bool

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = images.shape[1:] if isinstance(images, jax.Array) else None
        if shape is None or len(shape) != 3 or min(shape[:2]) < self.window:
            wanted = f"images [H, W, C] of at least {self.window} x {self.window} pixels"
            raise ValueError(f"the inputs of cnn must be {wanted}, got {'several' if shape is None else shape}")
        # A product over patches: the gradient of XLA:CPU's own convolution takes several times as long.
        height, width = (size - self.window + 1 for size in shape[:2])
        offsets = [(i, j) for i in range(self.window) for j in range(self.window)]
        patches = jnp.concatenate([images[:, i : i + height, j : j + width] for i, j in offsets], axis=-1)
        convolution = nn.Dense(self.channels, kernel_init=orthogonal(math.sqrt(2)))
        features = convolution(patches.reshape(-1, patches.shape[-1]))
        features = self.activation(nn.LayerNorm()(features) if self.layer_norm else features)
        features = features.reshape(images.shape[0], height * width * self.channels)
        return MLP(self.hidden_sizes, self.activation, self.layer_norm)(features)
