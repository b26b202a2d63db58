"""The decoder of the Llama and Qwen2 families, as Flax modules over packed rows with a ring of keys and values."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.policies.attention import Cache, View, empty_cache, look, rotate, write
from gaejax.policies.core import Body, sequential


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder; fields are called, and mean, what they do in Hugging Face's `config.json`.

    Attributes:
      vocab_size: tokens `0 .. vocab_size - 1`.
      hidden_size: width of the residual stream.
      num_hidden_layers, num_attention_heads: of the trunk.
      num_key_value_heads: shared by groups of query heads (Ainslie et al. 2023, arXiv:2305.13245); None: one each.
      intermediate_size: width of SwiGLU (Shazeer 2020, arXiv:2002.05202); None: 4 * hidden_size.
      head_dim: of a head; None: hidden_size / num_attention_heads.
      max_position_embeddings: the context: steps of its episode that a step sees, and slots of the ring.
      rope_theta: base of the rotary positions (Su et al. 2021, arXiv:2104.09864), in halves, as Hugging Face turns them.
      rms_norm_eps: of every norm (Zhang & Sennrich 2019, arXiv:1910.07467).
      tie_word_embeddings: whether the head's weights are the embedding's.
      qkv_bias: whether queries, keys and values have a bias (Qwen2: yes).
      positions: "rotary", or "learned": a vector for each position, added to the embedding, which small models learn
        the faster.
      initializer_range: standard deviation of the first weights; None: 1 / sqrt(inputs), for small models from scratch.
    """

    vocab_size: int
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    intermediate_size: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 64
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    positions: Literal["rotary", "learned"] = "rotary"
    initializer_range: float | None = None

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "DecoderConfig":
        """That of a `config.json` of model type llama or qwen2. Raises ValueError for what this decoder does not do."""
        kind = config.get("model_type")
        if kind not in ("llama", "qwen2"):
            raise ValueError(f"model_type must be llama or qwen2, got {kind!r}")
        unsupported = {"rope_scaling": None, "attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}
        for name, only in unsupported.items():
            if config.get(name, only) not in (only, None):
                raise ValueError(f"{name} must be {only!r} for this decoder, got {config[name]!r}")
        if config.get("use_sliding_window"):
            raise ValueError("use_sliding_window must be False for this decoder, got True")
        fields = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in config.items() if name in fields and value is not None}
        return cls(**{"qkv_bias": kind == "qwen2", **known})

    def validate(self) -> None:
        """Raises ValueError, with one line that names the field, for sizes that do not fit."""
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        heads = self.num_attention_heads
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(f"hidden_size must be a multiple of num_attention_heads = {heads}, got {self.hidden_size}")
        if heads % self.kv_heads:
            raise ValueError(f"num_key_value_heads must divide num_attention_heads = {heads}, got {self.kv_heads}")
        if self.positions not in ("rotary", "learned"):
            raise ValueError(f"positions must be 'rotary' or 'learned', got {self.positions!r}")
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_size}")


def decoder(config: DecoderConfig, remat: bool = False) -> Body:
    """The trunk as a body: tokens `[T, N]` to features `[T, N, hidden_size]` behind the last norm.

    Args:
      config: its shape.
      remat: whether each layer is computed again for the gradient, instead of kept.
    """
    config.validate()
    module = Decoder(config, remat)

    def initial_carry(batch: int) -> Cache:
        shape = (config.kv_heads, config.head_size)
        return empty_cache(batch, config.num_hidden_layers, config.max_position_embeddings, shape)

    return sequential(module.init, module.apply, initial_carry)


def weights(config: DecoderConfig) -> Any:
    """The initializer of a matrix `[inputs, outputs]`."""
    if config.initializer_range is None:
        return nn.initializers.lecun_normal()
    return nn.initializers.normal(config.initializer_range)


class Decoder(nn.Module):
    """`[T, N]` tokens to `[T, N, hidden_size]`, products on the folded axis; submodules have Hugging Face's names."""

    config: DecoderConfig
    remat: bool = False

    @nn.compact
    def __call__(self, cache: Cache, tokens: jax.Array, resets: jax.Array) -> tuple[Cache, jax.Array]:
        config = self.config
        context = config.max_position_embeddings
        if cache.positions.shape[1] != context:
            held = f"carry holds {cache.positions.shape[1]} steps where the decoder's context is {context}"
            raise ValueError(f"{held}: take it from this policy's initial_carry")
        view, positions, position = look(cache, resets)
        embedding = self.param("embed_tokens", nn.initializers.normal(0.02), (config.vocab_size, config.hidden_size))
        features = embedding[tokens.reshape(-1)]
        if config.positions == "learned":
            table = self.param("embed_positions", nn.initializers.normal(0.02), (context, config.hidden_size))
            features = features + table[view.positions.reshape(-1) % context]
        block = nn.remat(Block) if self.remat else Block
        keys, values = [], []
        for layer, ring in enumerate(zip(cache.keys, cache.values, strict=True)):
            features, key, value = block(config, name=f"layers_{layer}")(features, *ring, view)
            keys.append(key)
            values.append(value)
        slot = (cache.slot + resets.shape[0]) % context
        features = RMSNorm(config.rms_norm_eps, name="norm")(features).reshape(*resets.shape, config.hidden_size)
        return Cache(tuple(keys), tuple(values), positions, position, slot), features


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
