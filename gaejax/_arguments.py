"""What users pass: unknown names, wrong dtypes and shapes, each answered in one line, and arrays of other libraries."""

import difflib
import functools
import json
import numbers
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import jax.typing
import numpy as np

COEFFICIENTS = ("discount", "gae_lambda", "trace_lambda", "value_lambda")

P = ParamSpec("P")
R = TypeVar("R")

OTHER_NAMES = {
    "lr": "learning_rate",
    "gamma": "discount",
    "gae_lam": "gae_lambda",
    "lam": "gae_lambda",
    "lambda": "gae_lambda",
    "lambda_": "gae_lambda",
    "lmbda": "gae_lambda",
    "ent_coef": "entropy_coefficient",
    "ent_coeff": "entropy_coefficient",
    "entropy_cost": "entropy_coefficient",
    "vf_coef": "value_coefficient",
    "vf_coeff": "value_coefficient",
    "clip_range": "clip_epsilon",
    "clip_coef": "clip_epsilon",
    "clip_eps": "clip_epsilon",
    "clip_ratio": "clip_epsilon",
    "n_envs": "num_envs",
    "n_steps": "num_steps",
    "unroll_length": "num_steps",
    "n_epochs": "num_epochs",
    "update_epochs": "num_epochs",
    "n_minibatches": "num_minibatches",
    "tx": "optimizer",
    "tau": "gae_lambda",
}
"""What other frameworks call the arguments of this one."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `": did you mean 'x'?"` for the known name that is nearest to `name`, or a list of what there is."""
    known = list(known)
    usual = OTHER_NAMES.get(name.strip("-").replace("-", "_").lower())
    if usual in known:
        return f": did you mean {usual!r}?"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f": did you mean {near[0]!r}?" if near else f": there are {', '.join(known)}"


def refuses_unknown_arguments(
    function: Callable[P, R], name: str | None = None, known: Sequence[str] | None = None
) -> Callable[P, R]:
    """Makes a function answer an unknown keyword argument with the one that was probably meant.

    Args:
      function: a function without `**keywords`.
      name: how messages call it. Default: its name.
      known: its arguments. Default: read from its code.
    """
    code = function.__code__
    known = known or code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @functools.wraps(function)
    def called(*args: P.args, **keywords: P.kwargs) -> R:
        for keyword in keywords:
            if keyword not in known:
                raise TypeError(
                    f"{name or function.__name__} has no argument {keyword!r}{did_you_mean(keyword, known)}"
                )
        return function(*args, **keywords)

    return called


def short(value: Any) -> str:
    """Returns the start of a value's `repr`, in one line."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of more digits than Python converts
        return f"a whole number of {value.bit_length()} bits"
    return text if len(text) <= 80 else text[:77] + "..."


def check_whole(name: str, value: Any, least: int | None = None) -> None:
    """Raises ValueError unless a value is a whole number, and at least `least` if that is given."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be a whole number, got {short(value)}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {short(value)}")


def check_seed(name: str, value: Any) -> None:
    """Raises ValueError unless a value is a whole number from 0 to 2**32 - 1. Others would give the keys of one of
    these, so that two different seeds would be the same run."""
    check_whole(name, value)
    if not 0 <= value < 2**32:
        raise ValueError(f"{name} must be between 0 and 2**32 - 1 = {2**32 - 1}, got {short(value)}")


def check_share(name: str, value: Any) -> None:
    """Raises ValueError if a number of Python, or a number or an array of NumPy, is not between 0 and 1.

    Everything else passes: traced numbers are not known yet, and to read an array of JAX would wait for the device.
    """
    if isinstance(value, bool) or not isinstance(value, float | int | np.floating | np.integer | np.ndarray):
        return
    array = np.asarray(value)
    if array.dtype.kind not in "iufO":
        return
    fits = (array >= 0) & (array <= 1)
    if not np.all(fits):
        raise ValueError(f"{name} must be between 0 and 1, got {short(array[~np.asarray(fits)].tolist()[0])}")


