"""The notebook of docs/ runs from beginning to end, and is stored without what it prints."""

import pytest

from .pages import ROOT

NOTEBOOK = ROOT / "docs" / "second_day.ipynb"


@pytest.mark.scenario
def test_the_notebook_runs(tmp_path):
    """Each cell; those that hold the model against a loop by hand and its file against the model end with an assert."""
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs: pip install -e '.[docs]'")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra docs: pip install -e '.[docs]'")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output for output in outputs if output.output_type in ("display_data", "execute_result")]
    assert sum("image/png" in output.data for output in shown) == 3
    assert sum("text/html" in output.data and "<table" in output.data["text/html"] for output in shown) == 1
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "largest difference of a probability" in said and "accuracy" in said
    errors = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert errors == []


def test_the_notebook_is_stored_without_outputs():
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs: pip install -e '.[docs]'")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and all(cell.outputs == [] and cell.execution_count is None for cell in cells)
