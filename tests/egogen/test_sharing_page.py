"""docs/sharing.md: its example of `datasets` runs on what its command exports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from egogen.prepare.__main__ import main

PAGE = Path(__file__).parents[2] / "docs" / "sharing.md"


def test_its_example_of_datasets_runs(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(world)
    text = PAGE.read_text()
    (command,) = re.findall(r"python -m egogen\.prepare (to-parquet .*)", text)
    main(command.split())
    (code,) = (
        found for found in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "load_dataset" in found
    )
    exec(code, {})
    rows, *_, last = capsys.readouterr().out.splitlines()[-2:]
    assert rows.startswith("3 {'input_image': Image(")
    assert last.startswith("#C C ")
    assert last.endswith("(71, 40)")
