"""Learning from texts that are given: responses to imitate, preferences, and the reward model that comes of them.

What was learned is where PPO starts, in parameters of the policy's own shape:

    params, infos = jax.jit(lambda params, texts, key: fit(loss, params, texts, key, ...))(params, texts, key)
    warm = policy._replace(init=lambda key: {**policy.init(key), **params})    # what has not been learned starts afresh
    state = gaejax.ppo(environment, warm, transforms=[kl_penalty(warm)]).init(key, config)    # and is the reference too
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gaejax.language.data.datasets import Texts
from gaejax.language.data.prompts import Text
from gaejax.minibatches import random_permutation
from gaejax.policies.attention import Cache
from gaejax.policies.core import Policy
from gaejax.statistics import masked_mean
from gaejax.values import expected_values

MAX_GRAD_NORM = 1.0


def supervised_loss(policy: Policy, params: Any, texts: Texts) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean of -log p(token) over the tokens of responses, EOS included, given all that stands before them.

    Args:
      policy: without top-k and top-p, which leave no probability to tokens that it should learn.
      params: its parameters.
      texts: to imitate, `[B, L]`.

    Returns:
      The loss in nats, and `accuracy`: the share of these tokens that are the most probable ones.

    Raises:
      ValueError: if texts are longer than the policy's context.
    """
    log_probs, mask, accuracy = _responses(policy, params, texts)
    return -masked_mean(log_probs, mask), {"accuracy": masked_mean(accuracy, mask)}


def response_log_probs(policy: Policy, params: Any, texts: Texts) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities `[L - 1, B]` of the tokens of responses in texts `[B, L]`, 0 elsewhere, and where these are."""
    log_probs, mask, _ = _responses(policy, params, texts)
    return jnp.where(mask, log_probs, 0), mask


def _responses(policy: Policy, params: Any, texts: Texts) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of every token behind the first: its log-probability, whether it is a response's, whether the most probable."""
    tokens = texts.tokens.T
    check_context(policy, len(tokens) - 1)
    _, distributions, _ = _read(policy, params, tokens[:-1])
    written = jnp.arange(1, len(tokens))[:, None]
    mask = (written >= texts.prompt_lengths) & (written < texts.lengths)
    targets = jnp.where(mask, tokens[1:], 0)
    return distributions.log_prob(targets), mask, distributions.mode() == targets


