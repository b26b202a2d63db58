"""Layers: initializers, hidden layers, and heads that turn features into distributions and values."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gaejax.distributions import (
    Categorical,
    CategoricalValue,
    DiagonalGaussian,
    Distribution,
    LazyCategorical,
    MultiCategorical,
    TanhGaussian,
    ValueBins,
    mask_logits,
)
from gaejax.environments import Box, Discrete, MultiDiscrete

Activation = Callable[[jax.Array], jax.Array]
ACTIVATIONS: dict[str, Activation] = {
    "tanh": nn.tanh,
    "relu": nn.relu,
    "swish": nn.swish,
    "gelu": nn.gelu,
    "elu": nn.elu,
}


def orthogonal(gain: float) -> Callable[..., jax.Array]:
    """Returns an initializer of matrices with orthonormal rows or columns, times `gain` (Saxe et al. 2014,
    arXiv:1312.6120).

    It applies Gram-Schmidt to a Gaussian matrix (each column twice, which is enough: Giraud et al. 2005), so the result
    is uniformly distributed. It replaces `jax.nn.initializers.orthogonal`, whose batched LAPACK calls deadlock jaxlib's
    CPU thread pool (seen in 0.10.2) when one program has several of them, as when an `init` is vmapped over seeds.
    """

    def init(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        size, count = max(shape), min(shape)
        columns = jax.random.normal(key, (count, size), dtype)

        # Sums, not products: exact on TPU, quick to compile.
        project = lambda basis, x: x - jnp.sum(jnp.sum(basis * x, axis=1)[:, None] * basis, axis=0)
        twice = lambda basis, x: project(basis, project(basis, x))
        add = lambda basis, index, x: basis.at[index].set(x / jnp.linalg.norm(x))
        basis = jax.lax.fori_loop(
            0, count, lambda index, basis: add(basis, index, twice(basis, columns[index])), jnp.zeros_like(columns)
        )
        return gain * (basis if shape == basis.shape else basis.T)

    return init


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


class PolicyHead(nn.Module):
    """Computes the distribution over an action space from features `[..., h]` and, if given, a mask `[..., A]`.

    Real actions have a standard deviation that does not depend on the observation and starts at 1. Weights are
    orthogonal with gain .01 (Andrychowicz et al. 2021, arXiv:2006.05990).
    """

    space: Discrete | MultiDiscrete | Box
    squash: bool = False
    chunk: int | None = None

    @nn.compact
    def __call__(self, features: jax.Array, action_mask: jax.Array | None = None) -> Distribution:
        if isinstance(self.space, Box):
            mean = Readout(self.space.shape[0], gain=0.01)(features)
            log_std = self.param("log_std", nn.initializers.zeros, self.space.shape, jnp.float32)
            distribution = TanhGaussian if self.squash else DiagonalGaussian
            return distribution(mean, jnp.broadcast_to(log_std, mean.shape))
        sizes = (self.space.n,) if isinstance(self.space, Discrete) else tuple(self.space.sizes)
        if self.chunk is not None:
            kernel = self.param("kernel", orthogonal(0.01), (sizes[0], features.shape[-1]), jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (sizes[0],), jnp.float32)
            return LazyCategorical(features, kernel, bias, self.chunk)
        logits = Readout(sum(sizes), gain=0.01)(features)
        if action_mask is not None:
            ends = np.cumsum(sizes)[:-1]
            parts = zip(jnp.split(logits, ends, axis=-1), jnp.split(action_mask, ends, axis=-1), strict=True)
            logits = jnp.concatenate([mask_logits(*part) for part in parts], axis=-1)
        return Categorical(logits) if isinstance(self.space, Discrete) else MultiCategorical(logits, tuple(sizes))


class ValueHead(nn.Module):
    """Computes the value `[...]`, or its histogram, from features `[..., h]`.

    Weights are orthogonal with gain 1 (.01 for a histogram).
    """

    bins: ValueBins | None = None

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array | CategoricalValue:
        if self.bins is not None:
            return CategoricalValue(Readout(self.bins.count, gain=0.01)(features), self.bins)
        return Readout(1, gain=1.0)(features)[..., 0]
