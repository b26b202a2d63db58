"""Action distributions: pytrees whose leading axes are batch axes, so they survive `scan`, `vmap` and indexing."""

import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Distribution(Protocol):
    """What a policy's `apply` returns for each observation: every method keeps the leading axes."""

    def sample(self, key: jax.Array) -> jax.Array: ...

    def mode(self) -> jax.Array: ...

    def log_prob(self, actions: jax.Array) -> jax.Array: ...

    def entropy(self) -> jax.Array: ...


class Categorical(NamedTuple):
    """A distribution over the integers `0 .. A - 1`, from unnormalized log-probabilities `[..., A]`."""

    logits: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions `[...]`, int32."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> jax.Array:
        """The most probable actions `[...]`, int32."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Log-probabilities `[...]` of integer `actions` `[...]`."""
        # A product with one-hot rows: its gradient is another product, where a gather's would be a scatter.
        chosen = jax.nn.one_hot(actions, self.logits.shape[-1], dtype=jnp.bool_)
        return jnp.sum(jnp.where(chosen, jax.nn.log_softmax(self.logits), 0), axis=-1)

    def entropy(self) -> jax.Array:
        """Entropies `[...]` in nats."""
        log_probs = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


class DiagonalGaussian(NamedTuple):
    """Independent normal distributions over `D` real numbers: `mean` and `log_std`, each `[..., D]`."""

    mean: jax.Array
    log_std: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions `[..., D]`."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def mode(self) -> jax.Array:
        """The means `[..., D]`."""
        return self.mean

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Log-densities `[...]` of `actions` `[..., D]`, summed over D."""
        standardized = (actions - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * standardized**2 + self.log_std + 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> jax.Array:
        """Differential entropies `[...]` in nats."""
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)