def parse_object(what: str, content: bytes) -> dict[str, Any]:
    """Returns the JSON object that a file holds.

    Args:
      what: The file, for messages.
      content: Its bytes.

    Raises:
      ValueError: if it holds none; one line that begins with `what`.
    """
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{what} is damaged: it must hold JSON ({said})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{what} is damaged: it must hold a JSON object, got {short(found)}")
    return found


def as_array(name: str, value: Any, kind: type[float] | type[bool]) -> jax.Array:
    """Returns `value` as an array of floating-point numbers or of booleans.

    Raises:
      TypeError: If it is of another kind. Integer rewards would lose fractions; a float may be a probability or a
        discount.
    """
    whole_number = kind is float and isinstance(value, int) and not isinstance(value, bool)  # discount=1 loses nothing
    try:
        array = jnp.asarray(float(value) if whole_number else value)
    except (TypeError, ValueError, OverflowError) as error:
        of = f" of {value.dtype}" if isinstance(value, np.ndarray) else ""
        raise TypeError(f"{name} must be an array, got {type(value).__name__}{of}") from error
    if kind is float and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating-point, got {array.dtype}: cast it with {name}.astype('float32')")
    if kind is bool and array.dtype != jnp.bool_:
        raise TypeError(f"{name} must be boolean, got {array.dtype}: cast it with {name}.astype(bool)")
    return array


def coefficient(name: str, value: Any, like: jax.Array, reference: str) -> jax.Array:
    """Returns `value` as floats of the dtype of the argument `like`, which is called `reference`.

    Raises:
      TypeError: If it holds anything but floating-point numbers.
      ValueError: Unless it is a scalar or has the rank of `like` with axes of size 1 or full size. A bare vector for
        `[T, N]` is refused, for it could mean either axis.
    """
    array = as_array(name, value, float).astype(like.dtype)
    fits = array.ndim == like.ndim and all(a in (1, s) for a, s in zip(array.shape, like.shape, strict=True))
    if array.ndim and not fits:
        raise ValueError(
            f"{name} must be a scalar or have the rank of {reference}, {like.shape}, with axes of size 1 or full, "
            f"got {array.shape}"
        )
    return array


def time_axis(name: str, array: jax.Array, axis: int) -> int:
    """Returns `axis` counted from the front.

    Raises:
      ValueError: If `array` has no such axis, or no step on it.
    """
    if not -array.ndim <= axis < array.ndim:
        which = "a leading time axis" if axis == 0 else f"a time axis at time_axis={axis}"
        raise ValueError(f"{name} must have {which} of at least one step, got shape {array.shape}")
    if array.shape[axis] == 0:
        raise ValueError(f"{name} must have a time axis of at least one step, got shape {array.shape}")
    return axis % array.ndim


def same_shape(name: str, array: jax.Array, shape: Sequence[int], reference: str) -> None:
    """Raises a ValueError unless `array` has exactly the shape of the argument called `reference`."""
    if array.shape != tuple(shape):
        raise ValueError(f"{name} must have the shape of {reference}, {tuple(shape)}, got {array.shape}")


class Tensor(Protocol):
    """A PyTorch tensor."""

    def detach(self) -> Any: ...

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...


ArrayLike = jax.typing.ArrayLike | Tensor
"""A number, or an array of JAX, NumPy or PyTorch."""


def accepts_host_arrays(estimator: Callable[P, R]) -> Callable[P, R]:
    """Lets an estimator take NumPy arrays or PyTorch tensors, and return the caller's kind.

    If one of the arguments is a JAX array, the estimator is called as it is. Otherwise time is padded at its start,
    where no result depends on it, to one of a few sizes, and the program compiled for that size is used.
    """
    compiled = functools.cache(lambda static: jax.jit(functools.partial(estimator, **dict(static))))

    @functools.wraps(estimator)
    def wrapped(*args: P.args, **arguments: P.kwargs) -> R:
        for name in COEFFICIENTS:
            check_share(name, arguments.get(name))
        given = arguments.values()
        if args or any(isinstance(x, jax.Array) for x in given) or not any(_is_host_array(x) for x in given):
            return estimator(*args, **arguments)
        return _call(estimator, compiled, arguments)

    return wrapped


