"""Path rules: the official EgoGen layout, our feature files and the published ones."""

from itertools import product
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egogen.annotations import Action, Item
from egogen.errors import UserError, shorten
from egogen.layout import (
    Layout,
    clip_folder,
    data_root,
    descriptions,
    expanded,
    feature_folders,
    feature_path,
    features_root,
    find_feature,
    find_frame,
    find_text_feature,
    frame_tar,
    frame_tars,
    generated_name,
    generated_names,
    generated_path,
    image_name,
    is_plain,
    is_possible,
    merged_annotations,
    metric_target_path,
    normal,
    projector_path,
    published_feature_name,
    run_features,
    run_root,
    sample_index,
    shard_path,
    shard_paths,
    tar_folder,
    tar_index,
    tuned_vllm,
    weights_root,
    without_suffix,
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


def test_what_lies_beside_the_frames() -> None:
    layout = Layout(ROOT, "epickitchen")
    assert layout.metric_extras == Path("root/EgoGen/epickitchen/val_gt_for_metric.extra")
    assert layout.preparation == Path("root/EgoGen/prepare")
    assert projector_path(Path("f")) == Path("f/projector.safetensors")
    assert clip_folder(Path("f")) == Path("f/clip")


def test_frames_sort_by_name_as_by_number() -> None:
    assert image_name("P01", "3", 12) == "P01/3/frame_0000000012.jpg"
    numbers = [2, 10, 1_000_000_000]
    assert sorted(image_name("P01", "3", number) for number in numbers) == [
        image_name("P01", "3", number) for number in numbers
    ]


def test_home_is_expanded_and_unknown_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/x") == expanded(Path("~/x")) == Path("/home/me/x")
    with pytest.raises(UserError, match=r"^~nobody_here/x: there is no such home folder; write the whole"):
        expanded("~nobody_here/x")


@pytest.mark.parametrize(
    ("path", "possible"),
    [
        ("", True),
        ("n" * 255, True),
        ("n" * 256, False),
        ("a/" + "\u00fc" * 127 + "/b", True),
        ("a/" + "\u00fc" * 128 + "/b", False),  # two bytes each
        ("\udcff" * 255, True),  # a byte that is no character
        ("/".join(["n" * 255] * 16), True),  # 4,095 bytes
        ("/".join(["n" * 255] * 15 + ["n" * 127, "n" * 128]), False),
        ("a\0b", False),
    ],
)
def test_names_that_linux_cannot_have_are_refused(path: str, possible: bool) -> None:
    assert is_possible(Path(path)) is possible
    if possible:
        assert expanded(path) == Path(path)
        return
    with pytest.raises(UserError) as told:
        expanded(path)
    assert str(told.value) == (
        f"{shorten(path)}: no file can be called that; a name has at most 255 bytes, a path 4095, "
        "none of them zero"
    )


def test_paths_as_texts_are_what_pathlib_makes_of_them() -> None:
    """Witness: `PurePosixPath`, for all short texts of a letter, dots and slashes."""
    for length in range(1, 7):
        for letters in product("a./", repeat=length):
            path = "".join(letters)
            made = PurePosixPath(path)
            assert normal(path) == str(made)
            if made.name:
                assert without_suffix(path) == str(made.with_suffix(""))


def test_paths_that_are_texts_already_are_told() -> None:
    assert all(map(is_plain, ("x", "a/b.jpg", "v3_jpg/1/x.y.jpg", "a..b/c")))
    assert not any(map(is_plain, ("", "/a", "a/", "a//b", "a/./b", ".a", "a/.b", "a.", "..")))


def test_a_frame_is_found_in_the_format_that_it_was_drawn_in(tmp_path: Path) -> None:
    assert generated_names("a/b.jpg") == ["a/b.jpg", "a/b.png"]
    assert generated_names("a/b.png") == ["a/b.png"]
    assert generated_name("a/b.bmp", "jpg") == "a/b.bmp"  # as published
    assert generated_path(ROOT, "s/a/b/c.jpg", "png") == Path("root/images/a/b/c.png")
    own, drawn = tmp_path / "b.jpg", tmp_path / "b.png"
    assert find_frame(tmp_path, "b.jpg") == own  # the path that an error should name
    drawn.touch()
    assert find_frame(tmp_path, "b.jpg") == drawn
    own.touch()
    assert find_frame(tmp_path, "b.jpg") == own


def test_files_of_many_are_found_in_order(tmp_path: Path) -> None:
    assert frame_tar(tmp_path, "", 3).name == "frames-all-00003.tar"
    assert frame_tar(tmp_path, "2_of_3", 12).name == "frames-2_of_3-00012.tar"
    assert tar_index(Path("a/frames-all-00003.tar")) == Path("a/frames-all-00003.index.json")
    tars = [frame_tar(tmp_path, "2_of_3", 1), frame_tar(tmp_path, "all", 0), frame_tar(tmp_path, "all", 10)]
    shards = [shard_path(tmp_path, "val", number) for number in (0, 2, 10)]
    assert [path.name for path in shards] == [f"val-000{number}.safetensors" for number in ("00", "02", "10")]
    strangers = ["frames-all-3.tar", "x-frames-all-00003.tar", "val-3.safetensors", "._val-00003.safetensors"]
    for path in (*reversed(tars), *reversed(shards), *(tmp_path / name for name in strangers)):
        path.touch()
    assert frame_tars(tmp_path) == tars
    assert shard_paths(tmp_path) == shards
