"""What a language model's tokens are sampled from: temperature, top-k, top-p, and whose log-probability counts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gaejax.distributions import Categorical
from gaejax.language.models.config import DecoderConfig

EXCLUDED = -1e9  # the logit of a token outside top-k or top-p: finite, so that no entropy or gradient is NaN


class SampledFrom(NamedTuple):
    """A model's distribution of which samples are drawn by another: `behaviour.sample`, all else `model`'s."""

    model: Categorical
    behaviour: Categorical

    def sample(self, key: jax.Array) -> jax.Array:
        """Tokens `[...]`, drawn from `behaviour`."""
        return self.behaviour.sample(key)

    def mode(self) -> jax.Array:
        """The model's most probable tokens `[...]`."""
        return self.model.mode()

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """The model's log-probabilities `[...]`."""
        return self.model.log_prob(actions)

    def entropy(self) -> jax.Array:
        """The model's entropies `[...]` in nats."""
        return self.model.entropy()

    def kl_divergence(self, other: "SampledFrom") -> jax.Array:
        """KL(model || other's model) `[...]` in nats."""
        return self.model.kl_divergence(other.model)


def sampling_logits(
    logits: jax.Array, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> jax.Array:
    """Logits `[..., V]` divided by the temperature, of which only the top k, and of these the top p, may be sampled."""
    if temperature != 1:
        logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = jnp.where(among_top(logits, jnp.ones_like(logits), top_k), logits, EXCLUDED)
    if top_p is not None and top_p < 1:
        logits = jnp.where(among_top(logits, jax.nn.softmax(logits), top_p), logits, EXCLUDED)
    return logits


def among_top(logits: jax.Array, weights: jax.Array, least: float) -> jax.Array:
    """Which of `[..., V]` are at or above the highest logit at which the weights of all such reach `least`.

    Found bit by bit, in the order of floats taken for integers: 32 sums, where sorting a vocabulary takes ten times as
    long on CPU.
    """
    logits, weights = jax.lax.stop_gradient((logits.astype(jnp.float32), weights))
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    order = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))

    def add_bit(index: jax.Array, threshold: jax.Array) -> jax.Array:
        higher = threshold | (jnp.uint32(1 << 31) >> index.astype(jnp.uint32))
        reached = jnp.sum(jnp.where(order >= higher, weights, 0), axis=-1, keepdims=True)
        return jnp.where(reached >= least, higher, threshold)

    return order >= jax.lax.fori_loop(0, 32, add_bit, jnp.zeros((*logits.shape[:-1], 1), jnp.uint32))


def check_sampling(
    config: DecoderConfig,
    value: str,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    log_prob_of: str,
    logits_chunk: int | None,
) -> None:
    """Raises ValueError for options of `decoder_policy` that cannot be."""
    config.validate()
    if value not in ("head", "trunk", "none"):
        raise ValueError(f"value must be 'head', 'trunk' or 'none', got {value!r}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive (generate has greedy=True), got {temperature}")
    if top_k is not None and not 1 <= top_k <= config.vocab_size:
        raise ValueError(f"top_k must be between 1 and vocab_size = {config.vocab_size}, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    if log_prob_of not in ("sampled", "model"):
        raise ValueError(f"log_prob_of must be 'sampled' or 'model', got {log_prob_of!r}")
    if logits_chunk is not None and (logits_chunk < 1 or top_k or top_p or log_prob_of == "model"):
        raise ValueError(f"logits_chunk must be at least 1, without top_k, top_p or 'model', got {logits_chunk}")
