"""Low-rank adaptation: a policy whose weights are frozen, with small trained matrices added to them."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gaejax.policies import Policy

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
    """Returns the policy with frozen `weights` and trained low-rank updates, `W + alpha / rank * B A` (Hu et al. 2021,
    arXiv:2106.09685).

    Its params are `lora`, with `a` `[rank, inputs]` (random) and `b` `[outputs, rank]` (0, so that it starts as the
    policy with these weights) by layer and target; and `own`, those of the policy's params that are not in `weights`,
    for example the value head. A copy of its params at the start can be the reference of `kl_penalty`, which then needs
    no second copy of the weights.

    The policy's functions read `weights` where they are called. In a function to be compiled, pass the weights as an
    argument and build the policy inside, or set `jax.config.update("jax_use_simplified_jaxpr_constants", True)`;
    otherwise all of them are embedded in the program as constants.

    Args:
      policy: A `decoder_policy` with one trunk.
      weights: Its trunk's weights, `{"actor": ..., "lm_head": ...}`, as `gaejax.language.load` reads them.
      rank: Rank of the updates.
      alpha: Scale: updates are multiplied by `alpha / rank`.
      layers: Which layers are adapted; default: all. Required if the policy has frozen layers: those above them.
      targets: Which dense layers of these are adapted, by Hugging Face's names.

    Raises:
      ValueError: if `rank` is below 1, `weights` has no such layer or target, or `layers` is not given for a policy
        with frozen layers.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    trunk = weights["actor"]["params"]
    known = {int(name.removeprefix("layers_")) for name in trunk if name.startswith("layers_")}
    if layers is None and policy.encode is not None:
        raise ValueError("layers must be given for a policy with frozen layers, those above them; got None")
    chosen = sorted(known if layers is None else layers)
    if not known.issuperset(chosen):
        unknown = next(layer for layer in chosen if layer not in known)
        raise ValueError(f"layers must be among the {len(known)} layers of weights, 0 .. {max(known)}, got {unknown}")
    adapted = [(f"layers_{layer}", target) for layer in chosen for target in targets]
    for layer, target in adapted:
        if "kernel" not in trunk[layer].get(target, {}):
            raise ValueError(f"targets must be dense layers of weights, {', '.join(TARGETS)}, got {target!r}")
    scale = alpha / rank

    def init(key: jax.Array) -> dict:
        lora_key, own_key = jax.random.split(key)
        params = {layer: {} for layer, _ in adapted}
        for (layer, target), key in zip(adapted, jax.random.split(lora_key, len(adapted)), strict=True):
            inputs, outputs = trunk[layer][target]["kernel"].shape
            a = jax.random.normal(key, (rank, inputs)) / inputs**0.5
            params[layer][target] = {"a": a, "b": jnp.zeros((outputs, rank))}
        own = {name: leaves for name, leaves in policy.init(own_key).items() if name not in weights}
        return {"lora": params, "own": own}

    def adapting(method: Callable[..., Any], params: dict, *inputs: Any) -> Any:
        """Calls the policy's method; dense layers add what their update makes of their inputs."""

        def add(layer: Any, arguments: tuple, keywords: dict, context: nn.module.InterceptorContext) -> jax.Array:
            outputs, own = layer(*arguments, **keywords), None
            if context.method_name == "__call__" and len(path := context.module.path) == 2:
                own = params["lora"].get(path[0], {}).get(path[1])
            return outputs if own is None else outputs + scale * (arguments[0] @ own["a"].T) @ own["b"].T

        with nn.intercept_methods(add):
            return method({**weights, **params["own"]}, *inputs)

    def encode(params: dict, carry: Any, observations: Any, resets: jax.Array) -> tuple:
        assert policy.encode is not None
        return policy.encode({**weights, **params["own"]}, carry, observations, resets)

    def apply(params: dict, carry: Any, observations: Any, resets: jax.Array) -> tuple:
        if policy.encode is not None:  # outside `adapting`: frozen layers are not adapted
            carry, observations = encode(params, carry, observations, resets)
        return adapting(policy.apply, params, carry, observations, resets)

    return policy._replace(init=init, apply=apply, encode=encode if policy.encode else None)


def merged(weights: dict, params: dict, *, alpha: float = 16.0) -> dict:
    """Returns the weights with the trained updates of `lora` added, for a policy without it: to save or to train on.

    Args:
      weights: Those that `lora` was given.
      params: The params of the policy that `lora` returned.
      alpha: That of `lora`.
    """
    trunk = dict(weights["actor"]["params"])
    for layer, targets in params["lora"].items():
        trunk[layer] = dict(trunk[layer])
        for target, own in targets.items():
            scale, dense = alpha / own["a"].shape[0], trunk[layer][target]
            trunk[layer][target] = {**dense, "kernel": dense["kernel"] + scale * (own["b"] @ own["a"]).T}
    return {**weights, "actor": {"params": trunk}}
