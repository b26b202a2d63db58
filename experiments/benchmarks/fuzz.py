"""Give thousands of wrong inputs to the entry points, and count what becomes of them.

    uv run experiments/benchmarks/fuzz.py --output experiments/benchmarks/results

Each case runs in this process, up to the point where compiling would start. Verdicts: `refused` in one line, `ran` as
far as that, `traceback` (another exception than the entry point announces, or more than one line) and `accepted`
(although it cannot work). Cases that may or may not work, such as a flipped bit, count as right either way.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
import evaluate as evaluate_script
import train as train_script

import gaejax
from gaejax.algorithms import ALGORITHMS
from gaejax.language import load
from gaejax.training import Experiment, driver, plot_learning_curve, save_checkpoint
from gaejax.training.results import results_parser, write_results

GOLDEN = Path(__file__).parent.parent.parent / "tests" / "golden" / "language"
COUNTS = {"damages": 600, "command lines": 640, "configs": 400, "gae": 400, "folders": 300}
VERDICTS = ("refused", "ran", "traceback", "accepted")
TRACES = 40  # of the cases of a kind that reach a training step, how many trace it: this takes a second each
SHELL = (ValueError, ImportError, OSError)  # what the scripts make one line of
PYTHON = (*SHELL, TypeError)


class Reached(Exception):
    """Raised where compiling would start."""


@dataclasses.dataclass
class Case:
    """One input.

    Attributes:
      label: What it is, for the list of failures.
      call: Gives it to the entry point.
      bad: Whether it cannot work; None: unknown.
      announced: The exceptions that the entry point raises for bad input.
      untouched: A path that must not exist after a refusal.
    """

    label: str
    call: Callable[[], Any]
    bad: bool | None
    announced: tuple[type[Exception], ...] = SHELL
    untouched: Path | None = None


def verdict(case: Case) -> tuple[str, str]:
    """Runs a case; returns its verdict and what was said."""
    said, outcome = "", "ran"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            case.call()
    except Reached:
        pass
    except SystemExit as stop:  # the parser of the command line, which prints its usage
        outcome, said = ("refused", "usage") if stop.code else ("ran", "")
    except case.announced as error:
        said = str(error)
        outcome = "refused" if said and "\n" not in said else "traceback"
    except BaseException as error:  # that is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome, said = "traceback", f"{type(error).__name__}: {error}"
    if outcome == "refused" and case.untouched is not None and case.untouched.exists():
        outcome, said = "traceback", f"refused after {case.untouched.name} was made: {said}"
    if outcome == "ran" and case.bad:
        outcome = "accepted"
    return outcome, said


# Run folders.

CONFIG = gaejax.PPOConfig(num_envs=4, num_steps=8, num_epochs=1, anneal_steps=320.0)
EXPERIMENT = Experiment(environment="CartPole-v1", config=CONFIG, total_steps=320, num_seeds=2, eval_episodes=2)
OTHER_VALUES = [None, True, -1, 0.5, 10**30, float("nan"), float("inf"), "x", "", [], [1], {}, {"a": 1}, [[]]]


def make_run(folder: Path) -> Path:
    """Writes the folder of a run as a training of ten updates leaves it, without training."""
    folder.mkdir()
    EXPERIMENT.save(folder / "config.json")
    algorithm = EXPERIMENT.build()
    shapes = jax.eval_shape(lambda: driver.initial_states(EXPERIMENT, algorithm))
    states = jax.tree.map(_filled, shapes)._replace(updates=jnp.full(2, 10, jnp.int32))
    save_checkpoint(folder / "checkpoint", states, 10)
    lines = ["seed,update,env_steps,episodes,episode_return,episode_length,entropy"]
    for update, seed in itertools.product((5, 10), (0, 1)):
        lines.append(f"{seed},{update},{update * 31},{update},{20.5 + seed},20.5,0.69")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "summary.json").write_text(json.dumps({"environment": "CartPole-v1", "updates": 10, "finished": False}))
    return folder


def _filled(shape: Any) -> Any:
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape.shape)
    return jnp.asarray(np.zeros(shape.shape, shape.dtype))


def damages(draw: random.Random, count: int, place: Path, quick: bool) -> Iterator[Case]:
    """Damaged and edited files, met by `--resume`, `evaluate.py` and the plot."""
    whole = make_run(place / "whole")
    for number in range(count):
        file = draw.choice(["config.json"] * 3 + ["metrics.csv"] * 2 + ["summary.json"])
        folder = place / f"run{number}"
        shutil.copytree(whole, folder)
        before = (folder / file).read_bytes()
        how, after = (damaged_json if file.endswith("json") else damaged_table)(draw, before)
        (folder / file).write_bytes(after)
        entry = draw.choice(["plot", "resume"] if file == "metrics.csv" else ["resume", "evaluate"])
        read = {"config.json": True, "metrics.csv": entry != "evaluate", "summary.json": entry == "resume"}[file]
        bad = is_broken(file, before, after, entry) if read else False
        yield Case(f"{entry}: {file} {how}", entry_of(entry, folder), bad)
        shutil.rmtree(folder)


def entry_of(entry: str, folder: Path) -> Callable[[], Any]:
    """Returns a call of an entry point with a run's folder."""
    if entry == "evaluate":
        return lambda: evaluate_script.main([str(folder)])
    if entry == "resume":
        return lambda: train_script.main(["--resume", str(folder), "--total-steps", "640"])
    return lambda: plot_learning_curve(folder / "metrics.csv", folder / "curve.svg", "CartPole")


