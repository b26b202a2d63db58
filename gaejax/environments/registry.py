"""Environments by name: from packages, or your own.

To add a package, write one file with an adapter and add one line to `PACKAGES`. The file is imported when one of its
names is asked for, and holds:

- `names() -> list[str]`: the names of its environments;
- `make(name, **kwargs) -> Environment`: the environment called `name`, which is among them;
- `UNUSABLE`, if it has any: a dict from the names of environments that cannot be used to the reason.
"""

import contextlib
import difflib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from gaejax._arguments import short
from gaejax.environments.check import check_is_environment
from gaejax.environments.environment import Environment

DEFAULT_PACKAGE = "gymnax"  # the one whose environments need no prefix
PACKAGES = {
    "gymnax": "gaejax.environments.gymnax",
    "brax": "gaejax.environments.brax",
    "navix": "gaejax.environments.navix",
    "jumanji": "gaejax.environments.jumanji",
    "craftax": "gaejax.environments.craftax",
    "playground": "gaejax.environments.playground",
}
OWN = "one of your own is 'module:function' or 'path/to/file.py:function'"


def environment_names(package: str = DEFAULT_PACKAGE) -> list[str]:
    """Returns the names that `make` takes for the environments of a package.

    Raises:
      ValueError: for an unknown package, and for one that is not installed.
    """
    names = _names(package)
    return names if package == DEFAULT_PACKAGE else [f"{package}:{name}" for name in names]


def make(name: str, **kwargs: Any) -> Environment:
    """Returns an environment by name.

    Args:
      name: One of four forms. `"CartPole-v1"`: an environment of gymnax, see `environment_names()`.
        `"package:CartPole-v1"`: an environment of a package in `PACKAGES`. `"module.path:function"`: your own, where
        the module is importable or lies in the current directory. `"path/to/file.py:function"`: your own, in that
        file. `function` is a function that returns an `Environment`, or an `Environment` itself.
      **kwargs: Arguments of that environment: of your own function, or of the package's `make`; for gymnax see
        `gaejax.environments.gymnax.make`.

    Raises:
      ValueError: for an unknown name or argument, and if your own function fails or returns something else.
    """
    if not isinstance(name, str):
        try:
            check_is_environment(name)
        except TypeError as error:
            raise ValueError(f"{error}; or give the name of one") from None
        raise ValueError("name must be the name of an environment, got an Environment: use it as it is")
    if ":" not in name:
        return _from_package(DEFAULT_PACKAGE, name, kwargs)
    prefix, _, rest = name.partition(":")
    if prefix in PACKAGES:
        return _from_package(prefix, rest, kwargs)
    return _own(name, kwargs)


def _adapter(package: str) -> Any:
    if not isinstance(package, str) or package not in PACKAGES:
        raise ValueError(f"unknown package {short(package)}: there are {', '.join(PACKAGES)}")
    return importlib.import_module(PACKAGES[package])


def _names(package: str) -> list[str]:
    """Returns the names in a package, which is imported for it.

    Raises:
      ValueError: for an unknown package, and for one that is not installed, with the command that installs it.
    """
    adapter = _adapter(package)
    try:
        return adapter.names()
    except ImportError as error:
        message = " ".join(str(error).split())[:200]
        remedy = f"install it with `uv sync --extra {package}`, or `uv run --extra {package} ...`"
        raise ValueError(f"package {package} cannot be imported ({message}): {remedy}") from error


def _from_package(package: str, name: str, kwargs: dict[str, Any]) -> Environment:
    adapter = _adapter(package)
    if name in getattr(adapter, "UNUSABLE", {}):
        raise ValueError(f"environment {name!r} is not usable: {adapter.UNUSABLE[name]}")
    names = _names(package)
    if name not in names:
        near = near_misses(name, names)
        hint = f"did you mean {' or '.join(near)}?" if near else _elsewhere(package, name)
        hint = hint or f"there are {', '.join(names)}; {OWN}"
        raise ValueError(f"unknown environment {short(name)}: {hint}")
    return adapter.make(name, **kwargs)


FAMILIES = {
    "brax": (
        "ant fast halfcheetah hopper humanoid humanoidstandup inverted_double_pendulum inverted_pendulum pusher "
        "reacher swimmer walker2d"
    ),
    "gymnasium": (
        "LunarLander BipedalWalker CarRacing Blackjack FrozenLake8x8 CliffWalking Taxi Ant HalfCheetah Hopper Humanoid "
        "HumanoidStandup InvertedDoublePendulum InvertedPendulum Pusher Reacher Swimmer Walker2d"
    ),
    "navix": (
        "Navix-Empty-8x8-v0 Navix-DoorKey-8x8-v0 Navix-FourRooms-v0 Navix-KeyCorridorS3R1-v0 Navix-LavaGapS5-v0 "
        "Navix-DistShift1-v0 Navix-GoToDoor-8x8-v0 Navix-Dynamic-Obstacles-8x8-v0"
    ),
    "jumanji": (
        "BinPack-v2 CVRP-v1 Cleaner-v0 FlatPack-v0 Game2048-v1 GraphColoring-v1 JobShop-v0 Knapsack-v1 MMST-v0 Maze-v0 "
        "Minesweeper-v0 MultiCVRP-v0 PacMan-v1 RobotWarehouse-v0 RubiksCube-v0 SlidingTilePuzzle-v0 Snake-v1 Sudoku-v0 "
        "TSP-v1 Tetris-v0"
    ),
    "craftax": "Craftax-Classic-Symbolic-v1 Craftax-Symbolic-v1 Craftax-Classic-Pixels-v1 Craftax-Pixels-v1",
    "playground": (
        "AcrobotSwingup BallInCup CartpoleBalance CartpoleSwingup CheetahRun FingerSpin FishSwim HopperHop HopperStand "
        "HumanoidWalk HumanoidRun PendulumSwingup PointMass ReacherEasy WalkerRun WalkerStand WalkerWalk "
        "Go1JoystickFlatTerrain SpotFlatTerrainJoystick PandaPickCube"
    ),
    "ale_py": "ALE Pong BreakoutNoFrameskip PongNoFrameskip SpaceInvadersNoFrameskip MontezumaRevenge Qbert",
    "procgen": "procgen",
}
"""By package, the environments that users ask for and gymnax does not have, without versions. Those of `PACKAGES` are
listed so that a hint imports none of them."""


