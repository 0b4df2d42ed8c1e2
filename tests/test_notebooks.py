# SPDX-License-Identifier: Apache-2.0
"""The notebooks run on the committed files, and are committed with their outputs."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {  # number of figures
    "residual_scaling.ipynb": 2,
    "architecture.ipynb": 7,
}
SLOW = {"architecture.ipynb"}  # traces five networks of full size
MAX_BYTES = 2 * 2**20  # of all notebooks together


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the notebooks and of the experiments with their tables."""
    without = shutil.ignore_patterns("__pycache__", "*.html", "*.png")
    for folder in ("notebooks", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=without)
    # Kernels neither write to the user's folders nor are found there.
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    monkeypatch.setenv("INCEPTION_JAX_MODELS", str(tmp_path / "models"))  # none
    return tmp_path / "notebooks"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in NOTEBOOKS
    ],
)
def test_a_notebook_runs(copy, name):
    notebook = nbformat.read(copy / name, as_version=4)
    where = {"metadata": {"path": str(copy)}}
    NotebookClient(notebook, timeout=300, resources=where).execute()
    check_outputs(notebook, NOTEBOOKS[name])


def check_outputs(notebook: nbformat.NotebookNode, num_figures: int) -> None:
    """Check that every code cell has an output, and none is an error or a warning."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not [output for output in outputs if output.output_type == "error"]
    assert all(cell.outputs for cell in cells), "a cell without output"
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == num_figures


def test_every_notebook_is_listed():
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_with_its_outputs(name):
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    check_outputs(notebook, NOTEBOOKS[name])


def test_the_notebooks_are_small():
    assert sum(path.stat().st_size for path in (ROOT / "notebooks").iterdir()) < MAX_BYTES