def damaged_json(draw: random.Random, content: bytes) -> tuple[str, bytes]:
    """Returns how, and the damaged content."""
    how = draw.choice(["cut", "flip", "drop", "add", "value", "value", "value", "edit", "edit", "whole"])
    if how == "cut":
        return how, content[: draw.randrange(len(content))]
    if how == "flip":
        return how, flipped(draw, content)
    if how == "whole":
        return how, draw.choice([b"", b"[]", b"null", b"\xff\xfe", b"[" * 10**5, b'"x"', b"{", b"{}"])
    fields = json.loads(content)
    inner = fields[draw.choice(["config"])] if "config" in fields and draw.random() < 0.5 else fields
    name = draw.choice(list(inner))
    if how == "drop":
        del inner[name]
    elif how == "add":
        name = draw.choice(["extra", "learning_rates", "gamma", ""])
        inner[name] = draw.choice(OTHER_VALUES)
    elif how == "edit":
        name = draw.choice([key for key, value in inner.items() if type(value) in (int, float)] or list(inner))
        inner[name] = inner[name] + 1 if type(inner[name]) in (int, float) else "edited"
    else:
        inner[name] = draw.choice(OTHER_VALUES)
    return f"{how} {name}", json.dumps(fields, indent=2).encode()


def damaged_table(draw: random.Random, content: bytes) -> tuple[str, bytes]:
    """Returns how, and the damaged content."""
    how = draw.choice(["cut", "flip", "cell", "drop", "twice", "column", "whole"])
    lines = [line.split(",") for line in content.decode().splitlines()]
    at = draw.randrange(1, len(lines))
    if how == "cut":
        return how, content[: draw.randrange(len(content) - 1)]
    if how == "flip":
        return how, flipped(draw, content)
    if how == "whole":
        return how, draw.choice([b"\xff\xfe", b"\x00" * 40, b"a,b\n1,2\n", b"seed,update\n0,5\n"])
    if how == "cell":
        lines[at][draw.randrange(3)] = draw.choice(["", "x", "nan", "-1", "1e999", "0.5"])
    elif how == "drop":
        del lines[at]
    elif how == "twice":
        lines.insert(at, lines[at])
    else:
        column = draw.randrange(3)
        lines = [line[:column] + line[column + 1 :] for line in lines]
    return how, "".join(",".join(line) + "\n" for line in lines).encode()


def flipped(draw: random.Random, content: bytes) -> bytes:
    """Returns the content with one bit changed."""
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]


def is_broken(file: str, before: bytes, after: bytes, entry: str) -> bool | None:
    """Returns whether a file no longer says what it said, as far as anybody could tell."""
    if file == "metrics.csv" and entry == "plot" and before.startswith(after) and (not after or after.endswith(b"\n")):
        return None  # as if the run had ended there
    try:
        if file == "config.json":
            written, now = json.loads(before), json.loads(after)
            if isinstance(now, dict) and now | {"digest": written["digest"]} == written:
                return None if "digest" not in now else now != written  # runs of earlier versions have none
            return True
        if file == "summary.json":
            return not isinstance(json.loads(after), dict) or None
    except (ValueError, RecursionError):
        return True
    return None if before.count(b"\n") == after.count(b"\n") and before.count(b",") == after.count(b",") else True


