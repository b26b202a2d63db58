"""Every notebook runs from top to bottom, and is committed with its outputs and without a trace of a machine."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).parent.parent
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
MACHINE_PATHS = (str(REPOSITORY), str(Path.home()))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def outputs(notebook, kind):
    return [output for cell in code_cells(notebook) for output in cell.outputs if output.output_type == kind]


def test_there_are_notebooks():
    assert NOTEBOOKS


@each_notebook
def test_runs(path, tmp_path, monkeypatch):
    """In a folder of its own, so that it leans on nothing but the installed library."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".jax_cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert not outputs(notebook, "error")
    assert all(cell.execution_count for cell in code_cells(notebook))


@each_notebook
def test_is_committed_as_it_ran(path):
    """Valid, run once in order, each code cell with an output, no errors and no warnings."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell.outputs, f"no output of\n{cell.source}"
    assert not outputs(notebook, "error")
    assert [output.name for output in outputs(notebook, "stream") if output.name == "stderr"] == []


@each_notebook
def test_names_no_machine(path):
    text = path.read_text()
    for machine_path in MACHINE_PATHS:
        assert machine_path not in text
