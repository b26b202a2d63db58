"""Runs as values: everything that a training depends on, as it is written to `config.json`."""

import abc
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from gaejax._arguments import check_seed, check_whole, did_you_mean, parse_object, short
from gaejax.algorithms import ALGORITHMS, Algorithm
from gaejax.environments import Environment, make
from gaejax.environments.check import check_is_environment
from gaejax.policies import make_policy

AnyRun = TypeVar("AnyRun", bound="Run")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(abc.ABC):
    """The description of a training that `run_experiment` takes and writes to `config.json`.

    A kind of run is a subclass: a dataclass with more fields, a `name`, and a `build` that returns its algorithm.

    Attributes:
      config: The algorithm's hyperparameters.
      total_steps: Transitions to collect for each seed.
      num_seeds: Number of independent trainings, vmapped.
      seed: The integer that the keys of all of them are made from.
      eval_episodes: Episodes of the final evaluation of each seed.
      warm_start: The folder of a run whose policies the seeds start from.
    """

    config: Any
    total_steps: int
    num_seeds: int = 1
    seed: int = 0
    eval_episodes: int = 64
    warm_start: str | None = None

    curves: ClassVar[tuple[str, ...]] = ("episode_return",)
    """The columns of `metrics.csv` that `curve.png` shows."""
    is_evaluated: ClassVar[bool] = True
    """Whether episodes are played at the end. False if their returns mean little and a script evaluates in its own way.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name of the task, for summaries."""

    @property
    def title(self) -> str:
        """The title of the pictures. It should name the environment and the algorithm."""
        return self.name

    @abc.abstractmethod
    def build(self) -> Algorithm:
        """Returns the algorithm, bound to its environment and policy."""

    def validate(self) -> None:
        """Raises ValueError, naming the field, if this cannot be run."""
        for name in ("total_steps", "num_seeds", "eval_episodes"):
            check_whole(name, getattr(self, name), least=1)
        check_seed("seed", self.seed)
        if self.warm_start is not None and not isinstance(self.warm_start, str):
            raise ValueError(f"warm_start must be the folder of a run, as a string, got {short(self.warm_start)}")
        if not callable(getattr(self.config, "validate", None)):
            given = short(self.config)
            raise ValueError(f"config must be an algorithm's config, such as gaejax.PPOConfig(), got {given}")
        self.config.validate()
        _check_writable(self.as_fields())

    def as_fields(self) -> dict[str, Any]:
        """Returns what `config.json` holds: values that JSON has, and numbers of NumPy."""
        return dataclasses.asdict(self)

    @classmethod
    def from_fields(cls: type[AnyRun], fields: dict[str, Any], known: "Run | None" = None) -> AnyRun:
        """Returns the run that `as_fields` described.

        Args:
          fields: The contents of a `config.json`.
          known: A run that provides what a file cannot hold, such as an `Environment`.

        Raises:
          ValueError: if the fields are not enough to rebuild the run.
        """
        fields = {name: value for name, value in fields.items() if name != DIGEST}
        _check_names(cls, fields)
        nested = {name: _made(name, kind, fields.get(name)) for name, kind in cls.parts(fields).items()}
        return cls(**{**fields, **nested})

    def as_text(self) -> str:
        """Returns the contents of `config.json`: the fields, and a digest that tells whether they were edited."""
        fields = json.loads(json.dumps(self.as_fields(), default=_item))  # as whoever reads the file sees them
        return json.dumps({**fields, DIGEST: _digest(fields)}, indent=2) + "\n"

    def save(self, path: Path) -> None:
        """Writes the run to a JSON file."""
        path.write_text(self.as_text())

    @classmethod
    @abc.abstractmethod
    def parts(cls, fields: dict[str, Any]) -> dict[str, type]:
        """Returns the classes of the fields that are dataclasses themselves, by field."""

    @classmethod
    def load(cls: type[AnyRun], path: Path, known: "Run | None" = None) -> AnyRun:
        """Reads what `save` wrote; `known` as in `from_fields`.

        Raises:
          ValueError: if there is no such file, if it was edited or damaged, or if the run cannot be rebuilt from it:
            one line with the path and, where it is known, the field.
        """
        if not path.is_file():
            raise ValueError(f"{path.parent} holds no run: there is no {path.name} in it")
        fields = read_json(path)
        try:
            _check_names(cls, {name: value for name, value in fields.items() if name != DIGEST})
            _check_digest(fields)
            run = cls.from_fields(fields, known)
            run.validate()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return run


