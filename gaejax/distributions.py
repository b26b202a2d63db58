"""Distributions over actions and values: pytrees whose leading axes are batch axes, so `scan`, `vmap` and indexing work
on them."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

MANY_ACTIONS, BLOCK = 4096, 256


class Distribution(Protocol):
    """The action distributions that a policy's `apply` returns; every method keeps the leading axes `[...]`."""

    def sample(self, key: jax.Array) -> jax.Array:
        """Samples actions `[..., *shape]`."""
        ...

    def mode(self) -> jax.Array:
        """Returns the greedy actions `[..., *shape]`."""
        ...

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Computes log-probabilities or log-densities `[...]` of `actions`."""
        ...

    def entropy(self) -> jax.Array:
        """Computes entropies `[...]` in nats."""
        ...

    def kl_divergence(self, other: Any) -> jax.Array:
        """Computes KL(self || other) `[...]` in nats, where `other` is of the same class."""
        ...


class Categorical(NamedTuple):
    """A distribution over the integers `0 .. A - 1`, given by unnormalized log-probabilities `[..., A]`."""

    logits: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Samples actions `[...]`, int32."""
        if self.logits.shape[-1] >= MANY_ACTIONS:
            return _sample_of_many(key, self.logits)
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> jax.Array:
        """Returns the most probable actions `[...]`, int32."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Computes log-probabilities `[...]` of integer `actions` `[...]`."""
        # A product with one-hot vectors: its gradient is another product, whereas a gather's would be a scatter.
        chosen = jax.nn.one_hot(actions, self.logits.shape[-1], dtype=jnp.bool_)
        return jnp.sum(jnp.where(chosen, jax.nn.log_softmax(self.logits), 0), axis=-1)

    def entropy(self) -> jax.Array:
        """Computes entropies `[...]` in nats."""
        log_probs = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)

    def kl_divergence(self, other: "Categorical") -> jax.Array:
        """Computes KL(self || other) `[...]` in nats."""
        log_probs = jax.nn.log_softmax(self.logits)
        return jnp.sum(jnp.exp(log_probs) * (log_probs - jax.nn.log_softmax(other.logits)), axis=-1)


def _sample_of_many(key: jax.Array, logits: jax.Array) -> jax.Array:
    """Samples a block of actions, then an action in it, by inversion of the cumulative distribution.

    It needs two uniform numbers instead of one per action; for a whole vocabulary, drawing those takes as long as a
    layer of the network.
    """
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.pad(weights, [(0, 0)] * (logits.ndim - 1) + [(0, -logits.shape[-1] % BLOCK)])
    blocks = weights.reshape(*logits.shape[:-1], -1, BLOCK)
    uniform = jax.random.uniform(key, (2, *logits.shape[:-1], 1), logits.dtype)
    block = _inverted(jnp.sum(blocks, axis=-1), uniform[0])
    inside = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    return (block * BLOCK + _inverted(inside, uniform[1])).astype(jnp.int32)


