"""The card of exported data: its head as the hub's own library reads it, counts, and an example that runs.

Witnesses: `huggingface_hub`'s card, `datasets` and `webdataset` as the card's example uses them, and the toy
world's own annotations.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from egogen.annotations import Annotations
from egogen.layout import Layout
from egogen.prepare.__main__ import main

SUBSETS = ("ego4d", "epickitchen")


@pytest.fixture(scope="module", params=["to-parquet", "to-webdataset"])
def exported(request: pytest.FixtureRequest, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    for dataset in SUBSETS:
        for split in ("train", "val"):
            flags = ["--dataset", dataset, "--split", split, "--samples-per-shard", "2", "--out", str(out)]
            main([request.param, str(world), *flags])
    return out


def test_its_head_and_its_counts(exported: Path, world: Path) -> None:
    card = DatasetCard.load(exported / "README.md")
    assert card.data.license == "other"
    assert card.data.size_categories == ["n<1K"]
    assert [each["config_name"] for each in card.data.configs] == list(SUBSETS)
    for dataset in SUBSETS:
        for split in ("train", "val"):
            items = Annotations.read(Layout(world, dataset).annotations(split)).items  # type: ignore[arg-type]
            frames = {name for item in items for name in (item.action.image_0, item.action.image_1)}
            counts = len(items), len({item.clip for item in items}), len(frames)
            assert f"| {dataset} | {split} | {' | '.join(map(str, counts))} |" in card.text
    infos = getattr(card.data, "dataset_info", None)
    if infos is not None:
        assert [split["num_examples"] for split in infos[0]["splits"]] == [5, 3]
        assert [each["dtype"] for each in infos[0]["features"]].count("image") == 2


def test_its_example_runs(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("webdataset")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (code,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    exec(code.replace("path/to/this/folder", str(exported)), {})
    assert capsys.readouterr().out.endswith("(71, 40) (71, 40)\n")
