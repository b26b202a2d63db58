"""Where the tensors of a Hugging Face model lie in the params of `decoder_policy`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gaejax.language.models.config import DecoderConfig

TRUNK = ("actor", "params")

Tensors = Mapping[str, Callable[[], np.ndarray]]
"""A function that reads each tensor, by its Hugging Face name."""


class Place(NamedTuple):
    """Where a tensor lies in the params.

    Attributes:
      path: Keys into the params.
      shape: The tensor's shape in the file.
      transposed: Whether the params hold its transpose.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool = False


def layout(config: DecoderConfig) -> dict[str, Place]:
    """Returns the place of every tensor of a decoder, by its Hugging Face name."""
    hidden, width = config.hidden_size, config.intermediate_size or 4 * config.hidden_size
    queries, keys = config.num_attention_heads * config.head_size, config.kv_heads * config.head_size
    table = (config.vocab_size, hidden)
    places = {"model.embed_tokens.weight": Place((*TRUNK, "embed_tokens"), table)}
    matrices = {  # [outputs, inputs]
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (width, hidden),
        "mlp.up_proj": (width, hidden),
        "mlp.down_proj": (hidden, width),
    }
    for layer in range(config.num_hidden_layers):
        prefix, block = f"model.layers.{layer}", (*TRUNK, f"layers_{layer}")
        for name in ("input_layernorm", "post_attention_layernorm"):
            places[f"{prefix}.{name}.weight"] = Place((*block, name, "weight"), (hidden,))
        for name, shape in matrices.items():
            module = name.partition(".")[2]
            places[f"{prefix}.{name}.weight"] = Place((*block, module, "kernel"), shape, transposed=True)
            if config.qkv_bias and module in ("q_proj", "k_proj", "v_proj"):
                places[f"{prefix}.{name}.bias"] = Place((*block, module, "bias"), shape[:1])
    places["model.norm.weight"] = Place((*TRUNK, "norm", "weight"), (hidden,))
    if not config.tie_word_embeddings:
        places["lm_head.weight"] = Place(("lm_head",), table)
    return places


def params_of(config: DecoderConfig, tensors: Tensors) -> dict:
    """Returns the params, in float32, made of a model's tensors, which are read one by one.

    Raises:
      ValueError: if a tensor is missing, unknown, or does not have the shape or dtype that the config implies.
    """
    if config.num_hidden_layers > len(tensors):  # before anything is made for so many layers
        what = f"the files hold {len(tensors)} tensors: do both belong to one model?"
        raise ValueError(f"num_hidden_layers must match the tensors, got {config.num_hidden_layers}, but {what}")
    places, params = layout(config), {}
    unused = {name for name in tensors if name.endswith("rotary_emb.inv_freq")}
    if config.tie_word_embeddings:
        unused.add("lm_head.weight")
    missing, extra = places.keys() - tensors.keys(), tensors.keys() - places.keys() - unused
    if missing or extra:
        found = [f"{some} {listed(names)}" for some, names in (("missing", missing), ("extra", extra)) if names]
        raise ValueError(f"tensors must match the config, got {'; '.join(found)}: do both belong to one model?")
    for name, place in places.items():
        array = checked(name, tensors[name](), place.shape)
        node = params
        for key in place.path[:-1]:
            node = node.setdefault(key, {})
        node[place.path[-1]] = jnp.array(array.T if place.transposed else array, jnp.float32)
    return params


def tensors_of(config: DecoderConfig, params: Mapping) -> dict[str, np.ndarray]:
    """Returns a model's tensors, in float32, made of the actor's and the output head's params; others are left out.

    Raises:
      ValueError: if one is missing or does not have the shape that the config implies.
    """
    tensors = {}
    for name, place in layout(config).items():
        array: Any = params
        for key in place.path:
            if key not in array:
                raise ValueError(f"params must be those of decoder_policy(config), got none at {'/'.join(place.path)}")
            array = array[key]
        array = np.asarray(jax.device_get(array), np.float32)
        array = checked(name, array.T if place.transposed else array, place.shape)
        tensors[name] = np.ascontiguousarray(array)
    return tensors


def checked(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the array; raises ValueError if it has another shape or is not floating-point."""
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape} to fit the config, got {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating-point, got {array.dtype}: load quantized models from .gguf files")
    return array


def listed(names: set[str], most: int = 3) -> str:
    """Returns the first names, in order, and how many more there are."""
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
