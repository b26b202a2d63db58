"""The decoder as an actor-critic policy."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.environments import Discrete
from gaejax.language.models.config import DecoderConfig
from gaejax.language.models.decoder import decoder
from gaejax.language.models.sampling import Sampling
from gaejax.policies import Body, Policy
from gaejax.policies.layers import ValueHead


class Encoded(NamedTuple):
    """Features `[T, N, hidden_size]` that a decoder's frozen layers computed from tokens."""

    features: jax.Array


def decoder_policy(
    config: DecoderConfig,
    *,
    value: Literal["head", "trunk", "none"] = "head",
    value_scale: float = 1.0,
    frozen_layers: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    log_prob_of: Literal["sampled", "model"] = "sampled",
    logits_chunk: int | None = None,
    compute_dtype: Any = jnp.float32,
    remat: bool = False,
) -> Policy:
    """Returns a decoder with a next-token head and a value head, as a policy like any other.

    Its params are `actor` (the trunk), `lm_head` `[vocab_size, hidden_size]` unless tied, `value` (the value head), and
    `critic` (a second trunk) for `value="trunk"`.

    Args:
      config: The decoder's shape.
      value: Where values are read. "head": on the actor's trunk; "trunk": on a second trunk with its own parameters and
        cache; "none": values are 0, for baselines without a critic.
      value_scale: Factor on the features that the value head reads. A step of Adam moves a value by up to
        `learning_rate * hidden_size` times their magnitude: wide pretrained decoders need 1 / sqrt(hidden_size), or
        less.
      frozen_layers: How many of the first layers get no gradient. Their features can be computed once per rollout, by
        the transform `encode_once`.
      temperature: What logits are divided by before sampling.
      top_k: How many of the most probable tokens may be sampled. None: all.
      top_p: Nucleus sampling threshold (Holtzman et al. 2020, arXiv:1904.09751), applied after temperature and top-k.
        None: off.
      log_prob_of: The distribution whose log-probabilities, entropies and ratios the policy reports. "sampled": the one
        that is sampled from, after temperature, top-k and top-p; "model": the model at temperature 1, whatever samples
        are drawn from. With "sampled", a token that an update pushes out of top-k or top-p has ratio 0 and no gradient
        from then on.
      logits_chunk: How many positions' logits are computed at a time, for when `[T, N, vocab_size]` does not fit in
        memory. Requires "sampled", and neither top-k nor top-p. None: all at once.
      compute_dtype: Dtype of the trunks, for example `jnp.bfloat16`. Parameters, caches, heads and losses stay float32.
      remat: Whether to recompute each layer's activations for the gradient instead of keeping them.

    Raises:
      ValueError: if the config or an option is invalid.
    """
    sampling = Sampling(temperature, top_k, top_p, log_prob_of, logits_chunk)
    config.validate()
    if value not in ("head", "trunk", "none"):
        raise ValueError(f"value must be 'head', 'trunk' or 'none', got {value!r}")
    sampling.validate(config.vocab_size)
    if not 0 <= frozen_layers <= config.num_hidden_layers or (frozen_layers and value == "trunk"):
        most = f"{config.num_hidden_layers}, without a critic's trunk"
        raise ValueError(f"frozen_layers must be between 0 and num_hidden_layers = {most}, got {frozen_layers}")
    cut = range(frozen_layers), range(frozen_layers, config.num_hidden_layers)
    frozen, body = (decoder(config, remat, layers) for layers in cut)
    value_head = ValueHead()
    bodies = {"actor": body} | ({"critic": body} if value == "trunk" else {})

    def initial_carry(batch: int) -> dict:
        bodies_and_frozen = bodies | ({"frozen": frozen} if frozen_layers else {})
        return {name: body.initial_carry(batch) for name, body in bodies_and_frozen.items()}

    def init(key: jax.Array) -> dict:
        actor_key, critic_key, head_key, value_key = jax.random.split(key, 4)
        keys, tokens = {"actor": actor_key, "critic": critic_key}, jnp.zeros((1, 1), jnp.int32)
        params = {name: decoder(config).init(keys[name], tokens) for name in bodies}
        if not config.tie_word_embeddings:
            params["lm_head"] = 0.01 * jax.random.normal(head_key, (config.vocab_size, config.hidden_size))
        if value != "none":
            params["value"] = value_head.init(value_key, jnp.zeros((1, 1, config.hidden_size)))
        return params

    def run(body: Body, params: Any, carry: Any, inputs: jax.Array, resets: jax.Array) -> tuple:
        carry, features = body.apply(jax.tree.map(lambda x: x.astype(compute_dtype), params), carry, inputs, resets)
        return carry, features.astype(jnp.float32)

    def encode(params: dict, carry: dict, observations: Any, resets: jax.Array) -> tuple[dict, Encoded]:
        if isinstance(observations, Encoded):
            return carry, observations
        below, features = run(frozen, jax.lax.stop_gradient(params["actor"]), carry["frozen"], observations, resets)
        return {**carry, "frozen": below}, Encoded(features)

    def apply(params: dict, carry: dict, observations: Any, resets: jax.Array) -> tuple:
        inputs = observations
        if frozen_layers:
            carry, (inputs,) = encode(params, carry, observations, resets)
        read = {name: run(body, params[name], carry[name], inputs, resets) for name, body in bodies.items()}
        head = params["actor"]["params"]["embed_tokens"] if config.tie_word_embeddings else params["lm_head"]
        distribution = sampling.distribution(read["actor"][1], head)
        values = jnp.zeros(resets.shape)
        if value != "none":
            _, features = read.get("critic", read["actor"])
            values = value_head.apply(params["value"], features * value_scale)
        return {**carry, **{name: own for name, (own, _) in read.items()}}, distribution, values

    return Policy(init, initial_carry, apply, Discrete(config.vocab_size), encode if frozen_layers else None)
