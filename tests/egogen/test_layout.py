"""Path rules: the official EgoGen layout, our feature files and the published ones."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egogen.annotations import Action, Item
from egogen.errors import UserError
from egogen.layout import (
    Layout,
    data_root,
    descriptions,
    feature_folders,
    feature_path,
    features_root,
    find_feature,
    find_text_feature,
    generated_path,
    merged_annotations,
    metric_target_path,
    published_feature_name,
    run_features,
    run_root,
    sample_index,
    tar_folder,
    tuned_vllm,
    weights_root,
)
from egogen.text_names import TextNames

ROOT = Path("root")


def test_the_official_layout() -> None:
    ego4d, epic = Layout(ROOT, "ego4d"), Layout(ROOT, "epickitchen")
    assert ego4d.frames("train") == Path("root/EgoGen/ego4d.fho/train")
    assert epic.frames("val") == Path("root/EgoGen/epickitchen/val")
    assert ego4d.metric_targets == Path("root/EgoGen/ego4d.fho/val_gt_for_metric")
    assert epic.annotations("val") == Path("root/EgoGen/epickitchen_val.json")
    assert ego4d.metadata == Path("root/EgoGen/ego4d_metadata.json")
    assert ego4d.conversations == Path("root/EgoGen/curation_from_gpt/ego4d_for_tuning_forecasting.json")
    assert features_root(ROOT, "ego4d", "val", "llava_text") == Path("root/ego4d/val/llava_text")


def test_files_of_a_pair() -> None:
    layout = Layout(ROOT, "epickitchen")
    first, second = "P01/0/frame_1.jpg", "P01/0/frame_2.jpg"
    frames = [layout.frames("train") / name for name in (first, second)]
    assert layout.pair_files("train", first, second) == frames
    assert layout.pair_files("val", first, second) == [
        layout.frames("val") / first,
        layout.frames("val") / second,
        layout.metric_targets / second,
    ]


def test_what_stage_1_leaves_for_stage_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ROOT", "/r")
    assert tuned_vllm("ego4d") == Path("/r/ego4d/vllm")
    assert descriptions("ego4d", "val") == Path("/r/ego4d/descriptions/val")
    assert merged_annotations("ego4d", "val") == Path("/r/annotations/ego4d_val.json")
    assert run_features() == Path("/r/features")
    assert tar_folder(Path("t"), "ego4d", "val") == Path("t/ego4d/val")
    assert sample_index(Path("w"), "ego4d", "val") == Path("w/ego4d-val.index.json")


@pytest.mark.parametrize(
    ("root", "found"),
    [
        ("", ["ego4d/val/llava_image", "ego4d/val/llava_text"]),
        ("ego4d", ["val/llava_image", "val/llava_text"]),
        ("ego4d/val", ["llava_image", "llava_text"]),
        ("ego4d/val/llava_text", ["."]),
    ],
)
def test_folders_of_features_are_found_from_each_level(tmp_path: Path, root: str, found: list[str]) -> None:
    for kind in ("llava_image", "llava_text"):
        (tmp_path / "ego4d/val" / kind).mkdir(parents=True)
    (tmp_path / "ego4d/llava_text").touch()
    assert [str(path) for path, _ in feature_folders(tmp_path / root)] == found
    assert all(kind in str(tmp_path / root / path) for path, kind in feature_folders(tmp_path / root))


def test_other_data_sets_are_refused() -> None:
    with pytest.raises(UserError, match=r"'ego4d.fho': allowed are ego4d, epickitchen"):
        Layout(ROOT, "ego4d.fho")


@pytest.mark.parametrize(
    ("name", "root", "default"),
    [
        ("DATA_ROOT", data_root, "data"),
        ("RUN_ROOT", run_root, "runs"),
        ("WEIGHTS_ROOT", weights_root, "weights"),
    ],
)
def test_roots_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, root: object, default: str
) -> None:
    assert callable(root)
    monkeypatch.delenv(name, raising=False)
    assert root() == Path(default)
    monkeypatch.setenv(name, "")
    assert root() == Path(default)
    monkeypatch.setenv(name, "/big disk/x")
    assert root() == Path("/big disk/x")


@pytest.mark.parametrize(
    ("image", "ours", "published"),
    [
        ("a/b/x.jpg", "a/b/x.npy", "a/b/x.npy"),
        ("v3_jpg/1/x.jpg", "v3_jpg/1/x.npy", "v3_npy/1/x.npy"),
        ("a/x.jpg.jpg", "a/x.jpg.npy", "a/x.npy.npy"),
        ("a/x.png", "a/x.npy", "a/x.png.npy"),
        ("a/x.JPG", "a/x.npy", "a/x.JPG.npy"),
        ("a.b/x", "a.b/x.npy", "a.b/x.npy"),
        ("jpg/x.png", "jpg/x.npy", "npy/x.png.npy"),
    ],
)
def test_feature_paths(image: str, ours: str, published: str) -> None:
    assert feature_path(ROOT, image) == ROOT / ours
    assert published_feature_name(image) == published


def test_published_features_are_found_but_ours_come_first(tmp_path: Path) -> None:
    image = "v3_jpg/1/x.jpg"
    ours, published = feature_path(tmp_path, image), tmp_path / published_feature_name(image)
    assert find_feature(tmp_path, image) == ours  # the path that an error should name
    published.parent.mkdir(parents=True)
    published.touch()
    assert find_feature(tmp_path, image) == published
    ours.parent.mkdir(parents=True)
    ours.touch()
    assert find_feature(tmp_path, image) == ours


@given(parts=st.lists(st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True), min_size=1, max_size=5))
def test_outputs_reuse_the_last_three_parts(parts: list[str]) -> None:
    image = "/".join(parts) + ".jpg"
    last = "/".join(image.split("/")[-3:])
    assert generated_path(ROOT, image) == ROOT / "images" / last
    assert metric_target_path(ROOT, image) == ROOT / last


def item(clip: str, action_id: str, frame: str) -> Item:
    return Item(clip, action_id, Action({"image_0": frame, "image_1": "t.jpg", "action": "#C C walks"}))


def test_actions_of_one_frame_have_a_text_feature_each(tmp_path: Path) -> None:
    items = [item("a", "0", "a/x.jpg"), item("a", "1/2", "a/x.jpg"), item("b", "0", "a/x.png")]
    names = TextNames(items, lambda action: action.image_0)
    found = [names.of(each) for each in items]
    assert found == ["a/x.jpg", "a/x.a.1%2F2.jpg", "a/x.b.0.png"]
    files = [feature_path(tmp_path, name) for name in found]
    assert len(set(files)) == 3
    # Published features have the first action's alone.
    files[0].parent.mkdir()
    files[0].touch()
    assert find_text_feature(tmp_path, "a/x.a.1%2F2.jpg", "a/x.jpg") == files[0]
    files[1].touch()
    assert find_text_feature(tmp_path, "a/x.a.1%2F2.jpg", "a/x.jpg") == files[1]
    assert find_text_feature(tmp_path, "c/y.c.1.jpg", "c/y.jpg") == tmp_path / "c/y.c.1.npy"
