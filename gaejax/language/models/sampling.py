"""How a language model's tokens are sampled: temperature, top-k, top-p, and whose log-probabilities are stored."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.distributions import Categorical, Distribution, LazyCategorical

EXCLUDED = -1e9  # the logit of a token outside top-k or top-p: finite, so that no entropy or gradient is NaN


class Sampling(NamedTuple):
    """How the next token is sampled from a decoder's features.

    Attributes:
      temperature: What logits are divided by before sampling.
      top_k: How many of the most probable tokens may be sampled. None: all.
      top_p: Nucleus sampling threshold, applied after temperature and top-k. None: off.
      log_prob_of: Whose log-probabilities are reported: "sampled" or "model"; see `decoder_policy`.
      logits_chunk: How many positions' logits are computed at a time. None: all at once.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    log_prob_of: Literal["sampled", "model"] = "sampled"
    logits_chunk: int | None = None

    def validate(self, vocab_size: int) -> None:
        """Raises ValueError, naming the argument, if an option is out of range or two exclude each other."""
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive (generate has greedy=True), got {self.temperature}")
        if self.top_k is not None and not 1 <= self.top_k <= vocab_size:
            raise ValueError(f"top_k must be between 1 and vocab_size = {vocab_size}, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.log_prob_of not in ("sampled", "model"):
            raise ValueError(f"log_prob_of must be 'sampled' or 'model', got {self.log_prob_of!r}")
        whole = self.top_k or self.top_p or self.log_prob_of == "model"  # what needs all logits of a position at once
        if self.logits_chunk is not None and (self.logits_chunk < 1 or whole):
            wanted = "at least 1, without top_k, top_p or log_prob_of='model'"
            raise ValueError(f"logits_chunk must be {wanted}, got {self.logits_chunk}")

    def distribution(self, features: jax.Array, head: jax.Array) -> Distribution:
        """Returns the distribution of next tokens `[...]`, from features `[..., hidden_size]` and the output head
        `[vocab_size, hidden_size]`."""
        if self.logits_chunk is not None:
            return LazyCategorical(features / self.temperature, head, jnp.zeros(len(head)), self.logits_chunk)
        logits = (features.reshape(-1, features.shape[-1]) @ head.T).reshape(*features.shape[:-1], len(head))
        behaviour = Categorical(sampling_logits(logits, self.temperature, self.top_k, self.top_p))
        return behaviour if self.log_prob_of == "sampled" else SampledFrom(Categorical(logits), behaviour)


class SampledFrom(NamedTuple):
    """A model's distribution, but samples are drawn from another one: `sample` is `behaviour`'s, all else `model`'s."""

    model: Categorical
    behaviour: Categorical

    def sample(self, key: jax.Array) -> jax.Array:
        """Samples tokens `[...]` from `behaviour`."""
        return self.behaviour.sample(key)

    def mode(self) -> jax.Array:
        """Returns the model's most probable tokens `[...]`."""
        return self.model.mode()

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Returns the model's log-probabilities `[...]` of tokens `[...]`."""
        return self.model.log_prob(actions)

    def entropy(self) -> jax.Array:
        """Returns the model's entropies `[...]` in nats."""
        return self.model.entropy()

    def kl_divergence(self, other: "SampledFrom") -> jax.Array:
        """Returns KL(model || other's model) `[...]` in nats."""
        return self.model.kl_divergence(other.model)


def sampling_logits(
    logits: jax.Array, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> jax.Array:
    """Returns the logits `[..., V]` that tokens are sampled from: divided by the temperature, and -1e9 for tokens
    outside the top k or, among these, outside the top p.

    Args:
      logits: `[..., V]`.
      temperature: What logits are divided by.
      top_k: How many of the most probable tokens are kept; ties with the last one are kept too. None: all.
      top_p: Nucleus sampling threshold (Holtzman et al. 2020, arXiv:1904.09751): the fewest most probable tokens whose
        probabilities sum to at least this are kept. None: all.
    """
    if temperature != 1:
        logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = jnp.where(among_top(logits, jnp.ones_like(logits), top_k), logits, EXCLUDED)
    if top_p is not None and top_p < 1:
        logits = jnp.where(among_top(logits, jax.nn.softmax(logits), top_p), logits, EXCLUDED)
    return logits


def among_top(logits: jax.Array, weights: jax.Array, least: float) -> jax.Array:
    """Returns which of `[..., V]` lie at or above the highest threshold above which `weights` sum to at least `least`.

    The threshold is found bit by bit, in the order of floats read as integers: 32 sums, where sorting a vocabulary
    takes ten times as long on CPU.
    """
    logits, weights = jax.lax.stop_gradient((logits.astype(jnp.float32), weights))
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    order = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))

    def add_bit(index: jax.Array, threshold: jax.Array) -> jax.Array:
        higher = threshold | (jnp.uint32(1 << 31) >> index.astype(jnp.uint32))
        reached = jnp.sum(jnp.where(order >= higher, weights, 0), axis=-1, keepdims=True)
        return jnp.where(reached >= least, higher, threshold)

    return order >= jax.lax.fori_loop(0, 32, add_bit, jnp.zeros((*logits.shape[:-1], 1), jnp.uint32))