# Command lines.

NUMBERS = ["-1", "nan", "inf", "1e-46", "1e39", "x", ""]
BAD_FLAGS: list[tuple[str, ...]] = [
    *(("--options", value) for value in ("optimizer=None", "transforms=x", "explore=1", "objective=3", "estimator=[]")),
    *(("--options", value) for value in ("estimator=x", "policy=None", "environment=1", "x", "=1", "schedules=3")),
    *(("--env-arguments", f"max_steps_in_episode={value}") for value in ("[1,2]", "0", "-5", "x", "1e400", "True")),
    *(("--env-arguments", f"gravity={value}") for value in ("(1,)", "x", "1e400", "None", "{}", "-1e400", "'a'")),
    *(("--env-arguments", value) for value in ("gravty=1", "x", "=1", "time_limit=x", "gravity=" + "[" * 300)),
    *(("--env-arguments", value) for value in ("gravity={[]:1}", "gravity=" + "-" * 9999 + "1", "gravity=1 if 1")),
    *(("--seed", value) for value in ("99999999999999999999", "-1", "4294967296", "x", "0.5", "")),
    *(("--num-envs", value) for value in ("0", "-1", "1000000000", "99999999999999999999999", "x", "1e3")),
    *(("--num-steps", value) for value in ("0", "1000000000000", "x")),
    *(("--total-steps", value) for value in ("0", "-5", "1" + "0" * 30, "x", "1" + "0" * 5000)),
    *(("--num-seeds", value) for value in ("0", "1000000000", "-1", "x")),
    *(("--eval-episodes", value) for value in ("0", "1000000000", "1" + "0" * 19, "-1")),
    *(("--learning-rate", value) for value in NUMBERS),
    *(("--discount", value) for value in (*NUMBERS, "1.5")),
    *(("--gae-lambda", value) for value in (*NUMBERS, "2")),
    *(("--anneal-steps", value) for value in ("0", "1e-46", "-1", "nan", "x")),
    *(("--schedules", value) for value in ("learning_rate=x", "num_envs=linear", "x", "=linear", "lr=linear")),
    *(("--schedules", value) for value in ("learning_rate=1", "learning_rate=[]", "learning_rate={}")),
    *(("--env", value) for value in ("LunarLander-v3", "", ":", "a:b", "x.py:make", "gymnax:", "CartPole", "\0")),
    *(("--algorithm", value) for value in ("x", "", "PPO", "dqn")),
    *(("--memory", "gru", "--memory-size", value) for value in ("0", "-1", "x", "100000000", "99999999999999")),
    *(("--memory", value) for value in ("lstm", "")),
    ("--memory", "transformer", "--memory-size", "7"),
    ("--memory", "transformer", "--context", "0"),
    *(("--hidden-sizes", value) for value in ("0", "-1", "x", "99999999999")),
    *(("--activation", value) for value in ("x", "", "None")),
    ("--encoder", "cnn"),
    ("--encoder", "x"),
    ("--squash",),
    ("--compute-dtype", "float8"),
    *(("--resume", value) for value in ("/nowhere", "", ".")),
    ("--warm-start", "/nowhere"),
    ("--warm-start", ""),
    ("--lr", "1"),
    ("--explore",),
    ("stray",),
]
BAD_PPO: list[tuple[str, ...]] = [
    *(("--num-minibatches", value) for value in ("0", "1024", "3", "x", "99999999999")),
    *(("--huber-delta", value) for value in ("0", "1e-46", "-1", "inf")),
    *(("--max-grad-norm", value) for value in NUMBERS),
    *(("--num-epochs", value) for value in ("0", "-1", "x", "9999999999")),
    ("--burn-in-steps", "128"),
    ("--memory", "gru", "--num-envs", "3"),
    ("--advantage-normalization", "x"),
    ("--env", "Catch-bsuite", "--env-arguments", "rows=0"),
    ("--env", "Catch-bsuite", "--env-arguments", "rows=-3"),
    ("--env", "DeepSea-bsuite", "--env-arguments", "size=x"),
    ("--env", "DeepSea-bsuite", "--env-arguments", "size=0"),
    ("--env", "DeepSea-bsuite", "--env-arguments", "size=1000000"),
    ("--env", "MemoryChain-bsuite", "--env-arguments", "num_bits=x"),
]
GOOD_FLAGS: list[tuple[str, ...]] = [
    ("--seed", "4294967295"),
    ("--num-seeds", "2"),
    ("--learning-rate", "0"),
    ("--discount", "1"),
    ("--env-arguments", "gravity=10"),
    ("--env-arguments", "max_steps_in_episode=50"),
    ("--memory", "gru"),
    ("--time-limit", "terminate"),
    ("--hidden-sizes", "8", "8"),
    ("--normalize-observations",),
    ("--schedules", "discount=constant"),
    ("--no-anneal",),
]


