"""A policy of two networks: one for its distributions, one for its values."""

from typing import Any

import jax

from gaejax.policies.policy import Policy, check_is_policy


def separate_networks(policy: Policy) -> Policy:
    """Returns a policy whose distributions come from one network and whose values from a second one of the same kind.
    The values of the first one are those of PPG's auxiliary head."""
    check_is_policy(policy)

    def init(key: jax.Array) -> dict:
        policy_key, critic_key = jax.random.split(key)
        return {"policy": policy.init(policy_key), "critic": policy.init(critic_key)}

    def initial_carry(batch: int) -> Any:
        carry = policy.initial_carry(batch)
        return {"policy": carry, "critic": carry} if jax.tree.leaves(carry) else ()

    def apply(params: dict, carry: Any, observations: Any, resets: jax.Array) -> tuple[Any, Any, Any]:
        carry, (distributions, _), (_, values) = apply_both(policy, params, carry, observations, resets)
        return carry, distributions, values

    return policy._replace(init=init, initial_carry=initial_carry, apply=apply, encode=None)


def apply_both(
    policy: Policy, params: dict, carry: Any, observations: Any, resets: jax.Array
) -> tuple[Any, tuple, tuple]:
    """Returns the new carry, and `(distributions, values)` of the policy's network and of the critic's."""
    old = carry or {"policy": (), "critic": ()}
    new, outputs = {}, []
    for name in ("policy", "critic"):
        new[name], *output = policy.apply(params[name], old[name], observations, resets)
        outputs.append(tuple(output))
    return (new if carry else ()), outputs[0], outputs[1]
