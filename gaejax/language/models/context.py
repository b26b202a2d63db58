"""How many steps a policy's key-value cache holds."""

from typing import Any

import jax

from gaejax.policies import Policy
from gaejax.policies.attention import Cache


def context_of(policy: Policy) -> int | None:
    """Returns how many steps the policy's smallest key-value cache holds, or None if it has no cache."""

    def is_cache(node: Any) -> bool:
        return isinstance(node, Cache)

    carry = jax.eval_shape(lambda: policy.initial_carry(1))
    caches = filter(is_cache, jax.tree.leaves(carry, is_leaf=is_cache))
    return min((cache.positions.shape[1] for cache in caches), default=None)