def preference_loss(
    policy: Policy, params: Any, chosen: Texts, rejected: Texts
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean of -log sigmoid(score(chosen) - score(rejected)), by which a policy's value becomes a reward model.

    (The model of Bradley & Terry 1952; Christiano et al. 2017, arXiv:1706.03741; Ouyang et al. 2022, arXiv:2203.02155,
    equation 1.)

    Args:
      policy: whose values are `text_scores`.
      params: its parameters.
      chosen, rejected: of each pair the text that was preferred, and the other, `[B, L]` each.

    Returns:
      The loss in nats, and `accuracy`: the share of pairs in order, `margin`: the mean difference of scores.

    Raises:
      ValueError: if chosen and rejected differ in shape, or texts are longer than the policy's context.
    """
    shapes = [jax.tree.leaves(texts.tokens)[0].shape for texts in (chosen, rejected)]
    if shapes[0] != shapes[1]:
        got = f"got {shapes[0]} and {shapes[1]}: encode both with one max_length"
        raise ValueError(f"chosen and rejected must be arrays of one shape, {got}")
    check_context(policy, shapes[0][1])
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), chosen, rejected)
    better, worse = jnp.split(text_scores(policy, params, both), 2)
    margin = better - worse
    return -jnp.mean(jax.nn.log_sigmoid(margin)), {"accuracy": jnp.mean(margin > 0), "margin": jnp.mean(margin)}


def text_scores(policy: Policy, params: Any, texts: Texts) -> jax.Array:
    """The policy's values `[B]` where it has read the last tokens of texts `[B, L]`."""
    _, _, values = _read(policy, params, jax.tree.map(lambda x: x.swapaxes(0, 1), texts.tokens))
    return jnp.take_along_axis(expected_values(values), texts.lengths[None] - 1, axis=0)[0]


def encode_texts(policy: Policy, params: Any, texts: Texts) -> Texts:
    """Texts whose tokens are what the policy's frozen part makes of them, for losses that read no tokens: what is done
    once need not be done at every step of `fit`."""
    steps, batch = texts.tokens.T.shape
    resets = jnp.zeros((steps, batch), bool).at[0].set(True)
    _, encoded = policy.encode(params, policy.initial_carry(batch), texts.tokens.T, resets)
    return texts._replace(tokens=jax.tree.map(lambda x: x.swapaxes(0, 1), encoded))


def joined(prompts: jax.Array, prompt_lengths: jax.Array, responses: jax.Array, lengths: jax.Array) -> Texts:
    """Prompts `[B, L]` and responses `[B, R]`, of which `[B]` tokens count, as texts `[B, L + R]` without a gap."""
    size, place = responses.shape[1], jnp.arange(prompts.shape[1] + responses.shape[1])
    behind = jnp.clip(place - prompt_lengths[:, None], 0, size - 1)
    written = jnp.take_along_axis(responses, behind, axis=1)
    tokens = jnp.where(place < prompt_lengths[:, None], jnp.pad(prompts, ((0, 0), (0, size))), written)
    return Texts(tokens, prompt_lengths, prompt_lengths + lengths)


def text_reward(policy: Policy, params: Any, mean: float = 0.0, std: float = 1.0) -> Callable[[Text], jax.Array]:
    """A trained reward model as the reward of `gaejax.language.score`, and of `token_environment`.

    Args:
      policy, params: whose values are scores (see `preference_loss`).
      mean, std: of the `text_scores` of some texts, by which scores are standardized: differences alone were learned.

    Returns:
      A function of one text, `(text_scores - mean) / std`, which reads as many tokens as its arrays hold: `score`
      should be given `max_prompt` and `max_response`.
    """

    def reward(text: Text) -> jax.Array:
        whole = joined(*(jnp.asarray(part, jnp.int32)[None] for part in text[:4]))
        return (text_scores(policy, params, whole)[0] - mean) / std

    return reward


def fit(
    loss: Callable[[Any, Any], tuple[jax.Array, dict]],
    params: Any,
    data: Any,
    key: jax.Array,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: Any,
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adam,
) -> tuple[Any, dict[str, jax.Array]]:
    """Descends a loss for `num_steps` minibatches, in epochs of shuffled rows; pure, to be jitted (and vmapped) whole.

    Rows that fill no minibatch are left out of an epoch, others in each. Gradients are clipped to the global norm 1.

    Args:
      loss: `(params, minibatch) -> (loss, infos)`.
      params: where to start.
      data: a pytree whose leaves have B rows, such as `Texts`, or a pair of them.
      key: randomness of the shuffles.
      num_steps, batch_size: static sizes.
      learning_rate: a number, or a schedule as optax has them.
      optimizer: `learning_rate -> optax.GradientTransformation`.

    Returns:
      The parameters, and of each step `loss`, `gradient_norm` (before clipping) and the infos, leaves `[num_steps]`.

    Raises:
      ValueError: in one line, if a size is below 1 or the minibatch larger than the data.
    """
    num_rows = jax.tree.leaves(data)[0].shape[0]
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not 1 <= batch_size <= num_rows:
        raise ValueError(f"batch_size must be between 1 and the {num_rows} rows of the data, got {batch_size}")
    per_epoch = num_rows // batch_size
    epoch_keys = jax.random.split(key, -(-num_steps // per_epoch))
    shuffled = jax.lax.map(lambda key: random_permutation(key, num_rows)[: per_epoch * batch_size], epoch_keys)
    descent = optax.chain(optax.clip_by_global_norm(MAX_GRAD_NORM), optimizer(learning_rate))

    def step(training: tuple, rows: jax.Array) -> tuple:
        params, state = training
        minibatch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
        (value, infos), gradients = jax.value_and_grad(loss, has_aux=True)(params, minibatch)
        updates, state = descent.update(gradients, state, params)
        infos = {"loss": value, "gradient_norm": optax.tree.norm(gradients), **infos}
        return (optax.apply_updates(params, updates), state), infos

    rows = shuffled.reshape(-1, batch_size)[:num_steps]
    (params, _), infos = jax.lax.scan(step, (params, descent.init(params)), rows)
    return params, infos


def check_context(policy: Policy, steps: int) -> None:
    """Raises ValueError, in one line, if a memory of keys and values does not hold so many steps."""
    is_cache = lambda node: isinstance(node, Cache)  # noqa: E731
    carry = jax.eval_shape(lambda: policy.initial_carry(1))
    for cache in filter(is_cache, jax.tree.leaves(carry, is_leaf=is_cache)):
        if steps > (context := cache.positions.shape[1]):
            raise ValueError(f"texts must fit the policy's context of {context} steps, and need {steps}")


def _read(policy: Policy, params: Any, tokens: Any) -> tuple:
    """The policy's `apply` on texts `[T, B]` from their beginnings."""
    steps, batch = jax.tree.leaves(tokens)[0].shape[:2]
    carry = policy.initial_carry(batch)
    return policy.apply(params, carry, tokens, jnp.zeros((steps, batch), bool).at[0].set(True))
