"""Pairing: every fault of a folder or an image is one named error."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from egogen import stored_items
from egogen.annotations import Annotations
from egogen.errors import UserError
from egogen.shards import WHOLE, Shard
from ldm.metrics.evaluation import pair_runs
from ldm.metrics.frames import frame_pairs
from ldm.metrics.frames.frame_names import FrameNames
from ldm.metrics.frames.frame_pairs import SIDES, Pairs, frames_folder, read_pairs, run_folder
from ldm.metrics.frames.images import Header, Size, check_image, read_image, read_pixels
from ldm.metrics.frames.protocol import size_tolerance
from ldm.metrics.metric import MetricSetting
from ldm.metrics.metric_names import PROTOCOLS, choice


def pairs_of(scene, tolerance: int = 0, gen_path: Path | None = None) -> Pairs:  # noqa: ANN001
    return read_pairs(Annotations.read(scene.annotations), gen_path or scene.run, scene.targets, tolerance)


def test_pairs_follow_the_annotations(scene) -> None:  # noqa: ANN001
    pairs = pairs_of(scene)
    assert [pair.frame for pair in pairs.pairs] == [f"clip{index}/act/000002.jpg" for index in range(4)]
    assert pairs.formats == ["JPEG"]
    assert pairs.pairs[0].sizes == ((18, 32), (18, 32))


def test_the_folder_of_images_is_accepted_as_published(scene) -> None:  # noqa: ANN001
    images = scene.run / "images"
    assert pairs_of(scene, gen_path=images).sha256 == pairs_of(scene).sha256
    assert run_folder(images) == run_folder(scene.run) == scene.run
    renamed = images.rename(scene.run / "frames")
    assert frames_folder(renamed) == renamed
    assert run_folder(renamed) == scene.run
    assert len(pairs_of(scene, gen_path=renamed)) == 4


def test_batches_hold_equal_sizes_and_every_pair(scene, noise) -> None:  # noqa: ANN001
    noise(scene.generated(1), 1, size=(24, 18))
    noise(scene.targets / "clip1/act/000002.jpg", 1, size=(24, 18))
    batches = list(pairs_of(scene).batches(2, torch.device("cpu")))
    assert [len(batch.pairs) for batch in batches] == [2, 1, 1]
    assert {tuple(batch.generated.shape[-2:]) for batch in batches} == {(18, 32), (18, 24)}
    assert all(batch.generated.min() >= 0 and batch.generated.max() <= 1 for batch in batches)


def test_the_digest_sees_every_file(scene, noise) -> None:  # noqa: ANN001
    before = pairs_of(scene).sha256
    noise(scene.generated(2), 99)
    assert pairs_of(scene).sha256 != before


def digest(*lines: str) -> str:
    """SHA-256 of lines in order."""
    return hashlib.sha256("".join(f"{line}\0" for line in sorted(lines)).encode()).hexdigest()


def test_digests_cover_names_contents_and_texts(scene) -> None:  # noqa: ANN001
    pairs = pairs_of(scene)
    names = [f"clip{index}/act/000002.jpg" for index in range(4)]
    drawn, targets = (
        [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
        for folder in (scene.run / "images", scene.targets)
    )
    assert pairs.names_sha256 == digest(f"{scene.targets}", *names)
    assert pairs.digests == {
        "images_sha256": digest(*map("\0".join, zip(names, drawn, targets, strict=True))),
        "targets_sha256": digest(*map("\0".join, zip(names, targets, strict=True))),
    }
    texts = [f"{name}\0The right hand holds cup {index}." for index, name in enumerate(names)]
    assert pairs.texts_sha256("llava_forecast_finetune") == digest(*texts)
    (batch,) = pairs.batches(4, torch.device("cpu"))
    assert [batch.hashes(side) for side in SIDES] == [drawn, targets]
    for side, folder in zip(SIDES, (scene.run / "images", scene.targets), strict=True):
        expected = torch.stack([read_image(folder / name) for name in names])
        assert torch.equal(batch.images(side), expected)
        assert torch.equal(getattr(batch, side), expected)


def test_hidden_files_are_ignored(scene) -> None:  # noqa: ANN001
    (scene.run / "images" / ".DS_Store").write_bytes(b"x")
    assert len(pairs_of(scene)) == 4


def test_a_clip_may_be_named_as_if_hidden(scene) -> None:  # noqa: ANN001
    scene.annotations.write_text(scene.annotations.read_text().replace("clip0", ".clip0"))
    for folder in (scene.run / "images", scene.targets):
        (folder / "clip0").rename(folder / ".clip0")
    drawn = scene.run / "images" / ".clip0" / "act" / "000002.jpg"
    drawn.rename(drawn.with_suffix(".png"))  # in another format
    assert pairs_of(scene).pairs[0].frame == ".clip0/act/000002.jpg"


def test_folders_of_links_are_what_they_lead_to(scene) -> None:  # noqa: ANN001
    before = pairs_of(scene).sha256
    for folder in (scene.run / "images", scene.targets):
        disk = folder.rename(folder.with_name(f"disk of {folder.name}"))
        folder.mkdir()
        for clip in disk.iterdir():
            (folder / clip.name).symlink_to(clip)
    assert pairs_of(scene).sha256 == before
    (scene.targets / "clip1").unlink()
    (scene.targets / "clip1").symlink_to("gone")
    with pytest.raises(UserError, match="clip1: is a link to gone, which is not there"):
        pairs_of(scene)


def test_missing_and_extra_files_are_counted_and_listed(scene, noise) -> None:  # noqa: ANN001
    scene.generated(3).unlink()
    for index in range(12):
        noise(scene.run / f"images/other/act/{index:03}.jpg", index)
    with pytest.raises(UserError) as error:
        pairs_of(scene)
    message = str(error.value)
    assert (
        f"{scene.run}/images: of 4 generated frames, 1 missing (clip3/act/000002.jpg) and 12 extra" in message
    )
    assert "other/act/009.jpg, ...)" in message
    assert "other/act/010.jpg" not in message


def test_faults_of_a_folder_in_full(scene, noise, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    """What makes missing frames is named where some are missing."""
    monkeypatch.setattr(frame_pairs, "hint", lambda folder: f"; make {folder.name}")
    folder = scene.run / "images"

    def told() -> str:
        with pytest.raises(UserError) as error:
            pairs_of(scene)
        return str(error.value)

    others = [f"other/act/{index:03}.jpg" for index in range(10)]
    for index, name in enumerate(others):
        noise(folder / name, index)
    expected = "expected exactly those of the annotation file"
    start = f"{folder}: of 4 generated frames, "
    assert told() == f"{start}10 extra ({', '.join(others)}); {expected}"
    for index in (1, 2):
        scene.generated(index).unlink()
    missing = "2 missing (clip1/act/000002.jpg, clip2/act/000002.jpg)"
    assert told() == f"{start}{missing} and 10 extra ({', '.join(others)}); {expected}; make images"
    for index in (0, 3):
        shutil.copy(scene.generated(index), scene.generated(index).with_suffix(".png"))
    assert told() == (
        f"{folder}: clip0/act/000002.jpg and clip0/act/000002.png are one frame, as are 2 such pairs; remove "
        "those of one format"
    )
    shutil.rmtree(folder)
    folder.mkdir()
    assert told() == f"{folder}: the folder is empty; expected 4 generated frames; make images"
    shutil.rmtree(scene.targets)
    with pytest.raises(UserError) as error:
        frame_pairs.find_files(scene.targets, FrameNames([]), "target frames")
    assert str(error.value) == (
        f"{scene.targets}: no such folder; target frames are expected there as clip/action/frame; make "
        "val_gt_for_metric"
    )


def test_sizes_are_the_same_unless_a_pixel_is_forgiven(scene) -> None:  # noqa: ANN001
    Image.new("RGB", (31, 18)).save(scene.generated())
    with pytest.raises(UserError) as error:
        read_pairs(Annotations.read(scene.annotations), scene.run, scene.targets)
    told = f"{scene.generated()}: the frame is {{}}x18 pixels, its target 32x18; expected the same size"
    assert str(error.value) == told.format(31)
    Image.new("RGB", (30, 18)).save(scene.generated())
    with pytest.raises(UserError) as error:
        pairs_of(scene, 1)
    assert str(error.value) == f"{told.format(30)} (give or take 1 pixel)"


def test_targets_are_checked_alike(scene) -> None:  # noqa: ANN001
    (scene.targets / "clip0/act/000002.jpg").unlink()
    with pytest.raises(UserError, match=r"of 4 target frames, 1 missing \(clip0/act/000002\.jpg\)"):
        pairs_of(scene)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda s: shutil.rmtree(s.run), "run: no such folder"),
        (lambda s: (shutil.rmtree(s.run), s.run.mkdir()), "run: the folder is empty; expected 4"),
        (lambda s: (shutil.rmtree(s.run), (s.run / "images").mkdir(parents=True)), "images: the folder is e"),
        (lambda s: s.generated().write_bytes(s.generated().read_bytes()[:-300]), "not a whole image"),
        (lambda s: s.generated().write_bytes(b""), "not a whole image"),
        (lambda s: s.generated().write_text("no picture"), "not a whole image"),
        (lambda s: Image.new("L", (32, 18)).save(s.generated()), "a L image of JPEG format, expected RGB"),
        (lambda s: Image.new("RGB", (31, 18)).save(s.generated()), "31x18 pixels, its target 32x18"),
    ],
)  # fmt: skip
def test_broken_folders_and_images(scene, break_it, message: str) -> None:  # noqa: ANN001
    break_it(scene)
    with pytest.raises(UserError, match=message):
        pairs_of(scene)


def test_a_grey_png_is_refused(scene) -> None:  # noqa: ANN001
    raw = json.loads(scene.annotations.read_text().replace("000002.jpg", "000002.png"))
    scene.annotations.write_text(json.dumps(raw))
    for index in range(4):
        for folder, mode in ((scene.run / "images", "L"), (scene.targets, "RGB")):
            (folder / f"clip{index}/act/000002.jpg").unlink()
            Image.new(mode, (32, 18)).save(folder / f"clip{index}/act/000002.png")
    with pytest.raises(UserError, match=r"000002\.png: a L image of PNG format, expected RGB"):
        pairs_of(scene)


def test_a_truncated_png_is_refused(scene) -> None:  # noqa: ANN001
    Image.effect_noise((32, 18), 90).convert("RGB").save(scene.generated(), format="PNG")
    scene.generated().write_bytes(scene.generated().read_bytes()[:-400])
    with pytest.raises(UserError, match="not a whole image"):
        pairs_of(scene)


def test_frames_drawn_as_png_are_paired_by_the_same_rule(scene) -> None:  # noqa: ANN001
    for index in range(4):
        path = scene.generated(index)
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    assert [pair.generated.name for pair in pairs_of(scene).pairs] == ["000002.png"] * 4
    assert [pair.frame for pair in pairs_of(scene).pairs] == [
        f"clip{index}/act/000002.jpg" for index in range(4)
    ]
    Image.new("RGB", (32, 18)).save(scene.generated())
    with pytest.raises(
        UserError, match=r"clip0/act/000002\.jpg and .*000002\.png are one frame, .* 1 such pair"
    ):
        pairs_of(scene)


def test_two_targets_may_differ_in_their_suffix_alone(scene) -> None:  # noqa: ANN001
    clips = json.loads(scene.annotations.read_text())
    (action,) = clips["clip0"].values()
    clips["clip0"]["more"] = {**action, "image_1": action["image_1"].replace(".jpg", ".png")}
    scene.annotations.write_text(json.dumps(clips))
    for folder in (scene.run / "images", scene.targets):
        Image.new("RGB", (32, 18)).save(folder / "clip0/act/000002.png")
    assert len(pairs_of(scene)) == 5


def test_targets_are_read_upright(scene) -> None:  # noqa: ANN001
    exif = Image.Exif()
    exif[0x112] = 6
    path = scene.targets / "clip0/act/000002.jpg"
    upright = Image.open(path).convert("RGB")
    upright.transpose(Image.Transpose.ROTATE_90).save(path, "PNG", exif=exif)
    (pair, *_) = pairs_of(scene).pairs
    assert pair.sizes[1] == Size(18, 32)
    assert np.array_equal(read_pixels(path).permute(1, 2, 0).numpy(), np.asarray(upright))


def test_one_pixel_is_forgiven_on_epickitchen_alone(scene) -> None:  # noqa: ANN001
    Image.new("RGB", (31, 18)).save(scene.generated())
    assert len(pairs_of(scene, size_tolerance("published", "epickitchen"))) == 4
    for protocol, dataset in (("published", "ego4d"), ("corrected", "epickitchen")):
        with pytest.raises(UserError, match="expected the same size"):
            pairs_of(scene, size_tolerance(protocol, dataset))
    Image.new("RGB", (30, 18)).save(scene.generated())
    with pytest.raises(UserError, match="give or take 1 pixel"):
        pairs_of(scene, size_tolerance("published", "epickitchen"))


def test_an_image_that_breaks_later_is_named(scene) -> None:  # noqa: ANN001
    batches = pairs_of(scene).batches(4, torch.device("cpu"))
    scene.generated(2).write_bytes(scene.generated(2).read_bytes()[:-300])
    (batch,) = batches
    with pytest.raises(UserError, match=r"clip2/act/000002\.jpg: not a whole image"):
        batch.generated  # noqa: B018 - decoded when it is asked for


def test_two_actions_may_not_share_a_target(scene) -> None:  # noqa: ANN001
    raw = json.loads(scene.annotations.read_text())
    raw["clip0"]["twin"] = raw["clip0"]["act"]
    scene.annotations.write_text(json.dumps(raw))
    with pytest.raises(UserError, match="clip0/act and clip0/twin share the target frame"):
        pairs_of(scene)


def test_no_actions(scene) -> None:  # noqa: ANN001
    scene.annotations.write_text("{}")
    with pytest.raises(UserError, match="holds no action"):
        pairs_of(scene)


def test_unknown_protocol() -> None:
    with pytest.raises(UserError, match="protocol 'loose': allowed are published, corrected"):
        choice("protocol", "loose", PROTOCOLS)


def test_tiny_frames_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (5, 20)).save(tmp_path / "tiny.jpg")
    assert check_image(tmp_path / "tiny.jpg").size == (20, 5)


def test_actions_that_stay_in_their_file_are_paired_alike(scene) -> None:  # noqa: ANN001
    """Whole and by shards, whatever the order of the clips."""
    clips = json.loads(scene.annotations.read_text())
    scene.annotations.write_text(json.dumps(dict(sorted(clips.items(), reverse=True))))

    def seen(shard: Shard) -> tuple[object, ...]:
        pairs = read_pairs(Annotations.read(scene.annotations), scene.run, scene.targets, shard=shard)
        batches = [batch.pairs for batch in pairs.batches(2, torch.device("cpu"))]
        return [*pairs.pairs], batches, pairs.digests, pairs.texts_sha256("action"), pairs.names_sha256

    for shard in (WHOLE, Shard(1, 3), Shard(2, 3), Shard(5, 5)):
        listed = seen(shard)
        with mock.patch.object(stored_items, "LARGE", -1):
            assert seen(shard) == listed
    frames = [pair.frame for pair in pairs_of(scene).pairs]
    assert frames == [f"clip{index}/act/000002.jpg" for index in (3, 2, 1, 0)]
    assert [pair.frame for pair in seen(Shard(1, 3))[0]] == frames[::3]  # type: ignore[attr-defined]


def test_targets_of_several_runs_are_read_once(scene, noise, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    for index in range(4):
        noise(scene.root / f"other/images/clip{index}/act/000002.jpg", 50 + index)
    alone = [pairs_of(scene, gen_path=run) for run in (scene.run, scene.root / "other")]
    read: list[Path] = []
    check = frame_pairs.check_image

    def noted(path: Path) -> Header:
        read.append(path)
        return check(path)

    monkeypatch.setattr(frame_pairs, "check_image", noted)
    runs = [scene.run, scene.root / "other"]
    both = pair_runs(MetricSetting("ego4d"), runs, scene.targets, scene.annotations)
    assert [[*pairs.pairs] for pairs in both] == [[*pairs.pairs] for pairs in alone]
    assert [pairs.digests for pairs in both] == [pairs.digests for pairs in alone]
    assert len(read) == len(set(read)) == 12
    noise(scene.root / "other/images/clip2/act/000002.jpg", 5, size=(31, 18))
    with pytest.raises(
        UserError, match=r"other/.*clip2/act/000002\.jpg: the frame is 31x18 pixels, its targ"
    ):
        pair_runs(MetricSetting("ego4d"), runs, scene.targets, scene.annotations)
