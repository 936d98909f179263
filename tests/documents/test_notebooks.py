"""Every notebook runs whole, on the first backend of a test run: their cells are slow ones."""

import pytest
from blocks import ROOT, need_presets

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What nbclient and its friends warn of is not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.once
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs_whole(path, monkeypatch):
    need_presets(path.read_text(encoding="utf-8"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    errors = [o["text"] for o in outputs if o.get("name") == "stderr" and "Error" in o["text"]]
    assert not errors


@pytest.mark.once
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_opens_in_colab(path):
    cells = nbformat.read(path, as_version=4).cells
    assert f"blob/main/notebooks/{path.name}" in cells[0].source
    assert "colab-badge.svg" in cells[0].source
