"""Weight initializers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


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

        def orthogonalize(index: jax.Array, basis: jax.Array) -> jax.Array:
            column = columns[index]
            for _ in range(2):
                projections = jnp.sum(basis * column, axis=1)  # sums, not products: exact on TPU, quick to compile
                column = column - jnp.sum(projections[:, None] * basis, axis=0)
            return basis.at[index].set(column / jnp.linalg.norm(column))

        basis = jax.lax.fori_loop(0, count, orthogonalize, jnp.zeros_like(columns))
        return gain * (basis if shape == basis.shape else basis.T)

    return init