def command_lines(draw: random.Random, count: int, place: Path, quick: bool) -> Iterator[Case]:
    """Flags of `train.py`, each alone first, then with others and with every algorithm."""
    alone = [(flags, True) for flags in (*BAD_FLAGS, *BAD_PPO)] + [(flags, False) for flags in GOOD_FLAGS]
    if quick:
        alone = draw.sample(alone, min(count, len(alone)))
    for number in range(count):
        if number < len(alone):
            chosen, bad = alone[number]
            given: list[str] = [*chosen]
        else:
            parts = draw.sample([*BAD_FLAGS, *GOOD_FLAGS, *GOOD_FLAGS, *GOOD_FLAGS], draw.randint(1, 3))
            named = {part[0] for part in parts}
            algorithm = [] if "--algorithm" in named else ["--algorithm", draw.choice(list(ALGORITHMS))]
            given = [*algorithm, *(word for part in parts for word in part)]
            overridden = len(named) < len(parts)  # the later of two flags counts
            bad = None if overridden or not any(part in BAD_FLAGS for part in parts) else True
        output = place / f"out{number}"
        yield Case(
            " ".join(word[:60] for word in given),
            lambda given=given, output=output: train_script.main([*given, "--output", str(output)]),
            bad,
            untouched=output,
        )


# Configs.

BAD_VALUES: dict[str, list[Any]] = {
    "size": [0, -1, 1.5, "x", True, 2**31, 10**30, [], {}, np.float32(2), float("nan"), (1, 2)],
    "switch": [0, 1, "yes", None, [], np.float32(1), "True"],
    "choice": ["x", "", 1, None, [], {}, True],
    "number": [
        -1,
        float("nan"),
        float("inf"),
        1e-46,
        1e39,
        10**400,
        "x",
        True,
        [],
        {},
        [1, [2]],
        (),
        1j,
        b"1",
        object(),
    ],
}
GOOD_VALUES: dict[str, list[Any]] = {"size": [2, np.int64(4)], "switch": [True], "number": [0.5, np.float32(0.25)]}


def configs(draw: random.Random, count: int, place: Path, quick: bool) -> Iterator[Case]:
    """Values of the fields of every algorithm's config, and arguments that it does not have."""
    kinds = [spec.config for spec in ALGORITHMS.values()]
    for _ in range(count):
        kind = draw.choice(kinds)
        field = draw.choice([field for field in dataclasses.fields(kind) if "kind" in field.metadata])
        declared = field.metadata["kind"]
        bad = draw.random() < 0.8
        name, value = field.name, draw.choice(BAD_VALUES[declared])
        if not bad:
            value = draw.choice(GOOD_VALUES.get(declared, [field.default]))
        elif draw.random() < 0.1:
            name = draw.choice(["lr", "gamma", "x", "num_env", "lambda_", "entropy"])
        elif (value is None and field.default is None) or (type(value) is int and value == field.metadata.get("least")):
            bad = False

        def call(kind: Any = kind, name: str = name, value: Any = value) -> None:
            kind(**{name: value}).validate()

        # A single good value may not fit the others' defaults: more minibatches than transitions, for example.
        yield Case(f"{kind.__name__}({name}={value!r:.60})", call, True if bad else None, PYTHON)


# Estimators.