def _inverted(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """Returns the first index `[...]` at which the cumulative sum of weights `[..., A]` exceeds the fraction `uniform`
    `[..., 1]` of the total; never one with weight 0."""
    cumulated = jnp.where(weights > 0, jnp.cumsum(weights, axis=-1), 0)
    return jnp.argmax(cumulated > uniform * jnp.max(cumulated, axis=-1, keepdims=True), axis=-1)


class DiagonalGaussian(NamedTuple):
    """Independent normal distributions over D real numbers, given by `mean` and `log_std`, each `[..., D]`."""

    mean: jax.Array
    log_std: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Samples actions `[..., D]`."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def mode(self) -> jax.Array:
        """Returns the means `[..., D]`."""
        return self.mean

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Computes log-densities `[...]` of `actions` `[..., D]`, summed over D."""
        standardized = (actions - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * standardized**2 + self.log_std + 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> jax.Array:
        """Computes differential entropies `[...]` in nats."""
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl_divergence(self, other: "DiagonalGaussian") -> jax.Array:
        """Computes KL(self || other) `[...]` in nats."""
        distance = (self.mean - other.mean) * jnp.exp(-other.log_std)
        ratio = self.log_std - other.log_std
        return jnp.sum(0.5 * (jnp.expm1(2 * ratio) + distance**2) - ratio, axis=-1)


class TanhGaussian(NamedTuple):
    """Actions in (-1, 1): hyperbolic tangents of independent normal numbers, given by `mean` and `log_std` `[..., D]`.

    Log-densities refer to the actions, after the tangent, and are exact for every float inside (-1, 1) (Haarnoja et al.
    2018, arXiv:1801.01290, appendix C). A sample that would round to 1 becomes the largest float below 1.
    """

    mean: jax.Array
    log_std: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Samples actions `[..., D]`."""
        return _inside(jnp.tanh(DiagonalGaussian(*self).sample(key)))

    def mode(self) -> jax.Array:
        """Returns the medians `[..., D]`, as is common: the maximum of the density may lie at the edge."""
        return _inside(jnp.tanh(self.mean))

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Computes log-densities `[...]` of `actions` `[..., D]`, summed over D."""
        actions = _inside(actions)
        stretch = jnp.log1p(actions) + jnp.log1p(-actions)  # the log of the tangent's derivative, 1 - a^2
        return DiagonalGaussian(*self).log_prob(jnp.arctanh(actions)) - jnp.sum(stretch, axis=-1)

    def entropy(self) -> jax.Array:
        """Computes differential entropies `[...]` in nats, by Gauss-Hermite quadrature over the normal numbers."""
        points, weights = np.polynomial.hermite_e.hermegauss(32)
        numbers = self.mean[..., None] + jnp.exp(self.log_std)[..., None] * points.astype(np.float32)
        stretch = 2 * (math.log(2) - jnp.abs(numbers) - jax.nn.softplus(-2 * jnp.abs(numbers)))
        expected = stretch @ (weights / weights.sum()).astype(np.float32)
        return DiagonalGaussian(*self).entropy() + jnp.sum(expected, axis=-1)

    def kl_divergence(self, other: "TanhGaussian") -> jax.Array:
        """Computes KL(self || other) `[...]` in nats, which equals the divergence before the tangent."""
        return DiagonalGaussian(*self).kl_divergence(DiagonalGaussian(*other))


def _inside(actions: jax.Array) -> jax.Array:
    """Clips actions to the floats inside (-1, 1)."""
    edge = 1 - jnp.finfo(actions.dtype).epsneg
    return jnp.clip(actions, -edge, edge)


@struct.dataclass
class MultiCategorical:
    """Independent choices, given by their concatenated `logits` `[..., sum(sizes)]`; choice k has `sizes[k]`."""

    logits: jax.Array
    sizes: tuple[int, ...] = struct.field(pytree_node=False)

    def choices(self) -> list[Categorical]:
        """Returns the distribution of each choice."""
        return [Categorical(part) for part in jnp.split(self.logits, np.cumsum(self.sizes)[:-1], axis=-1)]

    def sample(self, key: jax.Array) -> jax.Array:
        """Samples actions `[..., K]`, int32."""
        keys = jax.random.split(key, len(self.sizes))
        return jnp.stack([part.sample(key) for part, key in zip(self.choices(), keys, strict=True)], axis=-1)

    def mode(self) -> jax.Array:
        """Returns the most probable actions `[..., K]`, int32."""
        return jnp.stack([part.mode() for part in self.choices()], axis=-1)

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Computes log-probabilities `[...]` of integer `actions` `[..., K]`."""
        return jnp.asarray(sum(part.log_prob(actions[..., k]) for k, part in enumerate(self.choices())))

    def entropy(self) -> jax.Array:
        """Computes entropies `[...]` in nats."""
        return jnp.asarray(sum(part.entropy() for part in self.choices()))

    def kl_divergence(self, other: "MultiCategorical") -> jax.Array:
        """Computes KL(self || other) `[...]` in nats."""
        pairs = zip(self.choices(), other.choices(), strict=True)
        return jnp.asarray(sum(part.kl_divergence(another) for part, another in pairs))


class EpsilonGreedy(NamedTuple):
    """Takes the action with the highest value; with probability epsilon, one drawn uniformly from those not masked out.

    Attributes:
      action_values: `[..., A]`.
      epsilon: `[...]`.
    """

    action_values: jax.Array
    epsilon: jax.Array

    def behaviour(self) -> Categorical:
        """Returns the distribution that actions are sampled from."""
        allowed = self.action_values > jnp.finfo(self.action_values.dtype).min
        greedy = jax.nn.one_hot(self.mode(), allowed.shape[-1])
        epsilon = self.epsilon[..., None]
        probabilities = (1 - epsilon) * greedy + epsilon * allowed / jnp.sum(allowed, axis=-1, keepdims=True)
        tiny = jnp.finfo(probabilities.dtype).tiny
        return Categorical(mask_logits(jnp.log(jnp.maximum(probabilities, tiny)), probabilities > 0))

    def values_of(self, actions: jax.Array) -> jax.Array:
        """Returns the values `[...]` of integer `actions` `[...]`."""
        chosen = jax.nn.one_hot(actions, self.action_values.shape[-1], dtype=jnp.bool_)
        return jnp.sum(jnp.where(chosen, self.action_values, 0), axis=-1)

    def sample(self, key: jax.Array) -> jax.Array:
        """Samples actions `[...]`, int32."""
        return self.behaviour().sample(key)

    def mode(self) -> jax.Array:
        """Returns the actions with the highest values `[...]`, int32."""
        return jnp.argmax(self.action_values, axis=-1).astype(jnp.int32)

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Computes log-probabilities `[...]` of integer `actions` `[...]`."""
        return self.behaviour().log_prob(actions)

    def entropy(self) -> jax.Array:
        """Computes entropies `[...]` in nats."""
        return self.behaviour().entropy()

    def kl_divergence(self, other: "EpsilonGreedy") -> jax.Array:
        """Computes KL(self || other) `[...]` in nats."""
        return self.behaviour().kl_divergence(other.behaviour())


@struct.dataclass
class LazyCategorical:
    """A `Categorical` whose logits `hidden @ kernel.T + bias` are computed for `chunk` positions at a time, and again
    for the gradient: for logits `[T, N, A]` that would not fit in memory.

    Attributes:
      hidden: `[..., h]`.
      kernel, bias: `[A, h]` and `[A]`, shared by all positions; `vmap` or `scan` gives them the leading axes of
        `hidden`.
      chunk: The number of positions whose logits exist at a time.
    """

    hidden: jax.Array
    kernel: jax.Array
    bias: jax.Array
    chunk: int = struct.field(pytree_node=False)

    def sample(self, key: jax.Array) -> jax.Array:
        """Samples actions `[...]`, int32."""
        keys = jax.random.split(key, self.hidden.shape[:-1])
        return self._by_position(lambda distribution, key: distribution.sample(key), keys)

    def mode(self) -> jax.Array:
        """Returns the most probable actions `[...]`, int32."""
        return self._by_position(lambda distribution: distribution.mode())

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Computes log-probabilities `[...]` of integer `actions` `[...]`."""
        return self._by_position(lambda distribution, action: distribution.log_prob(action), actions)

    def entropy(self) -> jax.Array:
        """Computes entropies `[...]` in nats."""
        return self._by_position(lambda distribution: distribution.entropy())

    def kl_divergence(self, other: "LazyCategorical") -> jax.Array:
        """Computes KL(self || other) `[...]` in nats."""
        return self._by_position(Categorical.kl_divergence, others=(other,))

    def _by_position(self, method: Callable[..., jax.Array], *inputs: jax.Array, others: tuple = ()) -> jax.Array:
        """Calls `method(categorical, *other_categoricals, *inputs)` at every position, with its logits and inputs."""

        def everywhere(lazy: tuple, inputs: tuple) -> jax.Array:
            hidden = tuple(one.hidden for one in lazy)

            @jax.checkpoint
            def at_position(position: tuple) -> jax.Array:
                hidden, inputs = position
                made = [Categorical(one.kernel @ h + one.bias) for one, h in zip(lazy, hidden, strict=True)]
                return method(*made, *inputs)

            leading = hidden[0].shape[:-1]
            positions = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(leading) :]), (hidden, inputs))
            return jax.lax.map(at_position, positions, batch_size=self.chunk).reshape(leading)

        for _ in range(self.kernel.ndim - 2):
            everywhere = jax.vmap(everywhere)
        return everywhere((self, *others), inputs)


def mask_logits(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns logits without probability, and without gradient, where `mask` is false.

    The lowest finite number replaces minus infinity, which would make entropies and gradients NaN. Where a mask allows
    no action (at a step that does not count), every action is allowed.

    Args:
      logits: `[..., A]`.
      mask: Booleans of the same shape.

    Raises:
      ValueError: if the shapes differ.
    """
    if mask.shape != logits.shape:
        raise ValueError(f"action_mask must have the shape of the logits, {logits.shape}, got {mask.shape}")
    allowed = mask | ~jnp.any(mask, axis=-1, keepdims=True)
    return jnp.where(allowed, logits, jnp.finfo(logits.dtype).min)


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
