"""The convolutional network for small images."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.policies.bodies import Body, feed_forward
from gaejax.policies.initializers import orthogonal
from gaejax.policies.layers import activation_function
from gaejax.policies.mlp import MLP, check_sizes


def cnn(
    channels: int = 16,
    window: int = 3,
    hidden_sizes: Sequence[int] = (128,),
    activation: str = "relu",
    layer_norm: bool = False,
) -> Body:
    """One convolution over images `[H, W, C]`, then hidden layers (Young & Tian 2019, arXiv:1903.03176), no memory.

    Args:
      channels: how many filters.
      window: their height and width in pixels; they stay inside the image.
      hidden_sizes: widths of the layers behind it.
      activation: one of "tanh", "relu", "swish", "gelu", "elu".
      layer_norm: whether each layer is normalized before its activation.

    Raises:
      ValueError: for a size or an activation that there is not, and at `init` for inputs that are no images.
    """
    check_sizes("channels and window", (channels, window))
    hidden_sizes = check_sizes("hidden_sizes", hidden_sizes)
    module = CNN(channels, window, hidden_sizes, activation_function(activation), layer_norm)
    return feed_forward(module.init, module.apply)


class CNN(nn.Module):
    """`[B, H, W, C]` to `[B, h]`."""

    channels: int
    window: int
    hidden_sizes: Sequence[int]
    activation: Callable
    layer_norm: bool

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = images.shape[1:] if isinstance(images, jax.Array) else None
        if shape is None or len(shape) != 3 or min(shape[:2]) < self.window:
            wanted = f"images [H, W, C] of at least {self.window} x {self.window} pixels"
            raise ValueError(f"the inputs of cnn must be {wanted}, got {'several' if shape is None else shape}")
        # The convolution as a product over patches: XLA:CPU's own takes several times as long for the gradient.
        height, width = (size - self.window + 1 for size in shape[:2])
        offsets = [(i, j) for i in range(self.window) for j in range(self.window)]
        patches = jnp.concatenate([images[:, i : i + height, j : j + width] for i, j in offsets], axis=-1)
        convolution = nn.Dense(self.channels, kernel_init=orthogonal(math.sqrt(2)))
        features = convolution(patches.reshape(-1, patches.shape[-1]))
        features = self.activation(nn.LayerNorm()(features) if self.layer_norm else features)
        features = features.reshape(images.shape[0], height * width * self.channels)
        return MLP(self.hidden_sizes, self.activation, self.layer_norm)(features)
