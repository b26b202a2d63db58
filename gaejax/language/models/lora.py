"""Low-rank adaptation: a policy whose weights are frozen, and small matrices beside them that are trained."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from gaejax.policies.core import Policy

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lora(
    policy: Policy,
    weights: dict,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    layers: Sequence[int] | None = None,
    targets: Sequence[str] = TARGETS,
) -> Policy:
    """The policy with `weights` that stay, and `alpha / rank * B A` added to dense layers (Hu et al. 2021,
    arXiv:2106.09685).

    Its params are `lora`, of each adapted layer `a` `[rank, inputs]` (random) and `b` `[outputs, rank]` (0, so that it
    starts as the policy with these weights), and `own`, what of the policy's params is not in `weights`, the value head
    for example. A copy of its params at the start is the reference of `kl_penalty`: it costs no second set of weights.

    `weights` are read where the policy is used: in a function to be compiled, pass them as an argument and make the
    policy inside, or set `jax.config.update("jax_use_simplified_jaxpr_constants", True)`; else all of them are written
    into the program.

    Args:
      policy: of `decoder_policy`, with one trunk.
      weights: of its trunk, `{"actor": ..., "lm_head": ...}`, as `gaejax.language.load` reads them.
      rank: of the additions; alpha: their weight, times rank.
      layers: which are adapted; default: all. Those above the frozen ones, where the policy has such.
      targets: which of their products, by Hugging Face's names.

    Raises:
      ValueError: for a layer or target that `weights` have not, no layers where some are frozen, or a rank below 1.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    trunk = weights["actor"]["params"]
    known = {int(name.removeprefix("layers_")) for name in trunk if name.startswith("layers_")}
    if layers is None and policy.encode is not None:
        raise ValueError("layers must be given, those above the frozen ones, for a policy with frozen layers; got None")
    layers = known if layers is None else layers
    if not known.issuperset(layers):
        raise ValueError(f"layers must be among the {len(known)} of weights, got {sorted(set(layers) - known)[0]}")
    adapted = [f"layers_{layer}/{target}" for layer in sorted(layers) for target in targets]
    scale = alpha / rank
    for name in adapted:
        layer, target = name.split("/")
        if target not in trunk[layer] or "kernel" not in trunk[layer][target]:
            raise ValueError(f"targets must be dense layers of weights, {', '.join(TARGETS)}, got {target!r}")

    def init(key: jax.Array) -> dict:
        lora_key, own_key = jax.random.split(key)
        params = {}
        for name, key in zip(adapted, jax.random.split(lora_key, len(adapted)), strict=True):
            layer, target = name.split("/")
            inputs, outputs = trunk[layer][target]["kernel"].shape
            a = jax.random.normal(key, (rank, inputs)) / inputs**0.5
            params[name] = {"a": a, "b": jnp.zeros((outputs, rank))}
        own = {name: leaves for name, leaves in policy.init(own_key).items() if name not in weights}
        return {"lora": params, "own": own}

    def adapting(method: Any, params: dict, *inputs: Any) -> Any:
        def add(layer: Any, arguments: tuple, keywords: dict, context: nn.module.InterceptorContext) -> jax.Array:
            outputs = layer(*arguments, **keywords)
            own = params["lora"].get("/".join(context.module.path)) if context.method_name == "__call__" else None
            return outputs if own is None else outputs + scale * (arguments[0] @ own["a"].T) @ own["b"].T

        with nn.intercept_methods(add):
            return method({**weights, **params["own"]}, *inputs)

    def encode(params: dict, carry: Any, observations: Any, resets: jax.Array) -> tuple:
        return policy.encode({**weights, **params["own"]}, carry, observations, resets)

    def apply(params: dict, carry: Any, observations: Any, resets: jax.Array) -> tuple:
        if policy.encode is not None:  # outside: what is frozen is not adapted
            carry, observations = encode(params, carry, observations, resets)
        return adapting(policy.apply, params, carry, observations, resets)

    return policy._replace(init=init, apply=apply, encode=encode if policy.encode else None)


def merged(weights: dict, params: dict, *, alpha: float = 16.0) -> dict:
    """The weights of `lora` with its trained params added: those of a policy without it, to go on with or to save."""
    flat = traverse_util.flatten_dict(weights["actor"]["params"], sep="/")
    for name, own in params["lora"].items():
        scale = alpha / own["a"].shape[0]
        flat[f"{name}/kernel"] = flat[f"{name}/kernel"] + scale * (own["b"] @ own["a"]).T
    return {**weights, "actor": {"params": traverse_util.unflatten_dict(flat, sep="/")}}
