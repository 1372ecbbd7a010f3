"""PSNR and SSIM inside the box that an action changes, against closed forms and the whole-frame metrics."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from egogen.annotations import Annotations
from ldm import evaluate
from ldm.metrics import changed_box, psnr, ssim
from ldm.metrics.changed_box import THRESHOLD
from ldm.metrics.feature_cache import Memory, Store
from ldm.metrics.frames.frame_pairs import read_pairs
from ldm.metrics.frames.images import read_image
from ldm.metrics.metric import MetricSetting, Scale
from tests.ldm.evaluation.failing import fails


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def acted(source: torch.Tensor, *corners: tuple[int, int]) -> torch.Tensor:
    """The source with single pixels inverted, as far as they differ then."""
    target = source.clone()
    for row, column in corners:
        target[..., row, column] = (target[..., row, column] + 0.5) % 1
    return target


def test_the_box_is_the_smallest_with_all_that_differs() -> None:
    source = noise(2, 3, 20, 30)
    target = torch.cat([acted(source[:1], (3, 4), (9, 25)), acted(source[1:], (0, 0))])
    expected = torch.zeros(2, 20, 30, dtype=torch.bool)
    expected[0, 3:10, 4:26] = expected[1, :1, :1] = True
    assert torch.equal(changed_box.changed_box(source, target), expected)


def test_less_than_the_threshold_is_no_change_and_without_any_the_box_is_the_frame() -> None:
    source = torch.full((2, 3, 8, 8), 0.5)
    target = source.clone()
    target[0, 1, 2, 3] += THRESHOLD - 0.001
    target[1, 1, 2, 3] += THRESHOLD + 0.001  # in one channel
    assert changed_box.changed_box(source, target).sum((1, 2)).tolist() == [64, 1]
    target = torch.zeros(1, 3, 8, 8)
    target[..., 2, 3] = THRESHOLD  # as much, not more
    assert changed_box.changed_box(torch.zeros(1, 3, 8, 8), target).sum() == 64


def test_values_are_those_of_the_pixels_inside() -> None:
    """A constant error e inside alone is 20 log10(1 / e); errors outside count for nothing."""
    source = noise(1, 3, 24, 32) * 0.5
    target = acted(source, (5, 6), (14, 20))
    drawn = target.clone()
    drawn[..., 5:15, 6:21] += 0.1
    drawn[..., :4, :] = 0
    assert float(changed_box.psnr(drawn, target, source)) == pytest.approx(20.0, abs=1e-4)
    assert float(changed_box.psnr(target, target, source)) == math.inf
    flat = torch.full((1, 3, 40, 40), 0.3)
    moved = acted(flat, (10, 10), (29, 29)).fill_(0.3)
    moved[..., 10, 10] = moved[..., 29, 29] = 0.3 + THRESHOLD + 0.01
    # Without contrast only the luminance term of SSIM is left; the two corners are a tiny part.
    value = changed_box.ssim(torch.full_like(flat, 0.6), torch.full_like(flat, 0.3), moved)
    assert float(value) == pytest.approx((2 * 0.3 * 0.6 + 1e-4) / (0.3**2 + 0.6**2 + 1e-4), abs=1e-3)


def test_a_copy_wins_by_the_frame_and_not_in_the_box() -> None:
    """32 of 1,024 pixels change: a copy is perfect elsewhere; what draws the change, with some noise, not."""
    source = noise(1, 3, 32, 32)
    target = source.clone()
    target[..., 8:12, 8:16] = 1 - target[..., 8:12, 8:16].round()
    drawn = (target + 0.8 * (noise(1, 3, 32, 32, seed=1) - 0.5)).clamp(0, 1)
    for whole, boxed in ((psnr.score, changed_box.psnr), (ssim.score, changed_box.ssim)):
        assert float(whole(source, target)) > float(whole(drawn, target))
        assert float(boxed(source, target, source)) < float(boxed(drawn, target, source))


@pytest.mark.parametrize(("whole", "boxed"), [(psnr.score, changed_box.psnr), (ssim.score, changed_box.ssim)])
def test_of_a_frame_that_changes_everywhere_it_is_the_metric_of_the_frame(whole, boxed) -> None:  # noqa: ANN001
    drawn, target = noise(3, 3, 16, 24, seed=1), noise(3, 3, 16, 24, seed=2)
    torch.testing.assert_close(boxed(drawn, target, 1 - target.round()), whole(drawn, target))
    torch.testing.assert_close(boxed(drawn, target, target), whole(drawn, target))
    alone = torch.cat(
        [boxed(*each) for each in zip(*(part.split(1) for part in (drawn, target, 1 - target)), strict=True)]
    )
    torch.testing.assert_close(boxed(drawn, target, 1 - target), alone)


def test_the_command_measures_it(scene, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    """The frames before are those that the annotations name; the run copies them."""
    for index in range(4):
        name = f"clip{index}/act/00000{{}}.jpg"
        shutil.copy(scene.frames / name.format(1), scene.run / "images" / name.format(2))
    evaluate.main(scene.flags("--metrics", "psnr,psnr_box,ssim,ssim_box"))
    values = json.loads((scene.run / "metric/per_sample.json").read_text())
    source, target, drawn = (
        torch.from_numpy(np.array(Image.open(place / f"clip2/act/{name}.jpg"))).permute(2, 0, 1)[None] / 255
        for place, name in (
            (scene.frames, "000001"),
            (scene.targets, "000002"),
            (scene.run / "images", "000002"),
        )
    )
    frame = "clip2/act/000002.jpg"
    assert values["psnr_box"][frame] == pytest.approx(
        float(changed_box.psnr(drawn, target, source)), abs=1e-4
    )
    assert values["ssim_box"][frame] == pytest.approx(
        float(changed_box.ssim(drawn, target, source)), abs=1e-4
    )
    (scene.frames / "clip2/act/000001.jpg").unlink()
    capsys.readouterr()
    again = fails(evaluate.main, scene.flags("--metrics", "ssim_box"), capsys)
    assert "clip2/act/000001.jpg: no such frame; it is the one before clip2/act" in again


def test_pairs_are_known_by_their_three_frames(scene: Any) -> None:
    """The frame before, the generated one and the target; a wider one is brought to the target's size."""
    pairs = read_pairs(Annotations.read(scene.annotations), scene.run, scene.targets)
    seen: list[tuple[torch.Tensor, ...]] = []

    def score(*images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return torch.stack(images).mean((2, 3, 4)).amax(0)

    metric = changed_box.make("psnr_box", "In box", Scale(0.0, 1.0, "higher"), score)
    setting, store = MetricSetting("ego4d"), Store(scene.root / "kept.sqlite")
    for _ in range(2):  # the second time all is known
        opened = metric.open(setting, pairs, Memory("kind", store, None))
        for batch in pairs.batches(3, setting.device):
            opened.update(batch)
    assert [len(images[0]) for images in seen] == [3, 1]
    shown = [torch.cat(parts) for parts in zip(*seen, strict=True)]
    sources = [scene.frames / pair.item.action.image_0 for pair in pairs.pairs]
    sides = [[pair.generated for pair in pairs.pairs], [pair.reference for pair in pairs.pairs], sources]
    expected = [torch.stack([read_image(path) for path in paths]) for paths in sides]
    assert all(torch.equal(a, b) for a, b in zip(shown, expected, strict=True))
    values = torch.stack(expected).mean((2, 3, 4)).amax(0)
    assert [*opened.compute().values.values()] == pytest.approx(values.tolist())
    before = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sources]
    keys = [":".join([own, *pair.hashes]) for own, pair in zip(before, pairs.pairs, strict=True)]
    assert store.read("kind", keys).keys() == {*keys}
    lines = sorted(f"{pair.frame}\0{own}\0" for own, pair in zip(before, pairs.pairs, strict=True))
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert metric.inputs(setting, pairs) == {"sources_sha256": digest}


