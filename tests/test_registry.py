"""Environments by name: of a package, of a module, of a file; what is nearly a name gets a hint."""

import subprocess
import sys

import gymnax
import pytest

import gaejax
from gaejax.environments import registry
from gaejax.environments.registry import near_misses

CORRIDOR = """
import dataclasses

import gaejax
import jax.numpy as jnp
from sizes import SIZE


@dataclasses.dataclass
class Unused:
    x: "int"


def corridor(length=SIZE):
    def reset(key, params):
        return jnp.zeros((), jnp.int32), jnp.zeros(1)

    def step(key, state, action, params):
        state = state + action
        return state, state[None] / length, 1.0 * (state == length), state == length, jnp.bool_(False), {}

    return gaejax.Environment(f"corridor-{length}", reset, step, gaejax.Box(0, 1, (1,)), gaejax.Discrete(2))


short = corridor(2)
number = 3


def broken():
    return 1 / 0


def empty():
    return None


class Corridor:
    def __new__(cls, length):
        return corridor(length)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with environments of one's own, which is the current one; the modules in it are forgotten afterwards."""
    (tmp_path / "rooms").mkdir()
    for place in (tmp_path / "corridors.py", tmp_path / "rooms" / "inner_corridors.py"):
        place.write_text(CORRIDOR)
        (place.parent / "sizes.py").write_text("SIZE = 5\n")
    (tmp_path / "wrong.py").write_text("import gaejax\nx = 1 +\n")
    (tmp_path / "raising.py").write_text("import gaejax\n\n\nraise RuntimeError('two\\nlines')\n")
    (tmp_path / "missing.py").write_text("import a_module_that_there_is_not\n")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(str(tmp_path)) or name.partition(".")[0] in (
            "corridors",
            "sizes",
            "rooms",
            "raising",
            "wrong",
        ):
            del sys.modules[name]


def test_the_package_may_be_named_and_its_arguments_pass():
    for name in ("Pendulum-v1", "gymnax:Pendulum-v1"):
        made = gaejax.make(name, max_steps_in_episode=7, time_limit="terminate")
        assert made.name == "Pendulum-v1" and made.params.max_steps_in_episode == 7
    assert gaejax.environment_names() == gaejax.environment_names("gymnax")
    with pytest.raises(ValueError, match="unknown package 'gym': there are gymnax, brax"):
        gaejax.environment_names("gym")
    with pytest.raises(ValueError, match="'MNISTBandit-bsuite' is not usable: it downloads"):
        gaejax.make("gymnax:MNISTBandit-bsuite")


def test_a_second_package_is_one_file_and_one_line(folder, monkeypatch):
    adapter = "from corridors import corridor\n\n\ndef names():\n    return ['Short', 'Long']\n\n\n"
    adapter += "def make(name, **kwargs):\n    return corridor(**({'length': 9 if name == 'Long' else 2} | kwargs))\n"
    (folder / "rooms" / "__init__.py").write_text("")
    (folder / "rooms" / "adapter.py").write_text(adapter)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(registry.PACKAGES, "rooms", "rooms.adapter")
    assert gaejax.environment_names("rooms") == ["rooms:Short", "rooms:Long"]
    assert gaejax.make("rooms:Long").name == "corridor-9"
    assert gaejax.make("rooms:Long", length=4).name == "corridor-4"
    with pytest.raises(ValueError, match="unknown environment 'long': did you mean Long"):
        gaejax.make("rooms:long")


def test_an_environment_of_ones_own_by_module_and_by_file(folder):
    path = list(sys.path)
    assert gaejax.make("corridors:corridor").name == "corridor-5"
    assert gaejax.make("corridors:corridor", length=3).name == "corridor-3"
    assert gaejax.make("corridors:short").name == "corridor-2"
    assert gaejax.make("corridors:Corridor", length=8).name == "corridor-8"
    assert gaejax.make("rooms/inner_corridors.py:corridor").name == "corridor-5"
    assert gaejax.make(f"{folder}/rooms/inner_corridors.py:corridor", length=3).name == "corridor-3"
    assert gaejax.make("rooms.inner_corridors:corridor", length=4).name == "corridor-4"
    assert gaejax.make("probes:constant_reward", limit=3).name == "constant"  # importable from elsewhere
    assert sys.path == path
    gaejax.environments.check_environment(gaejax.make("corridors:short"))


def test_a_file_runs_once_so_that_its_classes_stay_the_same(folder):
    first, second = (gaejax.make("./corridors.py:short") for _ in range(2))
    assert first is second