ARRAYS = ("rewards", "values", "next_values")
FLAGS = ("terminated", "truncated")
BAD_ARRAYS: list[Callable[[Any], Any]] = [
    lambda x: x[:-1],
    lambda x: x[..., None],
    lambda x: x[:, 0],
    lambda x: x.astype(np.int32),
    lambda x: x.astype(complex),
    lambda x: x.astype(object),
    lambda x: x.astype(str),
    lambda x: None,
    lambda x: "x",
    lambda x: [[1.0], [2.0, 3.0]],
    lambda x: {},
    lambda x: 10**400,
    lambda x: object(),
    lambda x: x[:0],
]
BAD_ARGUMENTS: dict[str, list[Any]] = {
    "discount": [-1, 1.5, float("inf"), float("nan"), -1e-9, 2, 10**400, "x", None, True, [1, [2]], np.float32(1.1)],
    "gae_lambda": [
        -1,
        1.5,
        float("inf"),
        float("nan"),
        2,
        "x",
        None,
        True,
        {},
        np.array([0.5, 0.5]),
        np.full((5, 3), 3.0),
    ],
    "time_axis": [2, -3, 99, "x", None, 0.5],
    "method": ["x", "", None, 3, []],
    "mask": ["x", np.ones((5, 3)), np.ones(5, bool), 1],
    "final_advantage": ["x", np.ones(2, np.float32), np.ones((5, 3), np.float32), np.ones(3, bool)],
}


def gae_calls(draw: random.Random, count: int, place: Path, quick: bool) -> Iterator[Case]:
    """Calls of `gaejax.gae` with one wrong argument, or none, as arrays of NumPy and of JAX."""
    random_floats = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for _ in range(count):
        given: dict[str, Any] = dict.fromkeys(ARRAYS, random_floats)
        given |= dict.fromkeys(FLAGS, random_floats > 1) | {"discount": 0.99, "gae_lambda": 0.95}
        bad, what = draw.random() < 0.9 or quick, "right"
        if draw.random() < 0.5:
            given |= {name: jnp.asarray(given[name]) for name in (*ARRAYS, *FLAGS)}
        if bad and draw.random() < 0.5:
            name = draw.choice((*ARRAYS, *FLAGS))
            changes = BAD_ARRAYS if name in ARRAYS else [*BAD_ARRAYS[:3], *BAD_ARRAYS[5:]]
            index = draw.randrange(len(changes))
            what, given[name] = f"{name} {index}", changes[index](np.asarray(given[name]))
        elif bad:
            name = draw.choice(list(BAD_ARGUMENTS))
            given[name] = draw.choice(BAD_ARGUMENTS[name])
            what = f"{name}={given[name]!r:.60}"
        yield Case(f"gae({what})", lambda given=given: gaejax.gae(**given), bad, PYTHON)


# Models of strangers.

