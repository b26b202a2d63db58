"""The decoder of the Llama and Qwen2 families, as Flax modules over packed texts, with a ring key-value cache."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.language.models.config import DecoderConfig
from gaejax.policies.attention import Cache, View, empty_cache, look, rotate, write
from gaejax.policies.bodies import Body, sequential


def decoder(config: DecoderConfig, remat: bool = False, layers: range | None = None) -> Body:
    """Returns the decoder's trunk as a body: tokens `[T, N]` to features `[T, N, hidden_size]` after the last norm.

    Args:
      config: The decoder's shape.
      remat: Whether to recompute each layer's activations for the gradient instead of keeping them.
      layers: Which layers to run; default: all. With a part of them, the part that holds the first layer reads tokens
        and any other reads the features `[T, N, hidden_size]` of the part before; the part that holds the last layer
        applies the final norm. All parts take the same tree of params.

    Raises:
      ValueError: if the config is invalid.
    """
    config.validate()
    layers = range(config.num_hidden_layers) if layers is None else layers
    module = Decoder(config, layers, remat)

    def initial_carry(batch: int) -> Cache:
        shape = (config.kv_heads, config.head_size)
        return empty_cache(batch, len(layers), config.max_position_embeddings, shape)

    return sequential(module.init, module.apply, initial_carry)


def kernel_init(config: DecoderConfig) -> nn.initializers.Initializer:
    """Returns the initializer of matrices `[inputs, outputs]`."""
    if config.initializer_range is None:
        return nn.initializers.lecun_normal()
    return nn.initializers.normal(config.initializer_range)


class Decoder(nn.Module):
    """Consecutive layers of the decoder, from tokens `[T, N]` or features to features `[T, N, hidden_size]`.

    Products run on the folded axis `T * N`. Submodules have Hugging Face's names.
    """

    config: DecoderConfig
    layers: range
    remat: bool = False

    @nn.compact
    def __call__(self, cache: Cache, inputs: jax.Array, resets: jax.Array) -> tuple[Cache, jax.Array]:
        config = self.config
        context = config.max_position_embeddings
        if cache.positions.shape[1] != context:
            held = f"carry must hold the decoder's context of {context} steps, got {cache.positions.shape[1]}"
            raise ValueError(f"{held}: use this policy's initial_carry")
        view, positions, position = look(cache, resets)
        if self.layers.start == 0:
            features = self.embed(inputs.reshape(-1), view.positions.reshape(-1))
        else:
            features = inputs.reshape(-1, config.hidden_size)
        block = nn.remat(Block) if self.remat else Block
        keys, values = [], []
        for layer, ring_keys, ring_values in zip(self.layers, cache.keys, cache.values, strict=True):
            features, key, value = block(config, name=f"layers_{layer}")(features, ring_keys, ring_values, view)
            keys.append(key)
            values.append(value)
        slot = (cache.slot + resets.shape[0]) % context
        if self.layers.stop == config.num_hidden_layers:
            features = RMSNorm(config.rms_norm_eps, name="norm")(features)
        features = features.reshape(*resets.shape, config.hidden_size)
        return Cache(tuple(keys), tuple(values), positions, position, slot), features

    def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """Returns the embeddings `[T * N, hidden_size]` of tokens, learned positions included."""
        config, normal = self.config, nn.initializers.normal(0.02)
        features = self.param("embed_tokens", normal, (config.vocab_size, config.hidden_size))[tokens]
        if config.positions == "learned":
            context = config.max_position_embeddings
            table = self.param("embed_positions", normal, (context, config.hidden_size))
            features = features + table[positions % context]
        return features


class RMSNorm(nn.Module):
    """Divides features by their root mean square, computed in float32, and scales them by a learned weight."""

    eps: float

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        weight = self.param("weight", nn.initializers.ones, features.shape[-1:], jnp.float32)
        wide = features.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return weight * (wide * scale).astype(features.dtype)


class Block(nn.Module):
    """A layer: attention and SwiGLU, each with a residual connection. Also returns the updated ring cache."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, features: jax.Array, ring_keys: jax.Array, ring_values: jax.Array, view: View) -> tuple:
        config = self.config
        shape = (*view.positions.shape, -1, config.head_size)

        def linear(size: int, name: str, bias: bool = False) -> nn.Dense:
            return nn.Dense(size, use_bias=bias, kernel_init=kernel_init(config), name=name)

        normed = RMSNorm(config.rms_norm_eps, name="input_layernorm")(features)
        heads = dict(q_proj=config.num_attention_heads, k_proj=config.kv_heads, v_proj=config.kv_heads)
        queries, keys, values = (
            linear(count * config.head_size, name, config.qkv_bias)(normed).reshape(shape)
            for name, count in heads.items()
        )
        if config.positions == "rotary":
            queries, keys = (rotate(each, view.positions, config.rope_theta) for each in (queries, keys))
        keys, values = (x.swapaxes(0, 1).astype(ring_keys.dtype) for x in (keys, values))
        written_keys, written_values = (write(ring_keys, keys, view.slot), write(ring_values, values, view.slot))
        seen_keys, seen_values = written_keys, written_values
        if view.positions.shape[0] > 1:
            seen_keys = jnp.concatenate([ring_keys, keys], axis=1)
            seen_values = jnp.concatenate([ring_values, values], axis=1)
        seen_keys, seen_values = (x.astype(queries.dtype) for x in (seen_keys, seen_values))
        read = grouped_attention(queries, seen_keys, seen_values, view.visible)
        features = features + linear(config.hidden_size, "o_proj")(read.reshape(features.shape[0], -1))
        normed = RMSNorm(config.rms_norm_eps, name="post_attention_layernorm")(features)
        width = config.intermediate_size or 4 * config.hidden_size
        hidden = nn.silu(linear(width, "gate_proj")(normed)) * linear(width, "up_proj")(normed)
        return features + linear(config.hidden_size, "down_proj")(hidden), written_keys, written_values


def grouped_attention(queries: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array) -> jax.Array:
    """Computes grouped-query attention, `[T, N, H, D]`: each of K key and value heads serves H / K query heads.

    Args:
      queries: `[T, N, H, D]`.
      keys: `[N, S, K, D]`.
      values: `[N, S, K, D]`.
      visible: Which of the S keys each query attends to, `[N, T, S]`.
    """
    steps, batch, heads, size = queries.shape
    grouped = queries.reshape(steps, batch, keys.shape[2], heads // keys.shape[2], size)
    scores = jnp.einsum("tnkgd,nskd->nkgts", grouped, keys) / math.sqrt(size)
    scores = jnp.where(visible[:, None, None], scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    read = jnp.einsum("nkgts,nskd->tnkgd", jax.nn.softmax(scores).astype(values.dtype), values)
    return read.reshape(queries.shape)
