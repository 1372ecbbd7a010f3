"""The metrics of the toy world alone: rates of signs in painted frames, features of a drawn classifier."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import cosine_similarity

from egogen.annotations import ClipMetadata
from egogen.errors import UserError
from egogen.toy.palette import COLOURS, SKINS, SLEEVES, TABLES
from ldm.metrics import fid, toy_features, toy_success
from ldm.metrics.feature_cache import Memory, Store
from ldm.metrics.frames.frame_pairs import SIDES
from ldm.metrics.metric import MetricSetting
from ldm.metrics.networks.metric_weights import TOY_CLASSIFIER
from ldm.metrics.networks.toy_classifier import FACTS, ToyClassifier, load_classifier
from tests.ldm.evaluation.made_pairs import made_pairs
from tests.ldm.evaluation.test_gathering import make_batch

CPU = torch.device("cpu")
NO_PAIRS = made_pairs()
RATES = {metric.name: metric for metric in toy_success.METRICS}
# A sign, its colour, and the row of the frame that is to have it.
SIGNS: list[tuple[str, tuple[int, int, int], int]] = [
    ("hand at its new place", SKINS[0], 0),
    ("object at its new place", COLOURS["red"], 8),
    ("hand left its place", COLOURS["blue"], 16),
    ("object left its place", COLOURS["green"], 24),
    ("water", COLOURS["cyan"], 32),
]


def clip_of(signs: int = len(SIGNS)) -> ClipMetadata:
    """A clip of 64 x 64 pixels, of which the first signs are to be seen."""
    boxes = [
        {
            "what": what,
            "colour": colour,
            "box": {"x": 0, "y": row, "width": 64, "height": 8},
            "without": 0,
            "share": 1,
        }
        for what, colour, row in SIGNS[:signs]
    ]
    return ClipMetadata.model_validate(
        {"height": 64, "width": 64, "skin": SKINS[0], "sleeve": SLEEVES[0], "table": TABLES[0].tone}
        | {"signs": boxes}
    )


def painted(*seen: int) -> Tensor:
    """A frame of the table that shows some signs."""
    frame = torch.tensor(TABLES[0].tone).view(3, 1, 1).repeat(1, 64, 64)
    for index in seen:
        _, colour, row = SIGNS[index]
        frame[:, row : row + 8] = torch.tensor(colour).view(3, 1, 1)
    return frame / 255


FRAMES = torch.stack([painted(0, 1, 2, 3, 4), painted(0, 2, 3), painted(1, 2), painted()])


def test_a_frame_counts_where_it_shows_every_sign_that_is_asked_for() -> None:
    clips = [clip_of()] * 4
    assert toy_success.score(FRAMES, clips).tolist() == [1, 0, 0, 0]
    assert toy_success.score(FRAMES, clips, toy_success.every_sign).tolist() == [1, 0, 0, 0]
    assert toy_success.score(FRAMES, clips, toy_success.is_hand).tolist() == [1, 1, 0, 0]
    assert toy_success.score(FRAMES, clips, toy_success.is_object).tolist() == [1, 0, 1, 0]
    assert toy_success.score(FRAMES, clips, toy_success.is_place).tolist() == [1, 1, 0, 0]
    # Each frame by its own clip.
    assert toy_success.score(FRAMES[1:3], [clip_of(1), clip_of(1)]).tolist() == [1, 0]
    with pytest.raises(ValueError, match="zip"):
        toy_success.score(FRAMES, clips[:3])


def test_frames_are_judged_in_the_levels_that_they_are_saved_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded to 0 to 255, height before width, channels last."""
    seen: list[Any] = []

    def look(frame: Any, _: ClipMetadata) -> dict[str, bool]:
        seen.append(frame)
        return {"any": True}

    monkeypatch.setattr(toy_success, "signs_seen", look)
    levels = torch.tensor([0.4, 127.6, 255.0]).view(1, 3, 1, 1).expand(1, 3, 2, 5) / 255
    assert toy_success.score(levels, [clip_of()]).tolist() == [1]
    assert (seen[0].shape, f"{seen[0].dtype}", seen[0][1, 4].tolist()) == ((2, 5, 3), "uint8", [0, 128, 255])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("toy_success", [1, 0, 0, 0]),
        ("toy_hand", [1, 1, 0, 0]),
        ("toy_object", [1, 0, 1, 0]),
        ("toy_place", [1, 1, 0, 0]),
    ],
)
def test_a_rate_is_the_mean_over_the_frames(name: str, expected: list[int]) -> None:
    rate = toy_success.make(name, "", "", {
        "toy_success": toy_success.every_sign, "toy_hand": toy_success.is_hand,
        "toy_object": toy_success.is_object, "toy_place": toy_success.is_place,
    }[name])  # fmt: skip
    setting = MetricSetting("ego4d", metadata={"clip": clip_of()})
    for metric in (RATES[name], rate):
        assert metric.inputs(setting, NO_PAIRS) == toy_success.inputs(setting, NO_PAIRS)
        opened = metric.open(setting, NO_PAIRS, Memory())
        opened.update(make_batch("abcd", FRAMES))
        found = opened.compute()
        assert [*found.values.values()] == expected
        assert found.mean == sum(expected) / 4


def test_a_rate_needs_facts_of_every_clip() -> None:
    pairs = made_pairs(*(pair.item for pair in make_batch("a").pairs))
    plain = ClipMetadata.model_validate({"height": 64, "width": 64})

    def told(metadata: Any) -> str:
        with pytest.raises(UserError) as error:
            RATES["toy_success"].open(MetricSetting("ego4d", metadata=metadata), pairs, Memory())
        return str(error.value)

    assert told(None) == "metric 'toy_success' needs --metadata FILE: what each clip should show"
    without = (
        "metric 'toy_success': the metadata has clips without the field 'signs'; only data made by "
        "python -m egogen.toy has it"
    )
    assert told({}) == told({"clip": plain}) == told({"clip": clip_of(), "b": plain}) == without
    assert told({"other": clip_of()}) == (
        "metric 'toy_success': the metadata has no clip 'clip'; give that of this split"
    )
    assert toy_success.has_facts({"clip": clip_of(), "b": clip_of()})
    assert not any(map(toy_success.has_facts, (None, {}, {"clip": clip_of(), "b": plain})))


