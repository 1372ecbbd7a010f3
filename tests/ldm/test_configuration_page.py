"""docs/configuration.md is what the typed settings say; the witness is what the configurations hold."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import pytest

from ldm.config.merge import fields_of, known_keys, section_of
from ldm.config.sections import GenerateConfig, TrainConfig
from tests.workbench import ROOT

PAGE = (ROOT / "docs/configuration.md").read_text()


@pytest.fixture(scope="module")
def writer() -> Any:
    spec = spec_from_file_location("configuration", ROOT / "docs/site/configuration.py")
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_page_is_as_the_settings_are(writer: Any) -> None:
    assert writer.page() == PAGE, "run: python docs/site/configuration.py"


def test_every_key_is_there() -> None:
    for kind in (TrainConfig, GenerateConfig):
        sections = {name for name, field in fields_of(kind).items() if section_of(field)}
        keys = [key for key in known_keys(kind) if key not in sections]
        assert len(keys) > 50
        rows = set(re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE))
        headings = set(re.findall(r"^### `([\w.]+)`$", PAGE, re.MULTILINE))
        assert set(keys) <= rows | headings


@pytest.mark.parametrize(
    "row",
    [
        "| `model.drop_each` | number | `0.05` | 0 to 1/3 | Share of samples without text",
        "| `trainer.precision` | choice | `auto` | `auto`, `32-true`, `bf16-mixed` |",
        "| `proxmasactrl.quantile` | number | `0.6` | at most 1 |",
        "| `data.frame_tars` | text | empty |  | read frames from what",
        "| `sampling.loras.path` | text | needed |  | a file, or a folder of peft |",
        "| `--model_name_or_path` | path | needed |  | checkpoint folder",
    ],
)
def test_rows(row: str) -> None:
    assert f"\n{row}" in PAGE


def test_every_setting_says_what_it_means() -> None:
    rows = re.findall(r"^\| `[\w.-]+` \|.*$", PAGE, re.MULTILINE)
    assert len(rows) > 150
    assert [row for row in rows if row.endswith("|  |")] == []
