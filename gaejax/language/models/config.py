"""The shape of a decoder, in the words of Hugging Face's `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


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
      rope_theta: base of the rotary positions (Su et al. 2021, arXiv:2104.09864), in halves as there.
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
        if kind not in ARCHITECTURES:
            raise ValueError(f"model_type must be {' or '.join(ARCHITECTURES)}, got {kind!r}")
        rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        config = {"rms_norm_eps": 1e-6, **rope, **config, "rope_type": rope_type}
        unsupported = {
            "rope_type": "default",
            "partial_rotary_factor": 1.0,
            "attention_bias": False,
            "mlp_bias": False,
            "hidden_act": "silu",
            "use_sliding_window": False,
        }
        for name, only in unsupported.items():
            if config.get(name, only) not in (only, None):
                raise ValueError(f"{name} must be {only!r} for this decoder, got {config[name]!r}")
        if config.get("vocab_size") is None:
            raise ValueError("vocab_size must be given in config.json, got none")
        fields = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in config.items() if name in fields and value is not None}
        return cls(**{"qkv_bias": kind == "qwen2", **known})

    def to_hugging_face(self) -> dict[str, Any]:
        """What `config.json` says of this decoder. Raises ValueError for learned positions, which no such model has."""
        if self.positions != "rotary":
            raise ValueError(f"positions must be 'rotary' in a Hugging Face model, got {self.positions!r}")
        kind = "qwen2" if self.qkv_bias else "llama"
        shared = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {
            "architectures": [ARCHITECTURES[kind]],
            "model_type": kind,
            "hidden_act": "silu",
            "dtype": "float32",
            **{name: value for name, value in shared.items() if name not in ("positions", "qkv_bias")},
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate_size or 4 * self.hidden_size,
        }

    def validate(self) -> None:
        """Raises ValueError, with one line that names the field, for sizes that do not fit."""
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        ):
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
