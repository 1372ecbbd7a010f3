"""A missing file is named with the command that makes it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from egogen import hints
from egogen.annotations import Annotations
from egogen.download.catalogue import CATALOGUE
from egogen.errors import UserError
from egogen.features import NpyFiles
from egogen.features.store import check_form
from egogen.frames import FolderFrames
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
        run_features() / dataset / "train" / "llava_text" / "a" / "0" / "x.npy": described,
        Layout(tmp_path / "DATA_ROOT", dataset).frames("val")
        / "a"
        / "0"
        / "x.jpg": "download_dataset.sh, or",
        Layout(tmp_path / "DATA_ROOT", dataset).metric_targets / "a" / "0" / "x.jpg": "egogen.validate --fix",
        tmp_path / "RUN_ROOT" / "samples" / "run" / "images" / "a" / "0" / "x.jpg": "python -m ldm.sample",
        # Elsewhere, by the names of folders.
        Layout(tmp_path / "mine", dataset).frames("val") / "a" / "0" / "x.jpg": "python -m egogen.prepare",
        Layout(tmp_path / "mine", dataset).metric_targets / "x.jpg": "python -m egogen.validate --fix",
        tmp_path / "mine" / dataset / "val" / "llava_image" / "x.npy": "python -m llava.describe",
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


def test_who_opens_a_file_that_is_missing_says_so(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "DATA_ROOT", "ego4d")
    features = run_features() / "ego4d" / "val" / "llava_text"
    by_data = r"; make it by bash scripts/download_dataset\.sh"
    by_describe = r"; make it by bash scripts/describe_ego4d\.sh val"
    missing: list[tuple[str, Callable[[], object]]] = [
        (rf"x\.jpg: no such frame{by_data}", lambda: FolderFrames(layout.frames("val")).read("a/0/x.jpg")),
        (rf"ego4d_val\.json: no such file{by_data}", lambda: Annotations.read(layout.annotations("val"))),
        (rf"x\.npy: no such feature file{by_describe}", lambda: NpyFiles(features).read("a/0/x.npy")),
        (rf"no such folder of features{by_describe}", lambda: check_form(features, "shards")),
        (r"x\.npy: no such feature file; run the describe step", lambda: NpyFiles(tmp_path).read("x.npy")),
    ]
    for told, read in missing:
        with pytest.raises(UserError, match=told):
            read()


def test_a_user_s_own_file_has_no_command(tmp_path: Path) -> None:
    assert hint(tmp_path / "mine.json") == ""
    assert require(tmp_path) == tmp_path


def test_a_link_to_nothing_says_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").symlink_to("gone/y.jpg")
    assert hint(tmp_path / "x.jpg") == "; it is a link to gone/y.jpg, which is not there"
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(UserError, match=r"x\.jpg: no such frame; it is a link to gone/y\.jpg"):
        FolderFrames(tmp_path).read("x.jpg")


def test_a_name_in_another_unicode_form_is_told(tmp_path: Path) -> None:
    """macOS and its archives take letters and accents apart, annotations seldom do."""
    there, asked = tmp_path / "cafe\u0301", tmp_path / "caf\xe9/0/x.jpg"
    there.mkdir()
    told = f"; {there} is there, which looks alike, but its accents are written otherwise (Unicode)"
    assert hint(asked) == told
    assert hint(there / "0/x.jpg") == ""