DIGEST = "digest"
"""The entry of `config.json` that tells whether the others are as they were written."""


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file that a run wrote.

    Raises:
      ValueError: if it cannot be read as one; one line with the path.
    """
    return parse_object(str(path), path.read_bytes())


def _item(value: Any) -> Any:
    """Returns a number of NumPy as one of Python."""
    return value.item()


def _check_writable(fields: dict[str, Any]) -> None:
    """Raises ValueError, naming the field, if JSON cannot hold one of them."""
    for name, value in fields.items():
        try:
            json.dumps(value, default=_item, allow_nan=False)
        except (AttributeError, TypeError, ValueError, RecursionError):
            wanted = "finite numbers, texts, lists and dicts, which config.json can hold"
            raise ValueError(f"{name} must be made of {wanted}, got {short(value)}") from None


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Returns the leaves of a JSON value as texts, by path (`config.learning_rate`)."""
    if isinstance(value, dict) and value:
        parts = [_flat(value[name], f"{path}.{name}" if path else name) for name in sorted(value)]
        return {name: leaf for part in parts for name, leaf in part.items()}
    return {path: json.dumps(value, sort_keys=True)}


def _digest(fields: dict[str, Any]) -> str:
    """Returns 16 hexadecimal digits for all fields, a hyphen, and then 4 for each leaf, in the order of their paths."""
    hashes = [hashlib.sha256(f"{path}={text}".encode()).hexdigest() for path, text in _flat(fields).items()]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16] + "-" + "".join(each[:4] for each in hashes)


def _check_digest(fields: dict[str, Any]) -> None:
    """Raises ValueError, naming the field, if the fields are not those that were written. Runs of earlier versions have
    no digest."""
    if DIGEST not in fields:
        return
    own = {name: value for name, value in fields.items() if name != DIGEST}
    written, now, leaves = fields[DIGEST], _digest(own), _flat(own)
    if written == now:
        return
    where = "a field was edited, added or removed"
    if isinstance(written, str) and len(written) == len(now):
        parts = range(17, len(now), 4)
        edited = [
            f"{path} = {text}"
            for (path, text), at in zip(leaves.items(), parts, strict=True)
            if written[at : at + 4] != now[at : at + 4]
        ]
        where = f"{_listed(edited)} is not what was written" if edited else f"{DIGEST} is not what was written"
    raise ValueError(f"{where}: undo the edit, or start another run with the configuration that you want")


def _listed(texts: list[str], most: int = 3) -> str:
    """Returns the first texts, and how many more there are."""
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _check_names(kind: type, fields: Any, where: str = "") -> None:
    """Raises ValueError if a dict has not the fields of a dataclass."""
    if not isinstance(fields, dict):
        wanted = f"an object with the fields of a {kind.__name__}"
        raise ValueError(f"{where or 'its content'} must be {wanted}, got {short(fields)}")
    known = {field.name: field for field in dataclasses.fields(kind)}
    prefix = f"{where}." if where else ""
    for name in fields:
        if name not in known:
            raise ValueError(f"there is no field {prefix}{name}{did_you_mean(str(name), known)}")
    for name, field in known.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in fields:
            raise ValueError(f"the field {prefix}{name} is missing")


