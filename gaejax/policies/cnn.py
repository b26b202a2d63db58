"""The convolutional network for small images."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax

from gaejax.policies.core import Body, feed_forward
from gaejax.policies.initializers import orthogonal
from gaejax.policies.layers import activation_function


def cnn(channels: int = 16, window: int = 3, hidden_size: int = 128, activation: str = "relu") -> Body:
    """One convolution over images `[H, W, C]`, then a dense layer (Young & Tian 2019, arXiv:1903.03176), no memory.

    Args:
      channels: how many filters.
      window: their height and width in pixels; they stay inside the image.
      hidden_size: width of the dense layer.
      activation: one of "tanh", "relu", "swish", "gelu", "elu".

    Raises:
      ValueError: for an activation that there is not, and at `init` for inputs that are no images.
    """
    module = CNN(channels, window, hidden_size, activation_function(activation))
    return feed_forward(module.init, module.apply)


class CNN(nn.Module):
    """`[B, H, W, C]` to `[B, h]`."""

    channels: int
    window: int
    hidden_size: int
    activation: Callable

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = getattr(images, "shape", (None,))[1:]
        if len(shape) != 3 or min(shape[:2]) < self.window:
            wanted = f"images [H, W, C] of at least {self.window} x {self.window} pixels"
            raise ValueError(f"the inputs of cnn must be {wanted}, got shape {shape}")
        # The convolution as a product over patches: on CPU its gradient takes a fraction of the library's.
        height, width = (size - self.window + 1 for size in shape[:2])
        steps = [(i, j) for i in range(self.window) for j in range(self.window)]
        patches = [images[:, i : i + height, j : j + width] for i, j in steps]
        kernel_init = orthogonal(math.sqrt(2))
        convolution = nn.Dense(self.channels, kernel_init=kernel_init)
        patches = jax.numpy.concatenate(patches, axis=-1)
        features = self.activation(convolution(patches.reshape(-1, patches.shape[-1])))
        features = features.reshape(images.shape[0], height * width * self.channels)
        return self.activation(nn.Dense(self.hidden_size, kernel_init=kernel_init)(features))
