"""What a critic may predict: the value itself, or a histogram of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class ValueBins(NamedTuple):
    """A histogram over values: `count` bins whose centres run from `low` to `high`.

    Attributes:
      low, high: in units of the value targets; targets outside are taken for the nearer of the two.
      count: how many bins.
      spread: of a target's Gaussian, in widths of a bin (HL-Gauss); 0 shares it between the two nearest bins (two-hot).
    """

    low: float
    high: float
    count: int = 51
    spread: float = 0.75

    def validate(self) -> None:
        """Raises ValueError, with one line, for bins that are none."""
        if not (self.low < self.high and self.count >= 2 and self.spread >= 0):
            raise ValueError(f"value_bins must have low < high, count >= 2 and spread >= 0, got {tuple(self)}")


@struct.dataclass
class CategoricalValue:
    """A value as a histogram, learned by cross-entropy (Farebrother et al. 2024, arXiv:2403.03950, section 3).

    Attributes:
      logits: `[..., count]`.
      bins: what they stand for.
    """

    logits: jax.Array
    bins: ValueBins = struct.field(pytree_node=False)

    def mean(self) -> jax.Array:
        """The values `[...]`."""
        centres = jnp.linspace(self.bins.low, self.bins.high, self.bins.count)
        return jnp.sum(jax.nn.softmax(self.logits) * centres, axis=-1)

    def loss(self, targets: jax.Array) -> jax.Array:
        """Cross-entropies `[...]` with the histograms of `targets` `[...]`, in nats."""
        return -jnp.sum(histogram(targets, self.bins) * jax.nn.log_softmax(self.logits), axis=-1)


def histogram(values: jax.Array, bins: ValueBins) -> jax.Array:
    """The probabilities `[..., count]` that stand for numbers `[...]`; their mean is the number, but near the ends."""
    width = (bins.high - bins.low) / (bins.count - 1)
    centres = jnp.linspace(bins.low, bins.high, bins.count)
    distances = (jnp.clip(values, bins.low, bins.high)[..., None] - centres) / width
    if bins.spread == 0:
        return jax.nn.relu(1 - jnp.abs(distances))
    edges = jax.scipy.stats.norm.cdf(jnp.stack([0.5 - distances, -0.5 - distances]) / bins.spread)
    weights = edges[0] - edges[1]
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def expected_values(values: Any) -> jax.Array:
    """The values `[...]` of a critic's output: itself, or its mean where it is a histogram."""
    return values if isinstance(values, jax.Array) else values.mean()