def _elsewhere(package: str, name: str) -> str | None:
    """Returns where an environment is that `package` does not have: in another of `PACKAGES`, or outside of gaejax."""
    for other in PACKAGES:
        names = _names(other) if other == DEFAULT_PACKAGE else FAMILIES.get(other, "").split()
        near = near_misses(name, names)
        if other != package and near:
            some = " or ".join(f"{other}:{each}" for each in near)
            return f"{package} has none of that name: did you mean {some}? See environment_names({other!r})"
    first = re.split(r"[-/]", name)[0]
    for other, members in FAMILIES.items():
        if other not in PACKAGES and first in members.split():
            return f"{other} has it, which gaejax has no adapter for; {OWN}"
    return None


def near_misses(name: str, names: list[str]) -> list[str]:
    """Returns up to three of `names` that are nearly `name`: the same apart from case, the suffix after the last hyphen
    (a version or a suite), or a slip of the keyboard. Names that only share a part are not near."""

    def stem(text: str) -> str:
        return text.lower().rpartition("-")[0] or text.lower()

    def bare(text: str) -> str:
        return "".join(filter(str.isalnum, text))

    wanted = {bare(name.lower()), bare(stem(name))} - {""}
    for known in (lambda other: other.lower(), stem):
        exact = [other for other in names if bare(known(other)) in wanted]
        if exact:
            return exact[:3]
    scores = {
        other: max((difflib.SequenceMatcher(None, mine, bare(stem(other))).ratio() for mine in wanted), default=0)
        for other in names
    }
    near = [other for other in names if scores[other] >= 0.8]
    return sorted(near, key=lambda other: -scores[other])[:3]


# Environments outside of packages: modules and files.


def _own(name: str, kwargs: dict[str, Any]) -> Environment:
    """Returns the environment that `"module:function"` or `"file.py:function"` stands for."""
    place, _, attribute = name.rpartition(":")
    folder = Path(place).parent if place.endswith(".py") else Path()
    with _importable(folder.resolve()):
        module = _file(name, Path(place)) if place.endswith(".py") else _module(name, place)
        if not hasattr(module, attribute):
            public = [other for other, value in vars(module).items() if callable(value) and not other.startswith("_")]
            near = difflib.get_close_matches(attribute, public, n=3, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else "name a function that returns a gaejax.Environment"
            raise ValueError(f"environment {name!r}: {place} has no {attribute!r}: {hint}")
        made = getattr(module, attribute)
        if isinstance(made, Environment):
            if kwargs:
                given = ", ".join(kwargs)
                raise ValueError(f"environment {name!r} takes no arguments, since it is no function, got {given}")
            return made
        if callable(made):
            with _one_line(f"environment {name!r}"):
                made = made(**kwargs)
    if not isinstance(made, Environment):
        kind = type(made).__name__
        raise ValueError(
            f"environment {name!r} must be a gaejax.Environment or a function that returns one, got {kind}"
        )
    return made


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Lets the files in `folder` be imported, as when Python is started there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the code that ran may have changed the path too
            sys.path.remove(str(folder))


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Reports what a user's code raises as a ValueError of one line; the whole traceback stays attached to it."""
    try:
        yield
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{what}: {message}{_place(error)}") from error


def _place(error: Exception) -> str:
    """Returns " (file.py:line)" for the user's line that raised; nothing where there is none, or the message has it."""
    if isinstance(error, SyntaxError):
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    last = frames[-1]
    return "" if last.filename == __file__ else f" ({Path(last.filename).name}:{last.lineno})"


def _module(name: str, place: str) -> ModuleType:
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):  # a parent that is no package, an empty or relative name
        spec = None
    if spec is None:
        near = difflib.get_close_matches(place.lower(), PACKAGES, n=1, cutoff=0.7)
        hint = f"did you mean {near[0]}:{name.rpartition(':')[2]}?" if near else _where(place)
        raise ValueError(f"environment {name!r}: there is no package or module {place!r}: {hint}")
    with _one_line(f"environment {name!r}"):
        return importlib.import_module(place)


def _where(place: str) -> str:
    return f"packages are {', '.join(PACKAGES)}; {place.replace('.', '/') or 'module'}.py is not in {Path.cwd()} either"


def _file(name: str, path: Path) -> ModuleType:
    """Returns the module in a file. It is run once for each path, so that the classes in it stay the same."""
    path = path.resolve()
    if not path.is_file():
        raise ValueError(f"environment {name!r}: there is no file {path}")
    key = str(path)
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None and spec.loader is not None  # the suffix is .py
        sys.modules[key] = module = importlib.util.module_from_spec(spec)  # where dataclasses look it up
        try:
            with _one_line(f"environment {name!r}"):
                spec.loader.exec_module(module)
        except ValueError:
            del sys.modules[key]
            raise
    return sys.modules[key]