def test_the_facts_decide_a_rate() -> None:
    """Whatever their order in the file."""
    clips = {"b": clip_of(1), "a": clip_of(2)}
    plain = {name: clip.model_dump(mode="json") for name, clip in clips.items()}
    expected = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    for metadata in (clips, dict(reversed(clips.items()))):
        setting = MetricSetting("ego4d", metadata=metadata)
        assert toy_success.inputs(setting, NO_PAIRS) == {"metadata_sha256": expected}
    with pytest.raises(UserError, match="needs --metadata FILE"):
        toy_success.inputs(MetricSetting("ego4d"), NO_PAIRS)


def test_frames_are_compared_in_the_features_of_the_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ToyClassifier(dict.fromkeys(FACTS, 2)).requires_grad_(False).eval()
    safetensors.torch.save_file(network.state_dict(), tmp_path / TOY_CLASSIFIER.name)
    setting = MetricSetting("ego4d", weights={TOY_CLASSIFIER.name: tmp_path / TOY_CLASSIFIER.name})
    batch = make_batch("abcd", FRAMES, FRAMES.flip(0))
    features = [network.embed(batch.images(side)) for side in SIDES]
    store = Store(tmp_path / "kept.sqlite")
    opened = {
        metric.name: metric.open(setting, NO_PAIRS, Memory("kind", store, None))
        for metric in toy_features.METRICS
    }
    assert len(setting.opened) == 1  # both see the same network
    for metric in opened.values():
        metric.update(batch)
    found = opened["toy_similarity"].compute()
    assert [*found.values.values()] == pytest.approx(cosine_similarity(*features).tolist(), abs=1e-5)
    moments = [fid.Moments.empty(128) for _ in SIDES]
    for each, values in zip(moments, features, strict=True):
        each.add(values.numpy())
    distance = fid.frechet_distance(
        moments[0].mean, moments[0].covariance, moments[1].mean, moments[1].covariance
    )
    assert opened["toy_fid"].compute().mean == pytest.approx(distance, rel=1e-3, abs=1e-6)
    assert store.read("kind", [*"abcd"]).keys() == {*"abcd"}


def test_the_classifier_by_hand() -> None:
    """Frames of any size are squashed to 48 x 48 and brought to [-1, 1]; four layers halve them to 3 x 3."""
    torch.manual_seed(0)
    counts = {"verb": 3, "hand": 2}
    network = ToyClassifier(counts).requires_grad_(False)
    state, frames = network.state_dict(), torch.rand(2, 3, 60, 90)
    x = functional.interpolate(frames, (48, 48), mode="bilinear", antialias=True) * 2 - 1
    for layer, width in enumerate((32, 64, 96, 128)):
        weight, bias, scale, shift = (
            state[f"body.{3 * layer + more}.{name}"] for more in (0, 1) for name in ("weight", "bias")
        )
        assert weight.shape == (width, x.shape[1], 3, 3)
        x = functional.conv2d(x, weight, bias, stride=2, padding=1)
        grouped = x.view(2, 8, -1)
        mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, keepdim=True, correction=0)
        x = ((grouped - mean) / (variance + 1e-5).sqrt()).view(x.shape)
        x = x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        x = x * x.sigmoid()
    assert x.shape == (2, 128, 3, 3)
    x = x.flatten(1) @ state["features.1.weight"].T + state["features.1.bias"]
    features = x * x.sigmoid()
    torch.testing.assert_close(network.embed(frames), features, atol=1e-5, rtol=1e-4)
    found = network(frames)
    assert {fact: logits.shape for fact, logits in found.items()} == {"verb": (2, 3), "hand": (2, 2)}
    for fact, logits in found.items():
        expected = features @ state[f"heads.{fact}.weight"].T + state[f"heads.{fact}.bias"]
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


def test_a_classifier_is_loaded_for_its_facts(tmp_path: Path) -> None:
    torch.manual_seed(1)
    counts = {fact: 2 + place for place, fact in enumerate(FACTS)}
    network, path = ToyClassifier(counts), tmp_path / TOY_CLASSIFIER.name
    safetensors.torch.save_file(network.state_dict(), path)
    made = load_classifier(path, CPU)
    assert not made.training
    assert not any(value.requires_grad for value in made.parameters())
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in made.state_dict().items())
    assert next(load_classifier(path, torch.device("meta")).parameters()).device.type == "meta"

    def told() -> str:
        with pytest.raises(UserError) as error:
            load_classifier(path, CPU)
        start, end = f"{path}: not a classifier of toy frames (", "); make it by python -m ldm.toy.classifier"
        assert f"{error.value}".startswith(start)
        assert f"{error.value}".endswith(end)
        return f"{error.value}"[len(start) : -len(end)]

    state = network.state_dict()
    safetensors.torch.save_file({name: state[name] for name in state if name != "heads.verb.bias"}, path)
    assert told() == "'heads.verb.bias'"
    safetensors.torch.save_file({name: state[name] for name in state if "body" not in name}, path)
    assert told().startswith("Error(s) in loading state_dict for ToyClassifier: Missing key(s) in state_dict")
    assert len(told()) == 200  # in one line
    path.write_bytes(b"no tensors")
    assert told().startswith("Error while deserializing header: ")
