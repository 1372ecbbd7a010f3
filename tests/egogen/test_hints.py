"""A missing file is named with the command that makes it."""

from pathlib import Path

import pytest

from egogen import hints
from egogen.download.catalogue import CATALOGUE
from egogen.errors import UserError
from egogen.hints import hint, require
from egogen.layout import FOLDERS, Layout, merged_annotations, run_features, tuned_vllm


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA_ROOT", "RUN_ROOT", "WEIGHTS_ROOT"):
        monkeypatch.setenv(name, str(tmp_path / name))


def test_names_of_published_weights_are_the_catalogue_s() -> None:
    sources = {source.folder.split("/")[0]: name for name, source in CATALOGUE["weights"].sources.items()}
    assert sources == hints.WEIGHTS


@pytest.mark.parametrize("dataset", list(FOLDERS))
def test_each_step_is_named_by_what_it_makes(tmp_path: Path, dataset: str) -> None:
    described = f"bash scripts/describe_{dataset}.sh train"
    made = {
        tmp_path
        / "DATA_ROOT"
        / "EgoGen"
        / "x": "bash scripts/download_dataset.sh, or python -m egogen.prepare",
        Layout(tmp_path / "DATA_ROOT", dataset).annotations(
            "val"
        ): "bash scripts/download_dataset.sh, or python",
        merged_annotations(dataset, "train"): described,
        run_features()
        / dataset
        / "train"
        / "llava_image": f"{described}, or bash scripts/download_features.sh",
        tuned_vllm(dataset) / "config.json": f"bash scripts/finetune_{dataset}.sh",
        tmp_path
        / "WEIGHTS_ROOT"
        / "SD1.5-pretrained"
        / "x.ckpt": "bash scripts/download_weights.sh --what sd15",
        tmp_path / "WEIGHTS_ROOT" / "other" / "x.ckpt": "bash scripts/download_weights.sh",
        tmp_path / "RUN_ROOT" / "toy" / "start" / "sd.ckpt": "bash scripts/demo.sh",
        tmp_path / "logs" / "train_ego4d_x" / "checkpoints" / "last.ckpt": "python main.py --train",
    }
    for path, command in made.items():
        with pytest.raises(UserError, match=r"no such file or folder; make it by") as caught:
            require(path)
        assert command in str(caught.value)


def test_a_user_s_own_file_has_no_command(tmp_path: Path) -> None:
    assert hint(tmp_path / "mine.json") == ""
    assert require(tmp_path) == tmp_path
