"""Learning from given texts: imitating responses, and learning a reward model from preferences.

PPO can start from what was learned, in params of the policy's own shape:

    params, infos = jax.jit(lambda params, texts, key: fit(loss, params, texts, key, ...))(params, texts, key)
    warm = policy._replace(init=lambda key: {**policy.init(key), **params})    # the rest is initialized
    state = gaejax.ppo(environment, warm, transforms=[kl_penalty(warm)]).init(key, config)    # it is the reference too
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gaejax.language.data.datasets import Texts
from gaejax.language.data.prompts import Reward, Text
from gaejax.language.models.context import context_of
from gaejax.minibatches import random_permutation
from gaejax.policies import Policy, expected_values
from gaejax.statistics import masked_mean

MAX_GRAD_NORM = 1.0


class EncodedTexts(NamedTuple):
    """`Texts` whose tokens were replaced by what a policy's frozen layers compute from them.

    Attributes:
      observations: What `policy.encode` returned for the tokens, leaves `[B, L, ...]`; `policy.apply` takes it.
      prompt_lengths: `[B]`, as in `Texts`.
      lengths: `[B]`, as in `Texts`.
    """

    observations: Any
    prompt_lengths: jax.Array
    lengths: jax.Array


def supervised_loss(policy: Policy, params: Any, texts: Texts) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the mean of -log p(token | all tokens before it) over the tokens of responses, EOS included.

    Args:
      policy: A policy without top-k and top-p, which would give tokens to imitate no probability.
      params: Its parameters.
      texts: Texts to imitate, `[B, L]`.

    Returns:
      The loss in nats, and `accuracy`, the fraction of these tokens that are the policy's most probable ones.

    Raises:
      ValueError: if texts are longer than the policy's context.
    """
    log_probs, mask, accuracy = _responses(policy, params, texts)
    return -masked_mean(log_probs, mask), {"accuracy": masked_mean(accuracy, mask)}


def response_log_probs(policy: Policy, params: Any, texts: Texts) -> tuple[jax.Array, jax.Array]:
    """Returns the log-probabilities `[L - 1, B]` of the responses' tokens in texts `[B, L]`, 0 elsewhere, and the mask
    `[L - 1, B]` of these tokens.

    Raises:
      ValueError: if texts are longer than the policy's context.
    """
    log_probs, mask, _ = _responses(policy, params, texts)
    return jnp.where(mask, log_probs, 0), mask


def _responses(policy: Policy, params: Any, texts: Texts) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns, for every token after the first: its log-probability, whether it belongs to a response, and whether it
    is the most probable one, `[L - 1, B]` each."""
    tokens = texts.tokens.T
    check_context(policy, len(tokens) - 1)
    _, distributions, _ = _read(policy, params, tokens[:-1])
    written = jnp.arange(1, len(tokens))[:, None]
    mask = (written >= texts.prompt_lengths) & (written < texts.lengths)
    targets = jnp.where(mask, tokens[1:], 0)
    return distributions.log_prob(targets), mask, distributions.mode() == targets


def preference_loss(
    policy: Policy, params: Any, chosen: Texts | EncodedTexts, rejected: Texts | EncodedTexts
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the mean of -log sigmoid(score(chosen) - score(rejected)), which makes a policy's value a reward model
    (Bradley & Terry 1952; Christiano et al. 2017, arXiv:1706.03741; Ouyang et al. 2022, arXiv:2203.02155, equation 1).

    Args:
      policy: The policy whose values are the scores, see `text_scores`.
      params: Its parameters.
      chosen: The preferred text of each pair, `[B, L]`.
      rejected: The other text of each pair, `[B, L]`.

    Returns:
      The loss in nats, and `accuracy`, the fraction of pairs that the scores put in the right order, and `margin`, the
      mean difference of scores.

    Raises:
      ValueError: if chosen and rejected differ in shape, or texts are longer than the policy's context.
    """
    shapes = [jax.tree.leaves(texts)[0].shape[:2] for texts in (chosen, rejected)]
    if shapes[0] != shapes[1]:
        got = f"got {shapes[0]} and {shapes[1]}: encode both with the same max_length"
        raise ValueError(f"chosen and rejected must be arrays of the same shape, {got}")
    check_context(policy, shapes[0][1])
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), chosen, rejected)
    better, worse = jnp.split(text_scores(policy, params, both), 2)
    margin = better - worse
    return -jnp.mean(jax.nn.log_sigmoid(margin)), {"accuracy": jnp.mean(margin > 0), "margin": jnp.mean(margin)}


def text_scores(policy: Policy, params: Any, texts: Texts | EncodedTexts) -> jax.Array:
    """Returns the policy's values `[B]` at the last tokens of texts `[B, L]`."""
    observations = texts.tokens if isinstance(texts, Texts) else texts.observations
    _, _, values = _read(policy, params, jax.tree.map(lambda x: x.swapaxes(0, 1), observations))
    return jnp.take_along_axis(expected_values(values), texts.lengths[None] - 1, axis=0)[0]


