"""The policy of action values: any body, and a value for each action."""

from typing import Any

import jax
import jax.numpy as jnp

from gaejax.distributions import EpsilonGreedy, mask_logits
from gaejax.environments import Dict, Discrete, Environment, check_is_environment
from gaejax.environments.spaces import MASK, zeros
from gaejax.policies.bodies import Body, observing
from gaejax.policies.inputs import check_spaces
from gaejax.policies.layers import Readout
from gaejax.policies.policy import Policy


def q_network(environment: Environment, body: Body, *, compute_dtype: jax.typing.DTypeLike = jnp.float32) -> Policy:
    """Returns a policy that takes the action with the highest value; its `values` are the highest action values.

    Args:
      environment: The environment whose spaces it is for, with discrete actions; an `"action_mask"` among its
        observations is respected.
      body: Computes the features that the action values are read from; `layer_norm=True` in `mlp` and `cnn` stabilizes
        Q-learning.
      compute_dtype: The type that the body computes in.

    Raises:
      ValueError: if the actions are not discrete.
    """
    check_is_environment(environment)
    space, actions = environment.observation_space, environment.action_space
    if not isinstance(actions, Discrete):
        kind = type(actions).__name__
        raise ValueError(f"action_space of a q_network must be Discrete, got a {kind} in {environment.name}")
    masked = isinstance(space, Dict) and MASK in space.spaces
    check_spaces(environment, masked)
    body, head = observing(body, space, "observations", None, compute_dtype), Readout(actions.n, gain=1.0)

    def init(key: jax.Array) -> dict:
        body_key, head_key = jax.random.split(key)
        observations = jax.tree.map(lambda x: x[None, None], zeros(space))
        params = body.init(body_key, observations)
        shape = jax.eval_shape(body.apply, params, body.initial_carry(1), observations, jnp.zeros((1, 1), bool))[1]
        return {"body": params, "action_values": head.init(head_key, jnp.zeros(shape.shape, shape.dtype))}

    def apply(params: dict, carry: Any, observations: Any, resets: jax.Array) -> tuple:
        carry, features = body.apply(params["body"], carry, observations, resets)
        action_values: Any = head.apply(params["action_values"], features)
        if masked:
            action_values = mask_logits(action_values, observations[MASK])
        return carry, EpsilonGreedy(action_values, jnp.zeros(resets.shape)), jnp.max(action_values, axis=-1)

    return Policy(init, body.initial_carry, apply, space)
