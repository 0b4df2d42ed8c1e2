# SPDX-License-Identifier: Apache-2.0
"""The notebooks run from top to bottom, on what is committed."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {  # how many pictures they show
    "residual_scaling.ipynb": 3,
    "architecture.ipynb": 7,
}
SLOW = {"architecture.ipynb"}  # traces five networks of full size


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notebooks and the experiments with their tables in a folder of their own."""
    without = shutil.ignore_patterns("__pycache__", "*.html", "*.png")
    for folder in ("notebooks", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=without)
    # What kernels leave behind, and a kernel of the user's with the same name.
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    monkeypatch.setenv("INCEPTION_JAX_MODELS", str(tmp_path / "models"))  # there are none
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
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert all(cell.outputs for cell in cells), "a cell that says nothing"
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == NOTEBOOKS[name]


def test_every_notebook_is_looked_at():
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_without_outputs(name):
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
