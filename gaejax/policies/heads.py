"""Heads: from features to a distribution over actions, and from features to a value."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gaejax.distributions import (
    Categorical,
    DiagonalGaussian,
    Distribution,
    LazyCategorical,
    MultiCategorical,
    TanhGaussian,
    mask_logits,
)
from gaejax.environments import Box, Discrete, MultiDiscrete
from gaejax.policies.critics import CategoricalValue, ValueBins
from gaejax.policies.initializers import orthogonal
from gaejax.policies.layers import Readout


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
        sizes = choice_sizes(self.space)
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


def choice_sizes(space: Discrete | MultiDiscrete) -> tuple[int, ...]:
    """Returns the number of actions of each choice in a discrete space."""
    return (space.n,) if isinstance(space, Discrete) else tuple(space.sizes)
