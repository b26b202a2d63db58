"""Population based training (Jaderberg et al. 2017, arXiv:1711.09846): stacked training states, of which the worst
become copies of the best, with perturbed hyperparameters. Pure functions, to be jitted and vmapped.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gaejax._arguments import did_you_mean
from gaejax.algorithms import Algorithm, TrainingInfo

Bounds = Mapping[str, tuple[float, float]]
"""The least and the largest value of each hyperparameter that may change, by field of the config."""


class Lineage(NamedTuple):
    """Who descends from whom. `exploit` returns one generation, `train_population` stacks G of them.

    Attributes:
      source: The agent whose state each agent has after the generation, int `[(G,) N]`. Its own number: it goes on.
      fitness: What each agent was worth at the generation's end, `[(G,) N]`.
      hyperparameters: What each agent was trained with in the generation, `[(G,) N]` by name.
    """

    source: jax.Array
    fitness: jax.Array
    hyperparameters: dict[str, jax.Array]


def initial_population(algorithm: Algorithm, key: jax.Array, config: Any, bounds: Bounds, num_agents: int) -> Any:
    """Returns the training states of agents whose hyperparameters are drawn within bounds.

    Args:
      algorithm: What to train.
      key: Randomness of the hyperparameters and of all that the agents do.
      config: The hyperparameters that all agents share.
      bounds: The range of each of the others. They are drawn uniformly in the logarithm, unless the least is 0 or the
        field can be at most 1 (a discount, a lambda): then uniformly.
      num_agents: N, static.

    Returns:
      The states, leaves `[N, ...]`.

    Raises:
      ValueError: for bounds that cannot be used, naming the field.
    """
    check_bounds(config, bounds)
    if isinstance(num_agents, bool) or not isinstance(num_agents, int) or num_agents < 2:
        raise ValueError(f"num_agents must be a whole number of at least 2, got {num_agents!r}")
    draw_key, agent_key = jax.random.split(key)
    drawn = {
        name: _drawn(key, low, high, num_agents, uniform=low == 0 or _at_most_1(config, name))
        for key, (name, (low, high)) in zip(jax.random.split(draw_key, len(bounds)), bounds.items(), strict=True)
    }
    start = lambda key, own: algorithm.init(key, config.replace(**own))
    return jax.vmap(start)(jax.random.split(agent_key, num_agents), drawn)


def _drawn(key: jax.Array, low: float, high: float, count: int, *, uniform: bool) -> jax.Array:
    if uniform:
        return jax.random.uniform(key, (count,), minval=low, maxval=high)
    logarithm = jax.random.uniform(key, (count,), minval=math.log(low), maxval=math.log(high))
    return jnp.clip(jnp.exp(logarithm), low, high)


def exploit(
    key: jax.Array, states: Any, fitness: jax.Array, bounds: Bounds, *, fraction: float = 0.25, factor: float = 1.2
) -> tuple[Any, Lineage]:
    """Replaces the worst agents by copies of the best ones, with hyperparameters perturbed within bounds.

    A copy has the winner's parameters, optimizer, normalizers and environments, but keeps its own key: two agents with
    one key would stay twins. With `factor=1` nothing is perturbed and, at `fraction=0.5`, half of the population goes
    on in the place of the other half: successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) at a constant
    shape, which is one program and stays even on a mesh; what it does not do is to take fewer steps with each rung.

    Args:
      key: Randomness: which winner a loser copies, and whether a hyperparameter rises or falls.
      states: Training states, leaves `[N, ...]`.
      fitness: `[N]`, more is better. What is not finite is the worst, and is never copied.
      bounds: The range of each hyperparameter that is perturbed, by field of the config.
      fraction: Of the population, how much is replaced, from 0 to 0.5; rounded down, but at least one agent unless 0.
      factor: By which a copied hyperparameter is multiplied or divided, with equal chance, and then clipped; at least
        1. Of a field that can be at most 1 (a discount, a lambda), its distance from 1.

    Returns:
      The states and the `Lineage` `[N]`.

    Raises:
      ValueError: for bounds, a fraction or a factor that cannot be used.
    """
    check_bounds(states.config, bounds)
    _check_exploitation(fraction, factor)
    num_agents = states.key.shape[0]
    if fitness.shape != (num_agents,):
        raise ValueError(f"fitness must be of shape ({num_agents},), one number an agent, got {fitness.shape}")
    used = {name: getattr(states.config, name) for name in bounds}
    source = _sources(key, fitness, max(1, int(num_agents * fraction)) if fraction else 0)
    copied = source != jnp.arange(num_agents)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(bounds))
    perturbed = {
        name: jnp.where(
            copied,
            _perturbed(key, used[name][source], bounds[name], factor, _at_most_1(states.config, name)),
            used[name],
        )
        for key, name in zip(keys, bounds, strict=True)
    }
    moved = jax.tree.map(lambda leaf: leaf[source], states)
    moved = moved._replace(key=states.key, config=moved.config.replace(**perturbed))
    return moved, Lineage(source, fitness, used)


def _sources(key: jax.Array, fitness: jax.Array, count: int) -> jax.Array:
    """Returns whose state each agent is given, `[N]`: `count` losers, if their winner's fitness is finite."""
    agents = jnp.arange(fitness.shape[0])
    if count == 0:
        return agents
    known = jnp.where(jnp.isfinite(fitness), fitness, -jnp.inf)
    order = jnp.argsort(known)
    losers, winners = order[:count], jax.random.permutation(key, order[-count:])
    return agents.at[losers].set(jnp.where(known[winners] > known[losers], winners, losers))