@pytest.mark.parametrize(
    "name, kwargs, words",
    [
        ("corridors:corridr", {}, "corridors has no 'corridr': did you mean corridor"),
        ("corridors:xyz", {}, "corridors has no 'xyz': name a function that returns a gaejax.Environment"),
        ("corridors:", {}, "corridors has no ''"),
        ("corridors:corridor", {"lenght": 3}, "TypeError: corridor() got an unexpected keyword argument 'lenght'"),
        ("corridors:short", {"length": 3}, "takes no arguments, since it is no function, got length"),
        ("corridors:number", {}, "must be a gaejax.Environment or a function that returns one, got int"),
        ("corridors:empty", {}, "must be a gaejax.Environment or a function that returns one, got NoneType"),
        ("corridors:broken", {}, "ZeroDivisionError: division by zero (corridors.py:30)"),
        (
            "corridor:corridor",
            {},
            "there is no package or module 'corridor': packages are gymnax, brax",
        ),
        ("corridors.py.py:corridor", {}, "there is no file"),
        ("no/such/file.py:corridor", {}, "there is no file"),
        (":corridor", {}, "there is no package or module ''"),
        ("..corridors:corridor", {}, "there is no package or module '..corridors'"),
        ("corridors.inner:corridor", {}, "there is no package or module 'corridors.inner'"),
        ("gymnx:CartPole-v1", {}, "there is no package or module 'gymnx': did you mean gymnax:CartPole-v1"),
        ("Gymnax:CartPole-v1", {}, "did you mean gymnax:CartPole-v1"),
        ("wrong:corridor", {}, "SyntaxError: invalid syntax (wrong.py, line 2)"),
        ("wrong.py:corridor", {}, "SyntaxError: invalid syntax (wrong.py, line 2)"),
        ("raising:corridor", {}, "RuntimeError: two lines (raising.py:4)"),
        ("raising.py:corridor", {}, "RuntimeError: two lines (raising.py:4)"),
        ("missing:corridor", {}, "No module named 'a_module_that_there_is_not' (missing.py:1)"),
    ],
)
def test_what_goes_wrong_with_ones_own_is_one_line(folder, name, kwargs, words):
    with pytest.raises(ValueError) as caught:
        gaejax.make(name, **kwargs)
    message = str(caught.value)
    assert f"environment {name!r}" in message and words in message and "\n" not in message, message


@pytest.mark.parametrize(
    "name, near",
    [
        ("cartpole", ["CartPole-v1"]),
        ("CARTPOLE-V1", ["CartPole-v1"]),
        ("CartPole-v0", ["CartPole-v1"]),
        ("Cart-Pole-v1", ["CartPole-v1"]),
        ("cart_pole", ["CartPole-v1"]),
        ("CartPloe-v1", ["CartPole-v1"]),
        ("Pendulum", ["Pendulum-v1"]),
        ("MountainCar-v1", ["MountainCar-v0"]),
        ("MountainCarContinous", ["MountainCarContinuous-v0"]),
        ("breakout", ["Breakout-MinAtar"]),
        ("Breakout-v5", ["Breakout-MinAtar"]),
        ("SpaceInvader-MinAtar", ["SpaceInvaders-MinAtar"]),
        ("deepsea", ["DeepSea-bsuite"]),
        ("LunarLander-v3", []),
        ("HalfCheetah-v5", []),
        ("Ant-v5", []),
        ("Walker2d", []),
        ("Taxi-v3", []),
        ("v1", []),
        ("", []),
        ("-", []),
    ],
)
def test_a_hint_is_given_only_for_what_is_really_near(name, near):
    assert near_misses(name, gaejax.environment_names()) == near
    with pytest.raises(ValueError) as caught:
        gaejax.make(name)
    elsewhere = {"HalfCheetah-v5": "halfcheetah", "Ant-v5": "ant", "Walker2d": "walker2d"}
    listed = "there are CartPole-v1, Pendulum"
    if name in elsewhere:
        listed = f"did you mean brax:{elsewhere[name]}?"
    if name in {"LunarLander-v3", "Taxi-v3"}:
        listed = "gymnasium has it, which gaejax has no adapter"
    hint = f"did you mean {near[0]}?" if near else listed
    assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_a_package_that_is_not_installed_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "brax.envs", None)  # as if it were not there
    for call in (lambda: gaejax.make("brax:ant"), lambda: gaejax.environment_names("brax")):
        with pytest.raises(ValueError, match=r"package brax cannot be imported .*: .*`uv run --extra brax") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_name_imports_no_package_but_its_own():
    code = "import gaejax, sys, contextlib\n"
    code += "with contextlib.suppress(ValueError): gaejax.make('Ant-v5')\n"
    code += f"assert not set(sys.modules) & {{{', '.join(map(repr, sorted(set(registry.PACKAGES) - {'gymnax'})))}}}\n"
    code += f"assert not set(sys.modules) & {set(registry.PACKAGES.values()) - {'gaejax.environments.gymnax'}}\n"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "name, near",
    [
        ("Snake-v1", "jumanji:Snake-v1"),
        ("brax:Snake-v1", "jumanji:Snake-v1"),
        ("CartpoleBalance", "playground:CartpoleBalance"),
        ("Craftax-Symbolic", "craftax:Craftax-Symbolic-v1"),
        ("Navix-Empty-8x8", "navix:Navix-Empty-8x8-v0"),
        ("jumanji:CartPole", "gymnax:CartPole-v1"),
    ],
)
def test_a_name_of_another_package_is_found_without_importing_it(monkeypatch, name, near):
    monkeypatch.setattr(registry, "_names", lambda package: list(gymnax.registered_envs) if package == "gymnax" else [])
    monkeypatch.setattr(registry, "_adapter", lambda package: None)
    with pytest.raises(ValueError, match=f"did you mean {near}"):
        gaejax.make(name)