def _made(name: str, kind: type, fields: Any) -> Any:
    """Returns the dataclass that is a field of a run."""
    _check_names(kind, fields, name)
    return kind(**fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Run):
    """The training of an algorithm in an environment.

    Attributes:
      environment: A name that `gaejax.make` takes (`"CartPole-v1"`, `"module:function"`, `"file.py:function"`), or an
        `Environment`. The latter is not written to `config.json`, so whoever resumes or loads the run must provide it.
      environment_arguments: Arguments of `gaejax.make` beside the name.
      policy: Fields of `gaejax.policies.PolicyOptions`; those left out keep their defaults.
      algorithm: A name in `gaejax.algorithms.ALGORITHMS`.
      options: Arguments of the algorithm that JSON can hold: its objective or baseline, an estimator's name, schedules
        by field.
    """

    environment: str | Environment
    num_seeds: int = 5
    environment_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    policy: dict[str, Any] = dataclasses.field(default_factory=dict)
    algorithm: str = "ppo"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.environment.name if isinstance(self.environment, Environment) else self.environment

    @property
    def title(self) -> str:
        return f"{self.algorithm.upper()} on {self.name}"

    def validate(self) -> None:
        _check_algorithm(self.algorithm)
        kind = ALGORITHMS[self.algorithm].config
        if not isinstance(self.config, kind):
            given = repr(self.config) if self.config is None else f"a {type(self.config).__name__}"
            raise ValueError(f"config must be a {kind.__name__}, since algorithm is {self.algorithm!r}, got {given}")
        if not isinstance(self.environment, str):
            try:
                check_is_environment(self.environment)
            except TypeError as error:
                raise ValueError(f"{error}, or give a name that gaejax.make takes") from None
        for name in ("environment_arguments", "policy", "options"):
            value = getattr(self, name)
            if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
                raise ValueError(f"{name} must be a dict from names to values, got {short(value)}")
        _check_options(self.options)
        if isinstance(self.environment, Environment) and self.environment_arguments:
            given = ", ".join(self.environment_arguments)
            raise ValueError(f"environment_arguments need the name of an environment, got an Environment and {given}")
        super().validate()

    def build(self) -> Algorithm:
        spec = ALGORITHMS[self.algorithm]
        environment = self.environment
        if isinstance(environment, str):
            environment = make(environment, **self.environment_arguments)
        policy = make_policy(environment, action_values=spec.action_values, **self.policy)
        try:
            return spec.make(environment, policy, **self.options)
        except (AttributeError, TypeError) as error:  # an option that this algorithm does not have, or of another type
            raise ValueError(f"options of {self.algorithm} do not fit: {' '.join(str(error).split())}") from error

    def as_fields(self) -> dict[str, Any]:
        if isinstance(self.environment, str):
            return dataclasses.asdict(self)
        placeholder = {"name": self.name, "can_be_rebuilt": False}
        return {**dataclasses.asdict(dataclasses.replace(self, environment=self.name)), "environment": placeholder}

    @classmethod
    def from_fields(cls, fields: dict[str, Any], known: Run | None = None) -> "Experiment":
        saved = fields.get("environment", "")
        if not isinstance(saved, str):
            if not isinstance(saved, dict) or not isinstance(saved.get("name"), str):
                raise ValueError(f"environment must be a name, got {short(saved)}")
            given = known.environment if isinstance(known, Experiment) else None
            if not isinstance(given, Environment) or given.name != saved["name"]:
                run = f"the run was trained on an Environment value called {saved['name']!r}"
                raise ValueError(f"{run}, which its folder does not hold: give the experiment that has it")
            fields = {**fields, "environment": given}
        return super().from_fields(fields, known)

    @classmethod
    def parts(cls, fields: dict[str, Any]) -> dict[str, type]:
        algorithm = fields.get("algorithm", "ppo")
        _check_algorithm(algorithm)
        return {"config": ALGORITHMS[algorithm].config}


def _check_algorithm(name: Any) -> None:
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {short(name)}")


def _check_options(options: dict[str, Any]) -> None:
    """Raises ValueError for an option that needs functions, which no file and no command line can hold."""
    for name, value in options.items():
        if name in ("optimizer", "transforms", "environment", "policy"):
            raise ValueError(f"options cannot hold {name}, which is made of functions: call the algorithm in Python")
        known = f"the name of a known {name}"
        if name in ("objective", "baseline", "estimator") and not isinstance(value, str):
            raise ValueError(f"options: {name} must be {known}, got {short(value)}")
        if name == "schedules" and not (isinstance(value, dict) and all(isinstance(x, str) for x in value.values())):
            raise ValueError(f"options: schedules must be a dict from fields to names of schedules, got {short(value)}")