def encode_texts(policy: Policy, params: Any, texts: Texts) -> EncodedTexts:
    """Runs the policy's frozen layers on texts once, instead of at every step of `fit` (for `preference_loss` and
    `text_scores`, which do not need the tokens).

    Args:
      policy: A policy with frozen layers.
      params: Its parameters.
      texts: Texts `[B, L]`.

    Raises:
      ValueError: if the policy has no frozen layers.
    """
    if policy.encode is None:
        raise ValueError("policy of encode_texts must have frozen layers, got one without")
    steps, batch = texts.tokens.T.shape
    resets = jnp.zeros((steps, batch), bool).at[0].set(True)
    _, encoded = policy.encode(params, policy.initial_carry(batch), texts.tokens.T, resets)
    observations = jax.tree.map(lambda x: x.swapaxes(0, 1), encoded)
    return EncodedTexts(observations, texts.prompt_lengths, texts.lengths)


def joined(prompts: jax.Array, prompt_lengths: jax.Array, responses: jax.Array, lengths: jax.Array) -> Texts:
    """Concatenates each prompt and response, without the padding between them.

    Args:
      prompts: `[B, L]`.
      prompt_lengths: How many tokens of each prompt count, `[B]`.
      responses: `[B, R]`.
      lengths: How many tokens of each response count, `[B]`.

    Returns:
      Texts `[B, L + R]`.
    """
    size, place = responses.shape[1], jnp.arange(prompts.shape[1] + responses.shape[1])
    in_response = jnp.clip(place - prompt_lengths[:, None], 0, size - 1)
    written = jnp.take_along_axis(responses, in_response, axis=1)
    tokens = jnp.where(place < prompt_lengths[:, None], jnp.pad(prompts, ((0, 0), (0, size))), written)
    return Texts(tokens, prompt_lengths, prompt_lengths + lengths)


def text_reward(policy: Policy, params: Any, mean: float = 0.0, std: float = 1.0) -> Reward:
    """Returns a trained reward model as a reward, for `gaejax.language.score` and `token_environment`.

    Args:
      policy: The policy whose values are scores, see `preference_loss`.
      params: Its parameters.
      mean: Mean of the `text_scores` of some texts. Only differences of scores are learned, so they are standardized.
      std: Standard deviation of these scores.

    Returns:
      A function of one text, `(text_scores - mean) / std`. It reads as many tokens as the text's arrays hold, so give
      `score` the arguments `max_prompt` and `max_response`.
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
    """Minimizes a loss in `num_steps` minibatches, over shuffled epochs. Pure: jit (and vmap) it as a whole.

    Elements that do not fill a minibatch are left out of an epoch, different ones in each. Gradients are clipped to a
    global norm of 1.

    Args:
      loss: `(params, minibatch) -> (loss, infos)`.
      params: Initial parameters.
      data: A pytree whose leaves have a leading axis of B elements, such as `Texts` or a pair of them.
      key: Randomness of the shuffles.
      num_steps: Number of gradient steps, static.
      batch_size: Elements of a minibatch, static.
      learning_rate: A number, or an optax schedule.
      optimizer: `learning_rate -> optax.GradientTransformation`.

    Returns:
      The parameters, and for each step `loss`, `gradient_norm` (before clipping) and the infos, leaves `[num_steps]`.

    Raises:
      ValueError: if a size is below 1, or a minibatch is larger than the data.
    """
    num_elements = jax.tree.leaves(data)[0].shape[0]
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not 1 <= batch_size <= num_elements:
        raise ValueError(f"batch_size must be between 1 and the {num_elements} elements of data, got {batch_size}")
    per_epoch = num_elements // batch_size
    epoch_keys = jax.random.split(key, -(-num_steps // per_epoch))
    shuffled = jax.lax.map(lambda key: random_permutation(key, num_elements)[: per_epoch * batch_size], epoch_keys)
    descent = optax.chain(optax.clip_by_global_norm(MAX_GRAD_NORM), optimizer(learning_rate))

    def step(training: tuple, indices: jax.Array) -> tuple:
        params, state = training
        minibatch = jax.tree.map(lambda x: jnp.asarray(x)[indices], data)
        (value, infos), gradients = jax.value_and_grad(loss, has_aux=True)(params, minibatch)
        updates, state = descent.update(gradients, state, params)
        infos = {"loss": value, "gradient_norm": optax.tree.norm(gradients), **infos}
        return (optax.apply_updates(params, updates), state), infos

    indices = shuffled.reshape(-1, batch_size)[:num_steps]
    (params, _), infos = jax.lax.scan(step, (params, descent.init(params)), indices)
    return params, infos


def check_context(policy: Policy, steps: int) -> None:
    """Raises ValueError if texts of so many steps do not fit into the policy's context."""
    context = context_of(policy)
    if context is not None and steps > context:
        raise ValueError(f"texts must fit into the policy's context of {context} steps, got {steps} steps")


def _read(policy: Policy, params: Any, observations: Any) -> tuple:
    """Applies the policy to texts `[T, B]` from their beginnings."""
    steps, batch = jax.tree.leaves(observations)[0].shape[:2]
    carry = policy.initial_carry(batch)
    return policy.apply(params, carry, observations, jnp.zeros((steps, batch), bool).at[0].set(True))
