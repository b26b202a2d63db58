"""Masked statistics and running moments, as values: over all of an agent's environments, on whatever devices."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax import rows

LARGEST = 1e19  # its square is the last that float32 holds


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean of `values` where `mask` is true; 0 if it is true nowhere. Masked values may be NaN."""
    total, count = rows.summed((jnp.sum(jnp.where(mask, values, 0)), jnp.sum(mask)))
    return total / jnp.maximum(count, 1)


def standardize(values: jax.Array, mask: jax.Array, epsilon: float = 1e-8) -> jax.Array:
    """Shifts and scales `values` to mean 0 and standard deviation 1 over `mask`. Masked values become 0.

    A single unmasked value has no spread, and is returned as it is.
    """
    mean = masked_mean(values, mask)
    centred = jnp.where(mask, values - mean, 0)
    standardized = centred / (jnp.sqrt(masked_mean(centred**2, mask)) + epsilon)
    return jnp.where(rows.total(mask) == 1, jnp.where(mask, values, 0), standardized)


def count_nonfinite(tree: Any, mask: jax.Array | None = None) -> jax.Array:
    """Returns how many numbers in the floating-point leaves of a tree are NaN or infinite, int32.

    Args:
      tree: leaves `[...]`, and with a mask `[*mask.shape, ...]`.
      mask: the elements that count; they may be on several devices. Default: all, and what is given is whole.
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if mask is None:
        return sum((jnp.sum(~jnp.isfinite(leaf)) for leaf in leaves), jnp.zeros((), jnp.int32))
    wrong = [~jnp.isfinite(leaf) & jnp.expand_dims(mask, range(mask.ndim, leaf.ndim)) for leaf in leaves]
    return rows.summed(sum((jnp.sum(leaf) for leaf in wrong), jnp.zeros((), jnp.int32)))


def explained_variance(predictions: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns `1 - Var[targets - predictions] / Var[targets]` over `mask`: 1 is perfect, 0 is a constant prediction."""
    errors = jnp.where(mask, targets - predictions, 0)
    residual = masked_mean((errors - masked_mean(errors, mask)) ** 2, mask)
    total = masked_mean((targets - masked_mean(targets, mask)) ** 2, mask)
    return 1 - residual / jnp.maximum(total, 1e-8)


class RunningMoments(NamedTuple):
    """The count, mean and variance of a stream of arrays of one shape, `[...]`.

    Batches are merged by the parallel algorithm of Chan, Golub & LeVeque (1983), exact for any batch sizes. Each
    batch is shifted by one of its own elements first, so that a constant has variance 0 exactly, whatever its size.

    Attributes:
      count: how many arrays were taken in.
      mean, variance: `[...]`.
      skipped: how many arrays were passed over because they held a NaN or an infinity.
    """

    count: jax.Array
    mean: jax.Array
    variance: jax.Array
    skipped: jax.Array

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "RunningMoments":
        """Returns the moments of nothing."""
        zeros, zero = jnp.zeros(shape, jnp.float32), jnp.zeros((), jnp.float32)
        return cls(count=zero, mean=zeros, variance=zeros, skipped=zero)

    def update(self, batch: jax.Array, mask: jax.Array) -> "RunningMoments":
        """Merges a batch.

        Args:
          batch: `[..., *shape]`. Elements that are not finite are skipped; those beyond 1e19 are clipped to it, as the
            square of more is infinite in float32.
          mask: `[...]`, the elements that count.
        """
        axes = tuple(range(mask.ndim))
        finite = jnp.all(jnp.isfinite(batch), axis=tuple(range(mask.ndim, batch.ndim)))
        kept = mask & finite
        weights = kept.reshape(kept.shape + (1,) * (batch.ndim - kept.ndim))
        count, skipped = rows.summed((jnp.sum(kept).astype(self.count.dtype), jnp.sum(mask & ~finite)))
        share = 1 / jnp.maximum(count, 1)

        values = jnp.clip(jnp.where(weights, batch, 0), -LARGEST, LARGEST)
        one = _one_of(values.reshape(-1, *batch.shape[mask.ndim :]), kept)
        shifted = jnp.where(weights, values - one, 0)
        mean_shift = rows.summed(jnp.sum(shifted * share, axes))
        variance = rows.summed(jnp.sum(jnp.where(weights, shifted - mean_shift, 0) ** 2 * share, axes))

        total = jnp.maximum(self.count + count, 1)
        old, new = self.count / total, count / total
        shift = one + mean_shift - self.mean
        merged = RunningMoments(
            count=self.count + count,
            mean=self.mean + shift * new,
            variance=self.variance * old + variance * new + jnp.clip(shift, -LARGEST, LARGEST) ** 2 * (old * new),
            skipped=self.skipped + skipped,
        )
        return jax.tree.map(lambda new, old: new.astype(old.dtype), merged, self)

    def std(self) -> jax.Array:
        """Returns the standard deviation; 1 as long as nothing but one constant was seen, up to float32's rounding."""
        rounding = jnp.finfo(jnp.float32).eps * jnp.abs(self.mean)
        std = jnp.sqrt(self.variance)
        return jnp.where(std > rounding, std, 1)


def _one_of(values: jax.Array, kept: jax.Array) -> jax.Array:
    """Returns one of `values` `[K, ...]` that is `kept`, the same on all devices."""
    one = values[jnp.argmax(kept)]
    if rows.num_devices() == 1:
        return one
    return rows.largest(jnp.where(jnp.any(kept), one, -LARGEST))


class Identity(NamedTuple):
    """Statistics of nothing: the normalizer that changes nothing."""

    def __call__(self, values: Any) -> Any:
        """Returns `values`."""
        return values

    def update(self, *_: Any) -> "Identity":
        """Returns itself."""
        return self
