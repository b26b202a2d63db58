"""The decoder as an actor-critic: what it samples from, which log-probability is stored, and text from it."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gaejax.distributions import Categorical, LazyCategorical
from gaejax.environments import Discrete
from gaejax.language.models.config import DecoderConfig
from gaejax.language.models.decoder import decoder
from gaejax.language.models.sampling import SampledFrom, check_sampling, sampling_logits
from gaejax.policies.core import Body, Policy
from gaejax.policies.heads import ValueHead


class Encoded(NamedTuple):
    """Features `[T, N, hidden_size]` of tokens behind a decoder's frozen layers."""

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
    """A decoder with a head for the next token and one for the value, as a policy like any other.

    Its params are `actor` (the trunk), `lm_head` `[vocab, hidden]` unless tied, `value`, and `critic` (another trunk).

    Args:
      config: the decoder's shape.
      value: where values are read: "head": on the actor's trunk; "trunk": on one of the critic's own, with parameters
        and a memory; "none": 0 (for baselines without a critic).
      value_scale: of the features that the value head reads. A step of Adam moves a value by up to
        `learning_rate * hidden_size` times their size: wide pretrained decoders want 1 / sqrt(hidden_size), or less.
      frozen_layers: how many layers, the first ones, get no gradient: their work can be done once a rollout, by
        `gaejax.algorithms.transforms.encode_once`.
      temperature: by which logits are divided before sampling.
      top_k: how many tokens may be sampled, the most probable ones; None: all.
      top_p: the least probability that the tokens that may be sampled have together, the most probable first (Holtzman
        et al. 2020, arXiv:1904.09751), behind temperature and top-k.
      log_prob_of: whose log-probabilities, entropies and ratios these are: of the distribution that is "sampled" from,
        temperature, top-k and top-p included, or of the "model" at temperature 1, whatever samples are drawn from. With
        "sampled", a token that an update pushes out of top-k or top-p has ratio 0 and no gradient from there on.
      logits_chunk: positions whose logits are made at one time, where `[T, N, vocab]` would not fit; without top-k and
        top-p, and for "sampled".
      compute_dtype: of the trunks, for example `jnp.bfloat16`; parameters, memories, heads and losses stay float32.
      remat: whether each layer is computed again for the gradient.

    Raises:
      ValueError: for an option that cannot be, in one line.
    """
    check_sampling(config, value, temperature, top_k, top_p, log_prob_of, logits_chunk)
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
        keys = dict(zip(("actor", "critic", "lm_head", "value"), jax.random.split(key, 4), strict=True))
        tokens = jnp.zeros((1, 1), jnp.int32)
        params = {name: decoder(config).init(keys[name], tokens) for name in bodies}
        if not config.tie_word_embeddings:
            shape = (config.vocab_size, config.hidden_size)
            params["lm_head"] = 0.01 * jax.random.normal(keys["lm_head"], shape)
        if value != "none":
            params["value"] = value_head.init(keys["value"], jnp.zeros((1, 1, config.hidden_size)))
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
        table = params["actor"]["params"]["embed_tokens"] if config.tie_word_embeddings else params["lm_head"]
        distribution = next_token(read["actor"][1], table)
        _, features = read.get("critic", read["actor"])
        values = (
            value_head.apply(params["value"], features * value_scale) if value != "none" else jnp.zeros(resets.shape)
        )
        return {**carry, **{name: own for name, (own, _) in read.items()}}, distribution, values

    def next_token(features: jax.Array, table: jax.Array) -> Any:
        if logits_chunk is not None:
            return LazyCategorical(features / temperature, table, jnp.zeros(len(table)), logits_chunk)
        logits = (features.reshape(-1, features.shape[-1]) @ table.T).reshape(*features.shape[:-1], len(table))
        behaviour = Categorical(sampling_logits(logits, temperature, top_k, top_p))
        return behaviour if log_prob_of == "sampled" else SampledFrom(Categorical(logits), behaviour)

    return Policy(init, initial_carry, apply, Discrete(config.vocab_size), encode if frozen_layers else None)
