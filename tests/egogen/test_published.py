"""Published files are found wherever they were put."""

from pathlib import Path, PurePosixPath

import pytest

from egogen.errors import UserError
from egogen.published import dataset_place, feature_place

ROOT = Path("root")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("EgoGen/ego4d.fho/train/c/0/x.jpg", "EgoGen/ego4d.fho/train/c/0/x.jpg"),
        ("a/b/EgoGen/epickitchen/val/c/0/x.jpg", "EgoGen/epickitchen/val/c/0/x.jpg"),
        ("ego4d.fho/val_gt_for_metric/c/0/x.jpg", "EgoGen/ego4d.fho/val_gt_for_metric/c/0/x.jpg"),
        ("ego4d_train.json", "EgoGen/ego4d_train.json"),
        ("EgoGen/epickitchen_metadata.json", "EgoGen/epickitchen_metadata.json"),
        ("metadata/ego4d_metadata.json", "EgoGen/ego4d_metadata.json"),
        (
            "ego4d_for_tuning_forecasting.json",
            "EgoGen/curation_from_gpt/ego4d_for_tuning_forecasting.json",
        ),
        ("EgoGen/ego4d.fho/notes.txt", None),
        ("EgoGen/ego4d.fho/test/c/0/x.jpg", None),
        ("__MACOSX/EgoGen/ego4d.fho/train/c/0/x.jpg", None),
        ("EgoGen/ego4d.fho/train/c/0/._x.jpg", None),
        ("README.md", None),
    ],
)
def test_the_data_set(name: str, place: str | None) -> None:
    assert dataset_place(ROOT, PurePosixPath(name)) == (ROOT / place if place else None)


@pytest.mark.parametrize(
    ("archive", "name", "place"),
    [
        ("ego4d/vllm_image_feature/run-split", "run/train/c/0/x.npy", "train/llava_image/c/0/x.npy"),
        ("ego4d/vllm_text_feature/run", "val/c/0/x.npy", "val/llava_text/c/0/x.npy"),
        ("all", "llava_text/val/c/0/x.npy", "val/llava_text/c/0/x.npy"),
        ("image_features", "text/train/c/train/x.npy", "train/llava_text/c/train/x.npy"),
        ("image/train", "c/0/x.npy", "train/llava_image/c/0/x.npy"),
        ("image", "val/textile_clip/0/x.npy", "val/llava_image/textile_clip/0/x.npy"),
    ],
)
def test_features(archive: str, name: str, place: str) -> None:
    assert feature_place(ROOT, "ego4d", archive, PurePosixPath(name)) == ROOT / "ego4d" / place


def test_features_that_tell_nothing() -> None:
    assert feature_place(ROOT, "ego4d", "image", PurePosixPath("train/notes.txt")) is None
    for archive, name in (("image", "c/0/x.npy"), ("x", "val/c/0/x.npy")):
        with pytest.raises(UserError, match="unpack it by hand to root/ego4d/SPLIT/llava_image"):
            feature_place(ROOT, "ego4d", archive, PurePosixPath(name))
