"""Hyperparameters: how a config declares them, the fields that algorithms share, and what is refused."""

import dataclasses
import math
from typing import Any, Literal, TypeVar, dataclass_transform

import jax.core
import jax.numpy as jnp
import numpy as np
from flax import struct

from gaejax._arguments import check_whole, refuses_unknown_arguments, short

Config = TypeVar("Config")


def size(default: int, least: int = 1) -> Any:
    """Declares a static whole number of at least `least`."""
    return struct.field(default=default, pytree_node=False, metadata={"kind": "size", "least": least})


def switch(default: bool) -> Any:
    """Declares a static True or False."""
    return struct.field(default=default, pytree_node=False, metadata={"kind": "switch"})


def choice(default: str, *options: str) -> Any:
    """Declares a static name, one of `options`."""
    return struct.field(default=default, pytree_node=False, metadata={"kind": "choice", "options": options})


def number(default: float | None, *, positive: bool = False, most: float = math.inf) -> Any:
    """Declares a traced float: finite, not negative (not 0 either if `positive`), at most `most`. It may be None if
    that is its default."""
    return struct.field(default=default, metadata={"kind": "number", "positive": positive, "most": most})


@dataclass_transform()
def hyperparameters(cls: type[Config]) -> type[Config]:
    """Makes a class of `size`, `switch`, `choice` and `number` fields a frozen dataclass and a pytree.

    Numbers are leaves, which are traced: sweep them with `vmap`. All other fields are static. An unknown argument is
    refused with the name that was probably meant.
    """
    made = struct.dataclass(cls)
    names = [field.name for field in dataclasses.fields(made)]  # pyright: ignore[reportArgumentType]
    made.__init__ = refuses_unknown_arguments(made.__init__, cls.__name__, names)
    return made