def _perturbed(key: jax.Array, values: jax.Array, bounds: tuple, factor: float, at_most_1: bool) -> jax.Array:
    """Returns values `[N]` multiplied or divided by `factor`, within the bounds."""
    scale = jnp.where(jax.random.bernoulli(key, shape=values.shape), factor, 1 / factor)
    moved = 1 - (1 - values) * scale if at_most_1 else values * scale
    return jnp.clip(moved, *bounds).astype(values.dtype)


def mean_return(infos: TrainingInfo) -> jax.Array:
    """Returns the mean return of the episodes that ended in the later half of some updates, NaN if none did.

    Args:
      infos: Of the updates, leaves `[updates, N]`.
    """
    late = jax.tree.map(lambda leaf: leaf[leaf.shape[0] // 2 :], infos)
    returns = jnp.where(late.episodes > 0, late.episode_return * late.episodes, 0)
    return jnp.sum(returns, axis=0) / jnp.sum(late.episodes, axis=0)


def train_population(
    algorithm: Algorithm,
    key: jax.Array,
    states: Any,
    bounds: Bounds,
    *,
    generations: int,
    updates: int,
    fraction: float = 0.25,
    factor: float = 1.2,
    fitness: Callable[[TrainingInfo], jax.Array] = mean_return,
) -> tuple[Any, Lineage]:
    """Trains a population: `generations` times some training steps of all agents, then `exploit`.

    A pure function: `jit` it, and `vmap` it over keys and states for repetitions. After the last generation nothing is
    copied, so that the states are those that were trained.

    Args:
      algorithm: What to train.
      key: Randomness of the copies; the agents have their own.
      states: Of `initial_population`, leaves `[N, ...]`.
      bounds, fraction, factor: As in `exploit`. With `fraction=0` the agents train on their own.
      generations: G, static.
      updates: Training steps in a generation, static.
      fitness: `infos -> [N]`, of the infos `[updates, N]` of a generation.

    Returns:
      The states, and the `Lineage` `[G, N]`.

    Raises:
      ValueError: for what cannot be used, in one line.
    """
    for name, value in {"generations": generations, "updates": updates}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    step = jax.vmap(algorithm.step)

    def generation(states: Any, key_and_last: tuple[jax.Array, jax.Array]) -> tuple[Any, Lineage]:
        key, is_last = key_and_last
        states, infos = jax.lax.scan(lambda states, _: step(states), states, length=updates)
        moved, lineage = exploit(key, states, fitness(infos), bounds, fraction=fraction, factor=factor)
        keep = partial(jax.tree.map, lambda own, other: jnp.where(is_last, own, other))
        source = jnp.where(is_last, jnp.arange(len(lineage.source)), lineage.source)
        return keep(states, moved), lineage._replace(source=source)

    is_last = jnp.arange(generations) == generations - 1
    return jax.lax.scan(generation, states, (jax.random.split(key, generations), is_last))


def ancestors(source: Any) -> jax.Array:
    """Returns whose descendant each agent is after each generation, int `[G, N]`, from `Lineage.source` `[G, N]`: the
    number of an agent of the first population."""
    start = jnp.arange(source.shape[1])

    def follow(roots: jax.Array, source: jax.Array) -> tuple[jax.Array, jax.Array]:
        return roots[source], roots[source]

    return jax.lax.scan(follow, start, jnp.asarray(source))[1]


def check_bounds(config: Any, bounds: Bounds) -> None:
    """Raises ValueError unless each of `bounds` names a float of the config that is not None, and is a range of values
    that it may have."""
    if not bounds:
        raise ValueError("bounds must name at least one hyperparameter, such as {'learning_rate': (1e-5, 1e-2)}")
    declared = {field.name: field.metadata for field in dataclasses.fields(config)}
    numbers = [name for name, field in declared.items() if field.get("kind") == "number"]
    for name, pair in bounds.items():
        if name not in declared:
            raise ValueError(f"bounds: {type(config).__name__} has no field {name!r}{did_you_mean(name, numbers)}")
        if name not in numbers:
            raise ValueError(f"bounds: {name} is static and cannot change in a program: choose a float")
        if getattr(config, name) is None:
            raise ValueError(f"bounds: {name} is None in the config: give it a number there first")
        if not _is_pair_of_numbers(pair):
            raise ValueError(f"bounds: {name} must be two finite numbers (low, high), got {pair!r}")
        if not pair[0] < pair[1]:
            raise ValueError(f"bounds: {name} must have low < high, got {pair!r}")
        most, least_is_open = declared[name]["most"], declared[name]["positive"]
        if pair[0] < 0 or pair[1] > most or (least_is_open and pair[0] == 0):
            wanted = f"{'above' if least_is_open else 'at least'} 0" + (
                "" if most == math.inf else f" and at most {most}"
            )
            raise ValueError(f"bounds: {name} must be {wanted}, got {pair!r}")


def _is_pair_of_numbers(pair: Any) -> bool:
    numbers = isinstance(pair, tuple | list) and all(isinstance(end, int | float) for end in pair)
    return numbers and len(pair) == 2 and all(math.isfinite(end) for end in pair)


def _at_most_1(config: Any, name: str) -> bool:
    return next(field.metadata["most"] == 1 for field in dataclasses.fields(config) if field.name == name)


def _check_exploitation(fraction: float, factor: float) -> None:
    if not 0 <= fraction <= 0.5:
        raise ValueError(f"fraction must be between 0 and 0.5, got {fraction!r}")
    if not (math.isfinite(factor) and factor >= 1):
        raise ValueError(f"factor must be a finite number of at least 1, got {factor!r}")
