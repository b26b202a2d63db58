"""The documentation is true: its Python examples run, its relative links lead somewhere, its API pages are complete,
and what it quotes from the code is the code.

Blocks fenced with ```python are executed: in README.md each on its own, in docs/*.md all blocks of a page one after
the other in one namespace. Blocks fenced with ```py are shown only.
"""

import dataclasses
import importlib
import re
import textwrap
from pathlib import Path

import pytest

from gaejax.algorithms import ALGORITHMS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
API_PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
PUBLIC_PACKAGES = ("gaejax", "algorithms", "environments", "language", "policies", "recurrence", "testing", "training")


def python_blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


EXAMPLES = python_blocks(README)
PAGES_WITH_EXAMPLES = [path for path in PAGES if python_blocks(path)]


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_example_of_the_readme_runs(index):
    names = {}
    exec(EXAMPLES[index], names)
    if "history" in names:  # what is trained is learned
        assert names["history"].episode_return[-1] > -5


def test_the_examples_of_the_readme_are_short():
    importing, composing, environment = (sum(bool(line.strip()) for line in code.splitlines()) for code in EXAMPLES)
    assert importing <= 10 and composing <= 20 and environment <= 25
    assert len(README.read_bytes()) <= 10_000


@pytest.mark.parametrize("path", PAGES_WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_of_a_page_run(path):
    names = {}
    for block in python_blocks(path):
        exec(compile(block, path.name, "exec"), names)


@pytest.mark.parametrize("path", [README, ROOT / "CONTRIBUTING.md", *PAGES, *API_PAGES], ids=lambda path: path.stem)
def test_relative_links_lead_to_files(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            assert (path.parent / target.split("#")[0]).exists(), f"{path.name} links to {target}"


def references():
    """The objects that the API pages show, as (module, name)."""
    text = "".join(path.read_text() for path in API_PAGES)
    return re.findall(r"^::: (gaejax[.\w]*)\.(\w+)$", text, flags=re.MULTILINE)


def test_the_api_reference_names_what_exists():
    missing = [
        f"{module}.{name}" for module, name in references() if not hasattr(importlib.import_module(module), name)
    ]
    assert not missing, f"remove from docs/api/: {', '.join(missing)}"


@pytest.mark.parametrize("package", PUBLIC_PACKAGES)
def test_every_public_name_is_in_the_api_reference(package):
    module = importlib.import_module("gaejax" if package == "gaejax" else f"gaejax.{package}")
    missing = set(module.__all__) - {name for _, name in references()} - {"testing"}
    assert not missing, f"add to docs/api/: {', '.join(sorted(missing))}"


def test_the_step_that_is_shown_is_the_one_in_the_code():
    page = (ROOT / "docs" / "training_step.md").read_text()
    shown = re.search(r"^```py\n(def step\(state.*?)^```", page, flags=re.DOTALL | re.MULTILINE).group(1)
    code = (ROOT / "gaejax" / "algorithms" / "a2c.py").read_text()
    assert textwrap.indent(shown, "    ") in code, "copy the step of a2c.py to docs/training_step.md"


def test_the_defaults_that_are_shown_are_those_of_the_configs():
    page = (ROOT / "docs" / "algorithms.md").read_text()
    table = r"^\| field \| (reinforce .*?) \|\n\|[ -|]+\n(.*?)\n\n"
    names, rows = re.search(table, page, flags=re.DOTALL | re.MULTILINE).groups()
    for row in rows.splitlines():
        field, *shown = (cell.strip(" `") for cell in row.strip("|").split("|"))
        for name, cell in zip(names.split(" | "), shown, strict=True):
            defaults = {field.name: field.default for field in dataclasses.fields(ALGORITHMS[name].config)}
            assert eval(cell or "'absent'") == defaults.get(field, "absent"), (name, field)