@hyperparameters
class OnPolicyConfig:
    """The hyperparameters of every on-policy algorithm (a base class of fields only, so that the config of each
    algorithm is one flat list of flags)."""

    num_envs: int = size(16)
    """Number of environments that are stepped in parallel, N."""
    num_steps: int = size(128)
    """Number of steps in a rollout, T."""
    anneal_steps: float | None = number(None, positive=True)
    """Transitions (T * N per update) until the schedules reach their end. None keeps them at their start."""
    discount: float = number(0.99, most=1)
    """Discount factor gamma."""
    gae_lambda: float = number(0.95, most=1)
    """Lambda of the estimator: 0 trusts the critic, 1 the observed rewards."""
    fresh_rows: bool = switch(False)
    """Whether every rollout starts new episodes. Otherwise episodes continue across rollouts, memory included."""
    burn_in_steps: int = size(0, least=0)
    """Steps at the start of a rollout that are left out of the loss in episodes that continue from the previous
    rollout, whose stored memory was computed with older parameters."""
    normalize_observations: bool = switch(False)
    """Whether to normalize observations by running statistics."""
    normalize_rewards: bool = switch(False)
    """Whether to divide rewards by the running standard deviation of the discounted return."""
    explain: bool = switch(False)
    """Whether to add diagnostics that explain a bad run to the info (see `gaejax.algorithms.explain`). Costs one more
    gradient per rollout."""

    def replace(self: Config, **changes: Any) -> Config:
        """Returns a copy with other values in some fields."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def validate(self) -> None:
        """Checks every field.

        Raises:
          ValueError: if the config cannot be trained; one line that names the field and its value.
        """
        check_fields(self)
        if self.burn_in_steps >= self.num_steps:
            raise ValueError(f"burn_in_steps must be less than num_steps = {self.num_steps}, got {self.burn_in_steps}")


@hyperparameters
class ActorCriticConfig(OnPolicyConfig):
    """The hyperparameters shared by algorithms that minimize `gaejax.losses.actor_critic_loss`."""

    learning_rate: float = number(2.5e-4)
    """Initial learning rate of the optimizer."""
    max_grad_norm: float = number(0.5)
    """Global norm to which gradients are clipped."""
    policy_coefficient: float = number(1.0)
    """Weight of the policy loss. A schedule may hold it at 0 while the critic learns."""
    entropy_coefficient: float = number(0.01)
    """Weight of the entropy bonus."""
    value_coefficient: float = number(0.5)
    """Weight of the value loss."""
    value_clip_epsilon: float | None = number(None)
    """Largest change of a value before its loss is clipped. None: no clipping."""
    huber_delta: float | None = number(None, positive=True)
    """Absolute value error above which the loss is linear. None: the squared error everywhere."""
    advantage_normalization: Literal["minibatch", "batch", "none"] = choice("minibatch", "minibatch", "batch", "none")
    """Over what advantages are standardized: each minibatch, the whole rollout, or not at all."""

    def validate(self) -> None:
        """Checks every field, as `OnPolicyConfig.validate`, and that minibatches have advantages to standardize.

        Raises:
          ValueError: if the config cannot be trained; one line that names the field and its value.
        """
        super().validate()
        transitions, parts = self.num_envs * self.num_steps, getattr(self, "num_minibatches", 1)
        # A rollout of one transition is learned from as it is; to cut a larger one so far is a mistake.
        if self.advantage_normalization == "minibatch" and parts > 1 and transitions < 2 * parts:
            wanted = f"leave at least 2 of {transitions} transitions in each minibatch, to standardize their advantages"
            raise ValueError(f"num_minibatches must {wanted}, got {parts}")


@hyperparameters
class ProximalConfig(ActorCriticConfig):
    """The hyperparameters shared by algorithms whose updates are `gaejax.algorithms.ppo.ppo_epochs`."""

    num_epochs: int = size(4)
    """Passes over a rollout."""
    num_minibatches: int = size(4)
    """Minibatches in a pass."""
    clip_epsilon: float = number(0.2)
    """How far the probability ratio may move from 1 before its gradient is cut."""
    target_kl: float | None = number(None, positive=True)
    """KL divergence above which the rest of an update is skipped: from the first minibatch whose estimate is larger.
    None: never."""


def check_minibatches(config: Any, has_memory: bool) -> None:
    """Raises ValueError if a config's `num_minibatches`, if it has them, do not divide its rollouts. Their elements are
    environments if the policy has a memory, otherwise transitions."""
    if "num_minibatches" not in vars(config):
        return
    what, count = (
        ("num_envs", config.num_envs) if has_memory else ("num_envs * num_steps", config.num_envs * config.num_steps)
    )
    if count % config.num_minibatches:
        why = ", as the policy has a memory" if has_memory else ""
        raise ValueError(f"num_minibatches must divide {what} = {count}{why}, got {config.num_minibatches}")


def check_fields(config: Any) -> None:
    """Checks every field of a config against its declaration. Traced numbers pass.

    Raises:
      ValueError: if a field is out of range or of the wrong kind; one line that names the field and its value.
    """
    for field in dataclasses.fields(config):
        declared = field.metadata
        if "kind" not in declared:  # a field of a user's own
            continue
        check = {"size": _check_size, "switch": _check_switch, "choice": _check_choice, "number": _check_number}
        value = getattr(config, field.name)
        if not (value is None and field.default is None):
            check[declared["kind"]](field.name, value, declared)


def _check_size(name: str, value: Any, declared: Any) -> None:
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} must be a whole number, got a traced array: only floats can be vmapped")
    check_whole(name, value, declared["least"])
    if value >= 2**31:
        raise ValueError(f"{name} must be less than 2**31 = {2**31}, got {short(value)}")


def _check_switch(name: str, value: Any, declared: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {short(value)}")


def _check_choice(name: str, value: Any, declared: Any) -> None:
    options = declared["options"]
    if not isinstance(value, str) or value not in options:
        listed = ", ".join(repr(option) for option in options[:-1])
        raise ValueError(f"{name} must be {listed} or {options[-1]!r}, got {short(value)}")


def _check_number(name: str, value: Any, declared: Any) -> None:
    if isinstance(value, jax.core.Tracer):
        if not jnp.issubdtype(value.dtype, jnp.floating) and not jnp.issubdtype(value.dtype, jnp.integer):
            raise ValueError(f"{name} must be a number, got a traced array of {value.dtype}")
        return
    try:
        array = None if isinstance(value, bool | str) or value is None else np.asarray(value)
    except ValueError:  # lists of several lengths
        array = None
    if array is None or array.size == 0 or array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be a number, got {short(value)}")
    lower_bounded = array > 0 if declared["positive"] else array >= 0
    if not np.all(np.isfinite(array) & lower_bounded & (array <= declared["most"])):
        wanted = "finite and positive" if declared["positive"] else "finite and not negative"
        raise ValueError(f"{name} must be {'between 0 and 1' if declared['most'] == 1 else wanted}, got {short(value)}")
    # It is traced as a float32, and the compiler takes numbers below the least normal one for 0.
    limits = np.finfo(np.float32)
    if not np.all((array == 0) | (array >= limits.tiny) & (array <= limits.max)):
        wanted = f"be between {limits.tiny:.3g} and {limits.max:.3g}, the numbers of float32"
        raise ValueError(f"{name} must {wanted}{'' if declared['positive'] else ', or 0'}, got {short(value)}")
