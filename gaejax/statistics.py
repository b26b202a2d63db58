"""Masked statistics and running moments, as values."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of `values` where `mask` is true; 0 where nothing is. What is masked may be NaN."""
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(jnp.sum(mask), 1)


def standardize(values: jax.Array, mask: jax.Array, epsilon: float = 1e-8) -> jax.Array:
    """`values` shifted and scaled to mean 0 and standard deviation 1 over `mask`; 0 where masked."""
    mean = masked_mean(values, mask)
    centred = jnp.where(mask, values - mean, 0)
    return centred / (jnp.sqrt(masked_mean(centred**2, mask)) + epsilon)


def explained_variance(predictions: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """`1 - Var[targets - predictions] / Var[targets]` over `mask`: 1 is perfect, 0 no better than a constant."""
    errors = jnp.where(mask, targets - predictions, 0)
    residual = masked_mean((errors - masked_mean(errors, mask)) ** 2, mask)
    total = masked_mean((targets - masked_mean(targets, mask)) ** 2, mask)
    return 1 - residual / jnp.maximum(total, 1e-8)


class RunningMoments(NamedTuple):
    """The count, mean and sum of squared deviations of a stream of arrays of one shape, `[...]`.

    Batches are merged by the parallel algorithm of Chan, Golub & LeVeque (1983), which is exact for any batch sizes.
    """

    count: jax.Array
    mean: jax.Array
    squares: jax.Array

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "RunningMoments":
        zeros = jnp.zeros(shape, jnp.float32)
        return cls(count=jnp.zeros((), jnp.float32), mean=zeros, squares=zeros)

    def update(self, batch: jax.Array, mask: jax.Array) -> "RunningMoments":
        """Merges `batch` `[..., *shape]`, of which the entries with `mask` `[...]` count."""
        axes = tuple(range(mask.ndim))
        weights = mask.reshape(mask.shape + (1,) * (batch.ndim - mask.ndim))
        count = jnp.sum(mask).astype(self.count.dtype)
        mean = jnp.sum(jnp.where(weights, batch, 0), axes) / jnp.maximum(count, 1)
        squares = jnp.sum(jnp.where(weights, batch - mean, 0) ** 2, axes)
        total = jnp.maximum(self.count + count, 1)
        shift = mean - self.mean
        merged = RunningMoments(
            count=self.count + count,
            mean=self.mean + shift * (count / total),
            squares=self.squares + squares + shift**2 * (self.count * count / total),
        )
        return jax.tree.map(lambda new, old: new.astype(old.dtype), merged, self)

    def std(self) -> jax.Array:
        """The standard deviation; 1 while nothing, or nothing but one constant, has been seen."""
        variance = self.squares / jnp.maximum(self.count, 1)
        return jnp.where(variance > 1e-12 + 1e-10 * self.mean**2, jnp.sqrt(variance), 1)  # beyond float32's rounding
