"""The decoder of the Llama and Qwen2 families, as Flax modules over packed rows with a ring of keys and values."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.language.models.config import DecoderConfig
from gaejax.policies.attention import Cache, View, empty_cache, look, rotate, write
from gaejax.policies.core import Body, sequential


def decoder(config: DecoderConfig, remat: bool = False, layers: range | None = None) -> Body:
    """The trunk as a body: tokens `[T, N]` to features `[T, N, hidden_size]` behind the last norm.

    Args:
      config: its shape.
      remat: whether each layer is computed again for the gradient, instead of kept.
      layers: those of a part of it (default: all). The part with the first layer reads tokens, another one the features
        `[T, N, hidden_size]` of the part before; that with the last layer has the norm. All take one tree of params.
    """
    config.validate()
    layers = range(config.num_hidden_layers) if layers is None else layers
    module = Decoder(config, layers, remat)

    def initial_carry(batch: int) -> Cache:
        shape = (config.kv_heads, config.head_size)
        return empty_cache(batch, len(layers), config.max_position_embeddings, shape)

    return sequential(module.init, module.apply, initial_carry)


def weights(config: DecoderConfig) -> Any:
    """The initializer of a matrix `[inputs, outputs]`."""
    if config.initializer_range is None:
        return nn.initializers.lecun_normal()
    return nn.initializers.normal(config.initializer_range)


class Decoder(nn.Module):
    """Some layers, `[T, N]` tokens or `[T, N, hidden_size]` features to such features, products on the folded axis;
    submodules have Hugging Face's names."""

    config: DecoderConfig
    layers: range
    remat: bool = False

    @nn.compact
    def __call__(self, cache: Cache, inputs: jax.Array, resets: jax.Array) -> tuple[Cache, jax.Array]:
        config = self.config
        context = config.max_position_embeddings
        if cache.positions.shape[1] != context:
            held = f"carry holds {cache.positions.shape[1]} steps where the decoder's context is {context}"
            raise ValueError(f"{held}: take it from this policy's initial_carry")
        view, positions, position = look(cache, resets)
        if self.layers.start == 0:
            features = self.embed(inputs.reshape(-1), view.positions.reshape(-1))
        else:
            features = inputs.reshape(-1, config.hidden_size)
        block = nn.remat(Block) if self.remat else Block
        keys, values = [], []
        for layer, *ring in zip(self.layers, cache.keys, cache.values, strict=True):
            features, key, value = block(config, name=f"layers_{layer}")(features, *ring, view)
            keys.append(key)
            values.append(value)
        slot = (cache.slot + resets.shape[0]) % context
        if self.layers.stop == config.num_hidden_layers:
            features = RMSNorm(config.rms_norm_eps, name="norm")(features)
        features = features.reshape(*resets.shape, config.hidden_size)
        return Cache(tuple(keys), tuple(values), positions, position, slot), features

    def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        config, normal = self.config, nn.initializers.normal(0.02)
        features = self.param("embed_tokens", normal, (config.vocab_size, config.hidden_size))[tokens]
        if config.positions == "learned":
            context = config.max_position_embeddings
            table = self.param("embed_positions", normal, (context, config.hidden_size))
            features = features + table[positions % context]
        return features


class RMSNorm(nn.Module):
    """Features divided by their root mean square, computed in float32."""

    eps: float

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        weight = self.param("weight", nn.initializers.ones, features.shape[-1:], jnp.float32)
        wide = features.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return weight * (wide * scale).astype(features.dtype)


class Block(nn.Module):
    """Attention and SwiGLU, each with its residual; returns the written rings too."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, features: jax.Array, ring_keys: jax.Array, ring_values: jax.Array, view: View) -> tuple:
        config = self.config
        shape = (*view.positions.shape, -1, config.head_size)

        def linear(size: int, name: str, bias: bool = False) -> nn.Dense:
            return nn.Dense(size, use_bias=bias, kernel_init=weights(config), name=name)

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
        read = grouped_attention(queries, *(x.astype(queries.dtype) for x in (seen_keys, seen_values)), view.visible)
        features = features + linear(config.hidden_size, "o_proj")(read.reshape(features.shape[0], -1))
        normed = RMSNorm(config.rms_norm_eps, name="post_attention_layernorm")(features)
        width = config.intermediate_size or 4 * config.hidden_size
        hidden = nn.silu(linear(width, "gate_proj")(normed)) * linear(width, "up_proj")(normed)
        return features + linear(config.hidden_size, "down_proj")(hidden), written_keys, written_values


def grouped_attention(queries: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array) -> jax.Array:
    """Softmax attention of queries `[T, N, H, D]` to keys and values `[N, S, K, D]` that H / K query heads share, where
    visible `[N, T, S]`."""
    steps, rows, heads, size = queries.shape
    grouped = queries.reshape(steps, rows, keys.shape[2], heads // keys.shape[2], size)
    scores = jnp.einsum("tnkgd,nskd->nkgts", grouped, keys) / math.sqrt(size)
    scores = jnp.where(visible[:, None, None], scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    read = jnp.einsum("nkgts,nskd->tnkgd", jax.nn.softmax(scores).astype(values.dtype), values)
    return read.reshape(queries.shape)
