"""Heads: from features to a distribution over actions, and to a value."""

from typing import Any

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
from gaejax.environments import Box, Discrete, Space
from gaejax.policies.critics import CategoricalValue, ValueBins
from gaejax.policies.initializers import orthogonal
from gaejax.policies.layers import Readout


class PolicyHead(nn.Module):
    """The distribution over an action space, from features `[..., h]`, and a mask of logits where there is one.

    Real numbers get a standard deviation that does not depend on the state, 1 at the start. Weights are orthogonal with
    gain .01 (Andrychowicz et al. 2021, arXiv:2006.05990).
    """

    space: Space
    squash: bool = False
    chunk: int | None = None

    @nn.compact
    def __call__(self, features: jax.Array, action_mask: jax.Array | None = None) -> Distribution:
        if isinstance(self.space, Box):
            mean = Readout(self.space.shape[0], gain=0.01)(features)
            log_std = self.param("log_std", nn.initializers.zeros, self.space.shape, jnp.float32)
            distribution = TanhGaussian if self.squash else DiagonalGaussian
            return distribution(mean, jnp.broadcast_to(log_std, mean.shape))
        if self.chunk is not None:
            kernel = self.param("kernel", orthogonal(0.01), (self.space.n, features.shape[-1]), jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (self.space.n,), jnp.float32)
            return LazyCategorical(features, kernel, bias, self.chunk)
        sizes = choice_sizes(self.space)
        logits = Readout(sum(sizes), gain=0.01)(features)
        if action_mask is not None:
            ends = np.cumsum(sizes)[:-1]
            parts = zip(jnp.split(logits, ends, axis=-1), jnp.split(action_mask, ends, axis=-1), strict=True)
            logits = jnp.concatenate([mask_logits(*part) for part in parts], axis=-1)
        return Categorical(logits) if isinstance(self.space, Discrete) else MultiCategorical(logits, tuple(sizes))


class ValueHead(nn.Module):
    """The value `[...]` of features `[..., h]`, or its histogram; weights orthogonal with gain 1."""

    bins: ValueBins | None = None

    @nn.compact
    def __call__(self, features: jax.Array) -> Any:
        if self.bins is not None:
            return CategoricalValue(Readout(self.bins.count, gain=0.01)(features), self.bins)
        return Readout(1, gain=1.0)(features)[..., 0]


def choice_sizes(space: Space) -> tuple[int, ...]:
    """How many actions each choice of a discrete space has."""
    return (space.n,) if isinstance(space, Discrete) else tuple(space.sizes)
