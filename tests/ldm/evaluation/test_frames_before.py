"""The frames before the actions: where they are looked for, which is taken, and what is refused."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from egogen.annotations import Annotations
from egogen.errors import UserError
from ldm.metrics.frames import contexts, frame_pairs
from ldm.metrics.frames.frame_pairs import Pairs, read_pairs
from ldm.metrics.metric import MetricSetting
from ldm.metrics.metric_names import Protocol

NAMES = [f"clip{index}/act/000002.jpg" for index in range(4)]
PUBLISHED, CORRECTED = MetricSetting("ego4d"), MetricSetting("ego4d", "corrected")
LEAVE_OUT = "or leave egovlp_plus, psnr_box and ssim_box out of --metrics"


def pairs_of(scene: Any) -> Pairs:
    return read_pairs(Annotations.read(scene.annotations), scene.run, scene.targets)


def told(work: Callable[..., object], *given: object) -> str:
    with pytest.raises(UserError) as error:
        work(*given)
    return str(error.value)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_folder_is_the_one_that_was_given_or_lies_beside_the_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets, other = tmp_path / "val_gt_for_metric", tmp_path / "other"
    folder = tmp_path / "val"
    for given, at in ((None, folder), (other, other)):
        assert told(contexts.split_folder, targets, given) == (
            f"{at}: no such folder; the frames before the actions are expected there (--input_path)"
        )
        at.mkdir()
        assert contexts.split_folder(targets, given) == at
    assert contexts.split_folder(tmp_path / "renamed", other) == other
    assert told(contexts.split_folder, tmp_path / "renamed", None) == (
        f"{tmp_path / 'renamed'}: the folder of targets is not named val_gt_for_metric, so the frames before "
        f"the actions are not known to lie beside it; name their folder by --input_path, {LEAVE_OUT}"
    )
    targets.mkdir()
    monkeypatch.chdir(targets)
    assert contexts.split_folder(Path(), None) == folder  # `--gt_path .`


@pytest.mark.parametrize("setting", [PUBLISHED, CORRECTED])
def test_each_pair_has_the_frame_before_its_action(
    scene: Any, setting: MetricSetting, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = pairs_of(scene)
    expected = {
        name: (path, sha256(path))
        for name in NAMES
        for path in [scene.frames / name.replace("000002", "000001")]
    }
    assert contexts.find_contexts(pairs, setting) == expected
    assert contexts.sources_of(pairs, setting) == expected
    assert not caplog.messages
    lines = "".join(f"{name}\0{digest}\0" for name, (_, digest) in expected.items())
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert contexts.contexts_sha256(pairs, setting) == digest
    assert contexts.contexts_digest(contexts.contexts_of(pairs, setting)) == digest


def test_files_are_read_once_an_evaluation(scene: Any) -> None:
    pairs = pairs_of(scene)
    elsewhere = scene.frames.rename(scene.root / "elsewhere")
    setting = MetricSetting("ego4d", input_path=elsewhere)
    for found in (contexts.contexts_of, contexts.sources_of):
        assert found(pairs, setting) is found(pairs, setting)
        assert found(pairs, setting)[NAMES[1]].path == elsewhere / "clip1/act/000001.jpg"
    assert contexts.contexts_of(pairs, setting) is not contexts.sources_of(pairs, setting)
    assert {*setting.opened} == {f"{what} of {pairs.names_sha256}" for what in ("contexts", "sources")}


def test_the_first_file_is_taken_as_published_and_told(
    scene: Any, noise: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    pairs = pairs_of(scene)
    for index in (1, 3):
        noise(scene.frames / f"clip{index}/act/000000.jpg", index)
    (scene.frames / "clip0/act/.000000.jpg").touch()  # hidden: no frame
    with caplog.at_level(logging.WARNING):
        found = contexts.find_contexts(pairs, PUBLISHED)
    assert [found[name].path.name for name in NAMES] == ["000001.jpg", "000000.jpg"] * 2
    assert caplog.messages == [
        "EgoVLP+: in 2 of 4 actions, clip1/act/000002.jpg first, the first file of the folder is not the "
        "annotated frame before the action; the published protocol takes the first file (F-EV-09)"
    ]
    for other in (contexts.find_contexts(pairs, CORRECTED), contexts.sources_of(pairs, PUBLISHED)):
        assert {context.path.name for context in other.values()} == {"000001.jpg"}
    assert len(caplog.messages) == 1


def test_a_target_that_sorts_first_is_refused_as_published(scene: Any) -> None:
    pairs = pairs_of(scene)
    target = scene.frames / NAMES[2]
    (target.parent / "000001.jpg").rename(target.parent / "99.jpg")
    assert told(contexts.find_contexts, pairs, PUBLISHED) == (
        f"{target}: the target sorts first in its folder, where the frame before the action is expected (pad "
        "the numbers of frames with zeros); --protocol corrected goes by the annotations instead"
    )
    missing = target.with_name("000001.jpg")
    for look, setting in ((contexts.find_contexts, CORRECTED), (contexts.sources_of, PUBLISHED)):
        assert told(look, pairs, setting) == (
            f"{missing}: no such frame; it is the one before clip2/act{contexts.hint(missing)}"
        )


def test_a_folder_without_frames_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path / "hidden"):
        assert told(contexts.first_of_folder, folder) == (
            f"{folder}: no frames here; expected the one before the action"
        )
        (tmp_path / "hidden").mkdir(exist_ok=True)
        (tmp_path / "hidden/.x.jpg").touch()


@pytest.mark.parametrize(
    ("dataset", "protocol", "forgiven"),
    [("epickitchen", "published", 1), ("epickitchen", "corrected", 0), ("ego4d", "published", 0)],
)
def test_a_frame_of_another_size_than_its_target_is_refused(
    scene: Any, dataset: str, protocol: Protocol, forgiven: int
) -> None:
    pairs, path = pairs_of(scene), scene.frames / "clip3/act/000001.jpg"
    setting = MetricSetting(dataset, protocol)
    Image.new("RGB", (32 - forgiven, 18)).save(path)
    assert contexts.find_contexts(pairs, setting)[NAMES[3]].path == path
    Image.new("RGB", (31 - forgiven, 18)).save(path)
    for look in (contexts.find_contexts, contexts.sources_of):
        assert told(look, pairs, setting) == (
            f"{path}: {31 - forgiven}x18 pixels, its target 32x18; the frame before an action is expected in "
            "the target's size"
        )


def test_a_generated_frame_of_another_size_does_not_count(scene: Any, noise: Callable[..., None]) -> None:
    """Its target's size does."""
    noise(scene.generated(0), 1, size=(31, 18))
    pairs = read_pairs(Annotations.read(scene.annotations), scene.run, scene.targets, 1)
    assert len(contexts.find_contexts(pairs, PUBLISHED)) == 4


def test_what_is_shown_meanwhile(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short work, whose last line is left out."""
    shown: list[tuple[int, dict[str, object]]] = []

    def note(items: Iterable[Any], **how: object) -> Iterable[Any]:
        shown.append((len([*items]), how))
        return items

    for module in (contexts, frame_pairs):
        monkeypatch.setattr(module, "Progress", note)
    pairs = pairs_of(scene)
    contexts.find_contexts(pairs, PUBLISHED)
    contexts.sources_of(pairs, PUBLISHED)
    before = (4, {"desc": "frames before the actions", "unit": "frame", "leave": False})
    assert shown == [(4, {"desc": "checking frames", "unit": "pair", "leave": False}), before, before]
