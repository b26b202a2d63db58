"""The shape of a decoder, in the terms of Hugging Face's `config.json`."""

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any, Literal

from gaejax._arguments import check_whole, short

OPTIONAL_SIZES = ("num_key_value_heads", "intermediate_size", "head_dim")
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    *OPTIONAL_SIZES,
)
"""The fields that are whole numbers; the optional ones may be None."""
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder. Fields have the names and meanings of Hugging Face's `config.json`.

    Attributes:
      vocab_size: Number of tokens; they are `0 .. vocab_size - 1`.
      hidden_size: Width of the residual stream.
      num_hidden_layers: Number of layers.
      num_attention_heads: Number of query heads in each layer.
      num_key_value_heads: Number of key and value heads, each shared by a group of query heads (Ainslie et al. 2023,
        arXiv:2305.13245). None: as many as query heads.
      intermediate_size: Width of the SwiGLU layer (Shazeer 2020, arXiv:2002.05202). None: 4 * hidden_size.
      head_dim: Size of one head. None: hidden_size / num_attention_heads.
      max_position_embeddings: Context length: how many steps of its episode each step attends to, and how many slots
        the key-value cache has.
      rope_theta: Base of the rotary positions (Su et al. 2021, arXiv:2104.09864), applied to the halves of each head.
      rms_norm_eps: Epsilon of every RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467).
      tie_word_embeddings: Whether the output head uses the embedding's weights.
      qkv_bias: Whether queries, keys and values have a bias (Qwen2: yes).
      positions: "rotary", or "learned": a vector for each position, added to the embedding. Small models learn faster
        with the latter.
      initializer_range: Standard deviation of the initial weights. None: 1 / sqrt(inputs), which suits small models
        trained from scratch.
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
        """The number of key and value heads."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """The size of one head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def model_type(self) -> str:
        """The model family in Hugging Face's terms; as this decoder implements them, they differ in `qkv_bias` only."""
        return "qwen2" if self.qkv_bias else "llama"

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "DecoderConfig":
        """Reads the contents of a `config.json` of model type llama or qwen2.

        Raises:
          ValueError: if the model type or a setting is one that this decoder does not implement.
        """
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in ARCHITECTURES:
            raise ValueError(f"model_type must be {' or '.join(ARCHITECTURES)}, got {short(kind)}")
        for name in ("rope_scaling", "rope_parameters"):
            if not isinstance(config.get(name) or {}, Mapping):
                raise ValueError(f"{name} must be an object, got {short(config[name])}")
        rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        config = {"rms_norm_eps": 1e-6, **rope, **config, "rope_type": rope_type}
        supported = {
            "rope_type": "default",
            "partial_rotary_factor": 1.0,
            "attention_bias": False,
            "mlp_bias": False,
            "hidden_act": "silu",
            "use_sliding_window": False,
        }
        for name, only in supported.items():
            if config.get(name, only) not in (only, None):
                raise ValueError(f"{name} must be {only!r} for this decoder, got {short(config[name])}")
        if config.get("vocab_size") is None:
            raise ValueError("config.json must give vocab_size, got none")
        fields = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in config.items() if name in fields and value is not None}
        return cls(**{"qkv_bias": kind == "qwen2", **known})

    def to_hugging_face(self) -> dict[str, Any]:
        """Returns the contents of a `config.json` for this decoder.

        Raises:
          ValueError: if positions are learned: no Hugging Face model of these families has them.
        """
        if self.positions != "rotary":
            raise ValueError(f"positions must be 'rotary' in a Hugging Face model, got {self.positions!r}")
        shared = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {
            "architectures": [ARCHITECTURES[self.model_type]],
            "model_type": self.model_type,
            "hidden_act": "silu",
            "dtype": "float32",
            **{name: value for name, value in shared.items() if name not in ("positions", "qkv_bias")},
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate_size or 4 * self.hidden_size,
        }

    def validate(self) -> None:
        """Raises ValueError, naming the field, if a size is below 1 or sizes do not fit together."""
        for name in SIZES:
            value = getattr(self, name)
            if value is None and name in OPTIONAL_SIZES:
                continue
            check_whole(name, value, least=1)
            if value >= 2**31:
                raise ValueError(f"{name} must be less than 2**31, got {short(value)}")
        for name in ("rope_theta", "rms_norm_eps", "initializer_range"):
            value = getattr(self, name)
            if value is None and name == "initializer_range":
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) <= 1e30:
                raise ValueError(f"{name} must be a number of at least 0, got {short(value)}")
        for name in ("tie_word_embeddings", "qkv_bias"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {short(getattr(self, name))}")
        heads = self.num_attention_heads
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(f"hidden_size must be a multiple of num_attention_heads = {heads}, got {self.hidden_size}")
        if heads % self.kv_heads:
            raise ValueError(f"num_key_value_heads must divide num_attention_heads = {heads}, got {self.kv_heads}")
        if self.positions not in ("rotary", "learned"):
            raise ValueError(f"positions must be 'rotary' or 'learned', got {short(self.positions)}")
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_size}")