def _call(estimator: Callable, compiled: Callable, arguments: dict[str, Any]) -> Any:
    """Calls an estimator with host arrays, compiled and padded if all arguments are of the right shapes."""
    library = TORCH if any(_is_torch(x) for x in arguments.values()) else NUMPY
    float64 = any(str(getattr(x, "dtype", "")).endswith("float64") for x in arguments.values())
    with jax.enable_x64(float64):
        arrays = {name: x for name, x in arguments.items() if _is_host_array(x)}
        static = {name: x for name, x in arguments.items() if name not in arrays}
        for name in COEFFICIENTS:  # a new number is no reason to compile
            if isinstance(static.get(name), float | int | np.floating) and not isinstance(static[name], bool):
                arrays[name] = np.asarray(static.pop(name), np.float64 if float64 else np.float32)
        axis = arguments.get("time_axis", 0)
        if _may_be_padded(arrays, axis) and all(isinstance(x, Hashable) for x in static.values()):
            rewards = arrays["rewards"]
            padding = _padded(rewards.shape[axis]) - rewards.shape[axis]
            padded = {name: library.to_jax(_pad(x, rewards, axis, padding)) for name, x in arrays.items()}
            results = compiled(tuple(static.items()))(**padded)
        else:  # the estimator says what is wrong with what was given, not with what was padded
            padding = 0
            results = estimator(**static, **{name: library.to_jax(x) for name, x in arrays.items()})
        if any(isinstance(x, jax.core.Tracer) for x in results):  # the arrays are constants of somebody's program
            return tuple(jax.lax.slice_in_dim(x, padding, None, axis=axis % x.ndim) for x in results)
        return tuple(library.to_host(x, (slice(None),) * (axis % x.ndim) + (slice(padding, None),)) for x in results)


def _may_be_padded(arrays: dict[str, Any], axis: Any) -> bool:
    """Returns whether each array has the shape that its argument must have, so that padding hides no error."""
    rewards = arrays.get("rewards")
    if rewards is None or not isinstance(axis, int) or not -rewards.ndim <= axis < rewards.ndim:
        return False
    full, one_step = tuple(rewards.shape), list(rewards.shape)
    del one_step[axis]
    for name, x in arrays.items():
        if isinstance(x, np.ndarray) and x.dtype.kind in "OSUMm":  # objects, texts and times
            return False
        shape = tuple(x.shape)
        if name in COEFFICIENTS and len(shape) == len(full):
            shape = tuple(f if s == 1 else s for s, f in zip(shape, full, strict=True))
        wanted = tuple(one_step) if name == "final_advantage" else full
        if shape != wanted and (name not in COEFFICIENTS or shape):
            return False
    return full[axis] > 0


def _pad(x: Any, rewards: Any, axis: int, padding: int) -> Any:
    """Prepends zeros in the caller's library: JAX would compile the padding anew for every length."""
    if padding == 0 or x.ndim != rewards.ndim or x.shape[axis] == 1:
        return x
    shape = [padding if i == axis % x.ndim else size for i, size in enumerate(x.shape)]
    if isinstance(x, np.ndarray):
        return np.concatenate([np.zeros(shape, x.dtype), x], axis)
    import torch  # pyright: ignore[reportMissingImports]

    return torch.cat([x.new_zeros(shape), x], axis)


def _padded(steps: int) -> int:
    """Returns the least of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is at least `steps`: at most a third is padding."""
    power = 1 << max(steps - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and steps <= power * 3 // 4 else power


def _is_host_array(x: Any) -> bool:
    return isinstance(x, np.ndarray) or _is_torch(x)


def _is_torch(x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == "torch" and hasattr(x, "__dlpack__")


class Library(NamedTuple):
    to_jax: Callable[[Any], Any]
    to_host: Callable[[jax.Array, tuple], Any]  # of a part; a copy, which the caller may write to


def _torch_to_jax(x: Any) -> jax.Array:
    return jnp.from_dlpack(x.detach().contiguous()) if _is_torch(x) else jnp.asarray(x)


def _jax_to_torch(x: jax.Array, part: tuple) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    return torch.from_dlpack(x)[part].clone()


NUMPY = Library(np.asarray, lambda x, part: np.array(np.asarray(x)[part]))
TORCH = Library(_torch_to_jax, _jax_to_torch)