TEMPLATES = [
    "{{ 10**(10**9) }}",
    "{{ 'x' * 10**10 }}",
    "{{ [0] * 10**10 }}",
    "{{ 'x'.ljust(10**10) }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ 'x'|center(10**10) }}",
    "{{ range(10**9)|list }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
    "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "{% set n = namespace(s=[]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{% include '/etc/hostname' %}",
    "{% import 'os' as os %}",
    "{{",
    "{% for %}",
    "{{ messages.nothing.here }}",
    "{{ 1 / 0 }}",
    "{{ raise_exception('no\nlines') }}",
    "{{ raise_exception(messages) }}",
    "{{ lipsum(n=10**8) }}",
    "\0{{ '\ud800' }}",
]
SLOW_TEMPLATES = 11  # of these, the first: they use up their time or memory
HOSTILE_NAMES = [
    "../outside.safetensors",
    "/etc/hostname",
    "..",
    ".",
    "",
    "a/b",
    "\0",
    3,
    None,
    [],
    "x\ny",
    "~/x",
    "\\x",
]
HOSTILE_SIZES = [10**9, 10**18, 10**30, -1, 0, 1.5, "x", None, [], {}, True, float("nan")]


def folders(draw: random.Random, count: int, place: Path, quick: bool) -> Iterator[Case]:
    """Damaged and hostile models: Hugging Face folders and .gguf files."""
    makers = [hostile_config, hostile_weights, hostile_weights, hostile_index, hostile_file, hostile_gguf, hostile_gguf]
    (place / "outside.safetensors").write_bytes((GOLDEN / "smollm2" / "model.safetensors").read_bytes())
    templates = TEMPLATES[SLOW_TEMPLATES:] if quick else TEMPLATES
    for number in range(count):
        folder = place / f"model{number}"
        if number % 4 == 0 and number // 4 < len(templates):
            shutil.copytree(GOLDEN / "llama", folder)
            (folder / "chat_template.jinja").write_bytes(templates[number // 4].encode("utf-8", "surrogatepass"))
            label, path, bad = f"template {templates[number // 4]!r}", folder, True
        else:
            label, path, bad = makers[number % len(makers)](draw, folder)
        yield Case(label, lambda path=path: use_model(path), bad)
        shutil.rmtree(folder)


def use_model(path: Path) -> None:
    """Loads a model, and has its tokenizer do what `generate.py` asks of it."""
    tokenizer = load(path).tokenizer
    if tokenizer is not None:
        tokenizer.decode(tokenizer.encode("the answer"))
        if tokenizer.template is not None:
            tokenizer.chat([{"role": "user", "content": "the answer"}])


def hostile_config(draw: random.Random, folder: Path) -> tuple[str, Path, bool | None]:
    """An edited config.json."""
    shutil.copytree(GOLDEN / draw.choice(["llama", "smollm2", "qwen2"]), folder)
    config = json.loads((folder / "config.json").read_text())
    sizes = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "head_dim"]
    others = ["num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling"]
    others += ["model_type", "tie_word_embeddings", "eos_token_id", "hidden_act", "bos_token_id"]
    name = draw.choice(sizes * 2 + others)
    config[name] = value = draw.choice(HOSTILE_SIZES)
    (folder / "config.json").write_text(json.dumps(config))
    return f"{name}={value}", folder, True if name in sizes and value is not None else None


def hostile_weights(draw: random.Random, folder: Path) -> tuple[str, Path, bool | None]:
    """A cut or edited .safetensors file."""
    shutil.copytree(GOLDEN / "smollm2", folder)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    size = struct.unpack_from("<Q", content)[0]
    how = draw.choice(["cut", "length", "offsets", "shape", "dtype", "flip", "nested", "empty", "pair"])
    header = json.loads(content[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    entry = header[draw.choice(names)]
    if how == "cut":
        content = content[: draw.randrange(len(content))]
    elif how == "length":
        content = struct.pack("<Q", draw.choice([2**60, 2**64 - 1, 0, 1, size - 1, 10**8, len(content)])) + content[8:]
    elif how == "flip":
        content = content[:8] + flipped(draw, content[8 : 8 + size]) + content[8 + size :]
    elif how == "empty":
        content = draw.choice([b"", b"\0" * 8, b"{}", b"\xff" * 100])
    elif how == "nested":
        text = b'{"a":' * 10**5
        content = struct.pack("<Q", len(text)) + text
    else:
        if how == "offsets":
            entry["data_offsets"] = draw.choice([[0, 2**62], [-1, 4], [8, 4], [0, 4], [], ["a", "b"], [0.5, 1.5]])
        elif how == "shape":
            entry["shape"] = draw.choice([[2**40, 2**40], [-1], ["x"], [0], [2**62], "x", None])
        elif how == "dtype":
            entry["dtype"] = draw.choice(["F128", "I8", "BOOL", "", None, 3, "F8_E4M3"])
        else:
            header[names[0]]["data_offsets"] = header[names[1]]["data_offsets"]
        text = json.dumps(header).encode()
        content = struct.pack("<Q", len(text)) + text + content[8 + size :]
    path.write_bytes(content)
    return f"safetensors {how}", folder, None if how == "flip" else True


def hostile_index(draw: random.Random, folder: Path) -> tuple[str, Path, bool | None]:
    """An index that names other files."""
    shutil.copytree(GOLDEN / "llama", folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    how = draw.choice(["name", "name", "name", "map", "cut"])
    name = draw.choice(HOSTILE_NAMES)
    if how == "name":
        index["weight_map"][draw.choice(list(index["weight_map"]))] = name
    elif how == "map":
        index["weight_map"] = draw.choice([None, [], {}, "x", 3, {"a": {}}])
    text = json.dumps(index)
    path.write_text(text if how != "cut" else text[: draw.randrange(len(text))])
    return f"index {how} {name!r}", folder, True


def hostile_file(draw: random.Random, folder: Path) -> tuple[str, Path, bool | None]:
    """A file that is a link to another place, a pipe, nested, no text, or of another kind."""
    shutil.copytree(GOLDEN / "llama", folder)
    files = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"]
    name = draw.choice([*files, "model-00001-of-00003.safetensors", "chat_template.jinja"])
    how = draw.choice(["link", "circle", "pipe", "nested", "binary", "list", "folder"])
    (folder / name).unlink()
    if how == "link":
        (folder / name).symlink_to(draw.choice([GOLDEN / "llama" / name, Path("/etc/hostname"), Path("/dev/zero")]))
    elif how == "circle":
        (folder / name).symlink_to(name)
    elif how == "pipe":
        os.mkfifo(folder / name)
    elif how == "folder":
        (folder / name).mkdir()
    else:
        nested = draw.choice([b"[", b'{"a":']) * 10**5
        (folder / name).write_bytes({"nested": nested, "binary": b"\xff\xfe\0" * 99, "list": b"[1, 2]"}[how])
    is_text = name == "chat_template.jinja" and how in ("nested", "list")  # a template may hold any text
    return f"{name} {how}", folder, None if is_text else True


def hostile_gguf(draw: random.Random, folder: Path) -> tuple[str, Path, bool | None]:
    """A cut or edited .gguf file."""
    folder.mkdir()
    content = (GOLDEN / draw.choice(["llama.gguf", "qwen2.gguf"])).read_bytes()
    how = draw.choice(["cut", "count", "flip", "flip", "number"])
    at = draw.randrange(24, 1500)
    huge = draw.choice([2**64 - 1, 2**63, 2**60, 2**40, 2**32, 2**20])
    if how == "cut":
        content = content[: draw.randrange(len(content) - 64)]
    elif how == "count":
        content = content[: (at := draw.choice([8, 16]))] + struct.pack("<Q", huge) + content[at + 8 :]
    elif how == "number":
        content = content[:at] + struct.pack("<Q", huge) + content[at + 8 :]
    else:
        content = content[:4] + flipped(draw, content[4:2000]) + content[2000:]
    (folder / "model.gguf").write_bytes(content)
    return f"gguf {how} {at}", folder / "model.gguf", True if how in ("cut", "count") else None


KINDS: dict[str, Callable[[random.Random, int, Path, bool], Iterator[Case]]] = {
    "damages": damages,
    "command lines": command_lines,
    "configs": configs,
    "gae": gae_calls,
    "folders": folders,
}


@contextlib.contextmanager
def stopped_before_compiling(quick: bool) -> Iterator[None]:
    """Makes the driver and the scripts stop where they would compile; unless `quick`, after a step was
    traced, for the first of them."""

    def stop(*arguments: Any, **keywords: Any) -> Any:
        raise Reached

    def traced(algorithm: Any, states: Any, capacity: int, layout: Any) -> Any:
        if int(states.updates.shape[0]) < 1:
            raise AssertionError("a run has at least one seed")
        if traces:
            traces.pop()
            one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), states)
            jax.eval_shape(algorithm.step, one)

    traces = [] if quick else [None] * TRACES
    original = driver.initial_states

    def initial_states(experiment: Any, algorithm: Any, layout: Any = None) -> Any:
        is_traced = isinstance(jnp.zeros(()), jax.core.Tracer)
        if is_traced or experiment.warm_start is not None:
            return original(experiment, algorithm, layout)
        raise Reached

    with contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        for module, name, function in (
            (driver, "lower_training", traced),
            (driver, "_run", stop),
            (driver, "initial_states", initial_states),
            (evaluate_script, "evaluate_seeds", stop),
        ):
            stack.enter_context(mock.patch.object(module, name, function))
        yield


def run_kind(kind: str, count: int, seed: int = 0, quick: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Runs the cases of a kind; returns a line of the table, and what went wrong."""
    verdicts: Counter = Counter()
    failures, slowest = [], 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as place, stopped_before_compiling(quick):
        for case in KINDS[kind](random.Random(f"{kind} {seed}"), count, Path(place), quick):
            started = time.perf_counter()
            found, said = verdict(case)
            slowest = max(slowest, time.perf_counter() - started)
            verdicts[found] += 1
            if found in ("traceback", "accepted"):
                failures.append(f"{found}: {case.label}: {said[:300]}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    line = {"kind": kind, "cases": sum(verdicts.values()), **{name: verdicts[name] for name in VERDICTS}}
    return line | {"slowest_seconds": round(slowest, 1), "grown_mebibytes": round(grown), "seed": seed}, failures


def main() -> None:
    parser = results_parser(__doc__)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS), help="default: all")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lines = []
    for kind in arguments.kinds:
        line, failures = run_kind(kind, max(1, int(arguments.share * COUNTS[kind])), arguments.seed)
        lines.append(line)
        print("\n".join([*failures, ", ".join(f"{name} {value}" for name, value in line.items())]), flush=True)
    write_results(arguments.output / "fuzz.csv", lines)


if __name__ == "__main__":
    main()
