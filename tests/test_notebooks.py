# SPDX-License-Identifier: Apache-2.0
"""The notebooks run from top to bottom, on the tables that are committed."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = Path("notebooks") / "residual_scaling.ipynb"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notebook, the study and its tables in a folder of their own."""
    without = shutil.ignore_patterns("__pycache__", "*.html", "*.png")
    for folder in ("notebooks", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=without)
    # What kernels leave behind, and a kernel of the user's with the same name.
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    return tmp_path


def test_the_notebook_runs(copy):
    notebook = nbformat.read(copy / NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(copy / NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=60, resources=where).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert all(cell.outputs for cell in cells), "a cell that says nothing"
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3


def test_the_notebook_is_committed_without_outputs():
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