def test_frames_of_another_size_are_brought_to_the_target_s(scene: Any, noise: Any) -> None:
    """On epickitchen, where the published protocol forgives a pixel."""
    scene.annotations.write_text(scene.annotations.read_text().replace("#C C ", ""))
    noise(scene.generated(), 7, size=(31, 18))
    noise(scene.frames / "clip0/act/000001.jpg", 8, size=(33, 18))
    pairs = read_pairs(Annotations.read(scene.annotations), scene.run, scene.targets, 1)
    metric = changed_box.make("psnr_box", "In box", Scale(0.0, 1.0, "higher"), changed_box.psnr)
    opened = metric.open(MetricSetting("epickitchen"), pairs, Memory())
    for batch in pairs.batches(4, torch.device("cpu")):
        opened.update(batch)
    values = opened.compute().values
    assert len(values) == 4
    drawn, target, source = (
        read_image(path)[None]
        for path in (scene.generated(), scene.targets / "clip0/act/000002.jpg",
                     scene.frames / "clip0/act/000001.jpg")
    )  # fmt: skip
    fitted = [torch.nn.functional.interpolate(image, (18, 32), mode="bilinear") for image in (drawn, source)]
    expected = float(changed_box.psnr(fitted[0], target, fitted[1]))
    assert values["clip0/act/000002.jpg"] == pytest.approx(expected, abs=1e-4)
