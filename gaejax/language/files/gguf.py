"""Models in llama.cpp's file format, with their weights under Hugging Face's names."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gaejax._arguments import check_whole, short
from gaejax.language.files.gguf_header import check_gguf
from gaejax.language.files.inside import short_text
from gaejax.language.files.layout import Tensors
from gaejax.language.files.packages import package
from gaejax.language.files.tokenizer import Tokenizer, make_tokenizer
from gaejax.language.models.config import ARCHITECTURES, DecoderConfig

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# The pre-tokenizer's pattern; .gguf files hold its name only.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # types of tokens


class Field(Protocol):
    """Reads an entry of a file's metadata."""

    def __call__(self, name: str, *default: Any) -> Any:
        """Returns the entry, or the default if there is none; raises ValueError if neither is there."""
        ...


def read_gguf(path: Path) -> tuple[DecoderConfig, Tensors, Tokenizer | None]:
    """Reads a .gguf file's configuration and tokenizer; its tensors are read and dequantized when called for.

    Raises:
      ValueError: if metadata are missing, or the architecture or the tokenizer is not supported.
    """
    gguf = package("gguf")
    check_gguf(path)
    try:
        reader = gguf.GGUFReader(path)
    except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {short_text(error)}") from error
    tensors = {hugging_face_name(tensor.name): tensor for tensor in reader.tensors}

    def field(name: str, *default: Any) -> Any:
        if name not in reader.fields and not default:
            raise ValueError(f"path must be a complete .gguf model, and {path} lacks {name}")
        return reader.fields[name].contents() if name in reader.fields else default[0]

    try:
        config, tokenizer = read_config(field, tensors), read_tokenizer(field)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        said = f"{type(error).__name__}: {short_text(error)}"
        raise ValueError(short_text(error) if str(path) in str(error) else f"{path}: {said}") from error
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.kv_heads}
    permuted = heads if field("general.architecture") == "llama" else {}

    def read(name: str) -> np.ndarray:
        array = gguf.dequantize(tensors[name].data, tensors[name].tensor_type)
        module = name.split(".")[-2]
        return in_halves(array, permuted[module]) if module in permuted else array

    return config, {name: functools.partial(read, name) for name in tensors}, tokenizer


def hugging_face_name(name: str) -> str:
    """Translates `blk.0.attn_q.weight` to `model.layers.0.self_attn.q_proj.weight`; unknown names stay."""
    parts = name.split(".")
    if len(parts) < 2 or (module := parts[-2]) not in NAMES:
        return name
    return ".".join([*(["model.layers", parts[1]] if parts[0] == "blk" else []), NAMES[module], parts[-1]])


def in_halves(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Permutes the outputs (axis 0) of a query or key matrix to Hugging Face's order, in which the two members of a
    rotary pair are half a head apart; llama.cpp has them adjacent."""
    return matrix.reshape(heads, -1, 2, *matrix.shape[1:]).swapaxes(1, 2).reshape(matrix.shape)


def read_config(field: Field, tensors: Mapping[str, Any]) -> DecoderConfig:
    """Returns the configuration that a file's metadata and tensors describe."""
    kind = field("general.architecture")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ValueError(f"general.architecture must be {' or '.join(ARCHITECTURES)}, got {kind!r}")
    size, heads = (whole(field, f"{kind}.{name}") for name in ("embedding_length", "attention.head_count"))
    head_dim = whole(field, f"{kind}.attention.key_length", size // heads)
    embedding = tensors.get("model.embed_tokens.weight")
    scaling = field(f"{kind}.rope.scaling.type", "none")
    return DecoderConfig.from_hugging_face(
        {
            "model_type": kind,
            "vocab_size": int(embedding.shape[-1]) if embedding is not None else field(f"{kind}.vocab_size"),
            "hidden_size": size,
            "num_hidden_layers": field(f"{kind}.block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": field(f"{kind}.attention.head_count_kv", heads),
            "intermediate_size": field(f"{kind}.feed_forward_length"),
            "head_dim": head_dim,
            "max_position_embeddings": field(f"{kind}.context_length"),
            "rope_theta": shortest(field(f"{kind}.rope.freq_base", 10_000.0)),
            "rope_scaling": None if scaling == "none" else {"rope_type": scaling},
            "partial_rotary_factor": field(f"{kind}.rope.dimension_count", head_dim) / head_dim,
            "rms_norm_eps": shortest(field(f"{kind}.attention.layer_norm_rms_epsilon")),
            "tie_word_embeddings": "lm_head.weight" not in tensors,
        }
    )


def whole(field: Field, name: str, *default: int) -> int:
    """Returns an entry that must be a whole number of at least 1."""
    check_whole(name, value := field(name, *default), least=1)
    return value


def shortest(number: float) -> float:
    """Returns the shortest decimal that is this float32: 1e-5, not 9.99999975e-06."""
    return float(str(np.float32(number)))


def read_tokenizer(field: Field) -> Tokenizer | None:
    """Returns the byte-level BPE that the file holds; None if it holds no tokenizer."""
    model, cut = field("tokenizer.ggml.model", "none"), field("tokenizer.ggml.pre", "default")
    if model in ("none", "no_vocab"):
        return None
    tokenizers = package("tokenizers")
    cuts = tokenizers.pre_tokenizers
    byte_level = functools.partial(
        cuts.ByteLevel, add_prefix_space=bool(field("tokenizer.ggml.add_space_prefix", False))
    )
    known = {
        "smollm": lambda: [cuts.Digits(individual_digits=True), byte_level()],
        "qwen2": lambda: [cuts.Split(tokenizers.Regex(QWEN2), "isolated"), byte_level(use_regex=False)],
        "gpt-2": lambda: [byte_level()],
    }
    if model != "gpt2" or cut not in known:
        wanted = f"tokenizer.ggml.pre must be one of {', '.join(known)} for a 'gpt2' tokenizer"
        raise ValueError(f"{wanted}, got {cut!r} for {model!r}: load the model's Hugging Face folder instead")
    tokens, merges = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.merges")
    for name, texts in (("tokens", tokens), ("merges", merges)):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"tokenizer.ggml.{name} must be a list of texts, got {short(texts)}")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [tuple(pair.split(" ")) for pair in merges]))
    except Exception as error:  # the package raises no other class
        raise ValueError(f"tokenizer.ggml.merges must fit tokenizer.ggml.tokens: {short_text(error)}") from None
    backend.pre_tokenizer = cuts.Sequence(known[cut]())
    backend.decoder = tokenizers.decoders.ByteLevel()
    if cut == "qwen2":
        backend.normalizer = tokenizers.normalizers.NFC()
    types = field("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    added = [(token, kind) for token, kind in zip(tokens, types, strict=True) if kind in (CONTROL, USER_DEFINED)]
    backend.add_tokens(
        [tokenizers.AddedToken(token, normalized=False, special=kind == CONTROL) for token, kind in added]
    )
    eos, pad, bos = (field(f"tokenizer.ggml.{name}_token_id", None) for name in ("eos", "padding", "bos"))
    return make_tokenizer(backend, eos, pad, bos, field("tokenizer.chat_template", None))
