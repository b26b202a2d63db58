"""What a critic may predict: the value itself, or a histogram of it."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct


@dataclasses.dataclass(frozen=True)
class ValueBins:
    """A histogram over values: `count` bins whose centres run from `low` to `high`.

    Attributes:
      low, high: In units of the value targets; targets outside are clipped to them.
      count: The number of bins.
      spread: Standard deviation of the Gaussian that represents a target, in bin widths (HL-Gauss); 0 divides a target
        between the two nearest bins (two-hot).
    """

    low: float
    high: float
    count: int = 51
    spread: float = 0.75

    def validate(self) -> None:
        """Raises ValueError if the bins are invalid."""
        if not (self.low < self.high and self.count >= 2 and self.spread >= 0):
            raise ValueError(f"value_bins must have low < high, count >= 2 and spread >= 0, got {self}")


@struct.dataclass
class CategoricalValue:
    """A value as a histogram, learned by cross-entropy (Farebrother et al. 2024, arXiv:2403.03950, section 3).

    Attributes:
      logits: `[..., count]`.
      bins: The bins that the logits are for.
    """

    logits: jax.Array
    bins: ValueBins = struct.field(pytree_node=False)

    def mean(self) -> jax.Array:
        """Returns the expected values `[...]`."""
        centres = jnp.linspace(self.bins.low, self.bins.high, self.bins.count)
        return jnp.sum(jax.nn.softmax(self.logits) * centres, axis=-1)

    def loss(self, targets: jax.Array) -> jax.Array:
        """Computes the cross-entropies `[...]` in nats with the histograms of `targets` `[...]`."""
        return -jnp.sum(histogram(targets, self.bins) * jax.nn.log_softmax(self.logits), axis=-1)


def histogram(values: jax.Array, bins: ValueBins) -> jax.Array:
    """Computes the probabilities `[..., count]` that represent numbers `[...]`.

    Except near the ends of the bins, their mean is the number.
    """
    width = (bins.high - bins.low) / (bins.count - 1)
    centres = jnp.linspace(bins.low, bins.high, bins.count)
    distances = (jnp.clip(values, bins.low, bins.high)[..., None] - centres) / width
    if bins.spread == 0:
        return jax.nn.relu(1 - jnp.abs(distances))
    edges = jax.scipy.stats.norm.cdf(jnp.stack([0.5 - distances, -0.5 - distances]) / bins.spread)
    weights = edges[0] - edges[1]
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def expected_values(values: jax.Array | CategoricalValue) -> jax.Array:
    """Returns the values `[...]` of a critic's output, which may be a histogram."""
    return values if isinstance(values, jax.Array) else values.mean()
