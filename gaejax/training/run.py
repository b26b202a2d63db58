"""Runs as values: everything that a training depends on, as it is written to `config.json`."""

import abc
import dataclasses
import json
import numbers
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from gaejax.algorithms import ALGORITHMS, Algorithm
from gaejax.environments import Environment, make
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
            _check_whole(name, getattr(self, name))
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        _check_whole("seed", self.seed)
        if not callable(getattr(self.config, "validate", None)):
            raise ValueError(f"config must be an algorithm's config, such as gaejax.PPOConfig(), got {self.config!r}")
        self.config.validate()

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
        nested = {name: kind(**fields[name]) for name, kind in cls.parts(fields).items()}
        return cls(**{**fields, **nested})

    def as_text(self) -> str:
        """Returns the contents of `config.json`."""
        return json.dumps(self.as_fields(), indent=2, default=lambda number: number.item()) + "\n"

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
          ValueError: if there is no such file, or the run cannot be rebuilt from it.
        """
        if not path.is_file():
            raise ValueError(f"{path.parent} holds no run: there is no {path.name} in it")
        return cls.from_fields(json.loads(path.read_text()), known)


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}")


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
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {self.algorithm!r}")
        kind = ALGORITHMS[self.algorithm].config
        if not isinstance(self.config, kind):
            given = repr(self.config) if self.config is None else f"a {type(self.config).__name__}"
            raise ValueError(f"config must be a {kind.__name__}, since algorithm is {self.algorithm!r}, got {given}")
        if not isinstance(self.environment, str | Environment):
            given = f"a {type(self.environment).__module__}.{type(self.environment).__name__}"
            raise ValueError(f"environment must be a name or a gaejax.Environment, got {given}")
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
        except TypeError as error:  # an option that this algorithm does not have
            raise ValueError(f"options of {self.algorithm} do not fit: {error}") from error

    def as_fields(self) -> dict[str, Any]:
        if isinstance(self.environment, str):
            return dataclasses.asdict(self)
        placeholder = {"name": self.name, "can_be_rebuilt": False}
        return {**dataclasses.asdict(dataclasses.replace(self, environment=self.name)), "environment": placeholder}

    @classmethod
    def from_fields(cls, fields: dict[str, Any], known: Run | None = None) -> "Experiment":
        saved = fields["environment"]
        if not isinstance(saved, str):
            given = known.environment if isinstance(known, Experiment) else None
            if not isinstance(given, Environment) or given.name != saved["name"]:
                run = f"the run was trained on an Environment value called {saved['name']!r}"
                raise ValueError(f"{run}, which its folder does not hold: give the experiment that has it")
            fields = {**fields, "environment": given}
        return super().from_fields(fields, known)

    @classmethod
    def parts(cls, fields: dict[str, Any]) -> dict[str, type]:
        return {"config": ALGORITHMS[fields.get("algorithm", "ppo")].config}
