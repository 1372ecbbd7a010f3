"""The notebook runs on what ships, from top to bottom, in a kernel of this environment's Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.workbench import ROOT

NOTEBOOK = ROOT / "notebooks/quickstart.ipynb"


def test_the_notebook_ships_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert len(cells) > 8
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells)


@pytest.mark.slow
def test_the_notebook_draws_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "kernels/python3"
    place.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {"argv": argv, "display_name": "ldm", "language": "python"}
    (place / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    ask = "import json; print(json.dumps(psnr))"
    notebook.cells.append(nbformat.v4.new_code_cell(ask))
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    psnr = json.loads(notebook.cells[-1].outputs[0]["text"])
    # The copied photo has all still pixels right: a drawn scene is near the truth, noise has about 8 dB.
    assert len(psnr) == 5
    assert all(value > 15 for value in psnr.values()), psnr
    pictures = [
        out
        for cell in notebook.cells
        for out in cell.get("outputs", [])
        if "image/png" in out.get("data", {})
    ]
    assert len(pictures) == 3
