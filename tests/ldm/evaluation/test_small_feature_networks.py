"""CLIP, EgoVLP and BLIP on networks that a hand can follow: what these are given, and how they are loaded."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from egogen.annotations import Annotations
from egogen.clip_pixels import CLIP_MEAN, CLIP_STD
from egogen.errors import UserError
from ldm.metrics import blip, clip, egovlp, egovlp_plus
from ldm.metrics.feature_cache import Memory, Store
from ldm.metrics.frames.frame_pairs import Pairs, read_pairs
from ldm.metrics.frames.images import read_image
from ldm.metrics.metric import Accumulator, MetricSetting
from ldm.metrics.metric_names import PROTOCOLS, Protocol
from ldm.metrics.networks import blip_captioner, egovlp_model
from ldm.metrics.networks.metric_weights import BLIP, CLIP, EGOVLP, VOCABULARY
from tests.egogen.scripted import Restored, save, save_scripted
from tests.ldm.evaluation.networks import small_vocabulary, state, write_vocabulary

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def pairs_of(scene: Any) -> Pairs:
    return read_pairs(Annotations.read(scene.annotations), scene.run, scene.targets)


def values_of(metric: Accumulator, pairs: Pairs) -> list[float]:
    """The value of each pair, in the order of the frames' names; two share a batch."""
    for batch in pairs.batches(2, CPU):
        metric.update(batch)
    return [*metric.compute().values.values()]


def frames_of(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Generated frames and targets."""
    drawn, true = ([getattr(pair, side) for pair in pairs.pairs] for side in ("generated", "reference"))
    return torch.stack([*map(read_image, drawn)]), torch.stack([*map(read_image, true)])


class Pixels(nn.Module):
    """In place of CLIP's image tower: the pixels that it is given."""

    image_size = (6, 6)

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen = pixels
        return pixels.flatten(1).double()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clip_sees_squashed_or_covered_frames(protocol: Protocol) -> None:
    """Black and white pixels overshoot in a bicubic resize; corrected, they are brought back to [0, 1]."""
    images, network = noise(2, 3, 9, 15).round(), Pixels()
    found = clip.embed(network, images, protocol)
    if protocol == "published":
        expected = interpolate(images, (6, 6), mode="bicubic")
    else:
        expected = interpolate(images, (6, 10), mode="bicubic", antialias=True)[..., 2:8].clamp(0, 1)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (CLIP_MEAN, CLIP_STD))
    torch.testing.assert_close(network.seen, (expected - mean) / std)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, normalize(network.seen.flatten(1), dim=-1))
    other = noise(2, 3, 9, 15, seed=1)
    expected = (found * clip.embed(network, other, protocol)).sum(1)
    torch.testing.assert_close(clip.score(images, other, network, protocol), expected)
    if protocol == "published":
        torch.testing.assert_close(clip.score(images, other, network), expected)
        assert torch.equal(clip.embed(network, images), found)


def test_clip_is_loaded_in_32_bits_and_says_what_is_wrong(tmp_path: Path) -> None:
    weights, path = state("clip"), tmp_path / CLIP.name
    weights["token_embedding.weight"] = weights["token_embedding.weight"][:9].clone()
    torch.save({**weights, "input_resolution": torch.tensor(224)}, path)
    network = clip.load(path, CPU)
    assert not network.training
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    rounded = weights["visual.conv1.weight"].half().float()
    assert torch.equal(network.state_dict()["conv1.weight"], rounded)
    assert next(clip.load(path, torch.device("meta")).parameters()).device.type == "meta"
    fetch = "fetch it again by bash scripts/download_metric_weights.sh"
    for name in ("visual.proj", "text_projection"):
        torch.save({key: value for key, value in weights.items() if key != name}, path)
        with pytest.raises(UserError) as told:
            clip.load(path, CPU)
        assert str(told.value) == f"{path}: not the weights of OpenAI CLIP: there is no '{name}'; {fetch}"
    torch.save({**weights, "visual.proj": torch.zeros(3, 3)}, path)
    with pytest.raises(UserError) as told:
        clip.load(path, CPU)
    assert str(told.value).startswith(f"{path}: not the weights of OpenAI CLIP (Error(s) in loading")
    assert str(told.value).endswith(f"; {fetch}")


def test_the_published_clip_archive_is_read(tmp_path: Path) -> None:
    """OpenAI's file is a TorchScript archive with settings among its tensors."""
    weights = state("clip")
    weights["token_embedding.weight"] = weights["token_embedding.weight"][:9].clone()
    torch.save(weights, tmp_path / "plain.pt")
    save_scripted({**weights, "input_resolution": torch.tensor(224)}, tmp_path / CLIP.name)
    plain, archive = (clip.load(tmp_path / name, CPU).state_dict() for name in ("plain.pt", CLIP.name))
    assert plain.keys() == archive.keys()
    assert all(torch.equal(plain[name], archive[name]) for name in plain)


def test_a_clip_archive_that_runs_code_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.touch()
    hostile = save(Restored(str(target)), tmp_path / CLIP.name)
    with pytest.raises(UserError, match=r"ViT-L-14\.pt: refused, .*; fetch it again by"):
        clip.load(hostile, CPU)
    assert target.read_bytes() == b""


class Tower(nn.Module):
    """In place of EgoVLP: of clips the first, the last and the two middle pictures; of texts the length."""

    side = 6
    text_model = SimpleNamespace(config=SimpleNamespace(vocab_size=2048, max_position_embeddings=9))

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[tuple[int, ...], bool]] = []  # the shape of clips, and whether in fewer bits

    def video(self, clips: Tensor) -> Tensor:
        self.asked.append((tuple(clips.shape), torch.is_autocast_enabled("cpu")))
        half = clips.shape[1] // 2
        return clips[:, [0, half - 1, half, -1]].flatten(1)

    def text(self, tokenizer: Any, texts: list[str]) -> Tensor:
        assert tokenizer("up")["input_ids"] == [101, 1003, 102]  # between the marks of start and end
        return torch.tensor([[float(len(text)), 1.0] for text in texts])


def shown(images: Tensor, protocol: Protocol) -> Tensor:
    """Frames of 32 x 18 as EgoVLP takes them, by hand: of 10 x 6 pixels the six columns in the middle."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (egovlp.MEAN, egovlp.STD))
    small = interpolate(images, (6, 10), mode="bilinear", antialias=protocol == "corrected")
    return (small[..., 2:8] - mean) / std


def cosines(a: Tensor, b: Tensor) -> Any:
    a, b = normalize(a.flatten(1), dim=1), normalize(b.flatten(1), dim=1)
    return pytest.approx((a * b).sum(1).tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("dataset", "length", "protocol"), [("ego4d", 4, "published"), ("epickitchen", 16, "corrected")]
)
def test_egovlp_sees_still_clips(scene: Any, dataset: str, length: int, protocol: Protocol) -> None:
    pairs, tower = pairs_of(scene), Tower()
    generated, target = frames_of(pairs)
    found = egovlp.score(generated, target, tower, length, protocol)
    expected = cosines(shown(generated, protocol), shown(target, protocol))
    assert found.tolist() == expected
    assert tower.asked == [((4, length, 3, 6, 6), False)] * 2
    if protocol == "published":
        assert torch.equal(egovlp.score(generated, target, tower, length), found)
    weights = {EGOVLP[dataset].name: Path("tower")}
    setting = MetricSetting(dataset, protocol, weights=weights, opened={"tower": tower})
    assert values_of(egovlp.METRIC.open(setting, pairs, Memory()), pairs) == expected


@pytest.mark.parametrize(
    ("dataset", "length", "protocol"), [("ego4d", 4, "published"), ("epickitchen", 16, "corrected")]
)
def test_egovlp_plus_shows_the_frame_before_in_the_first_half(
    scene: Any, tmp_path: Path, dataset: str, length: int, protocol: Protocol
) -> None:
    pairs, tower = pairs_of(scene), Tower()
    generated, target = frames_of(pairs)
    before = torch.stack([read_image(scene.frames / pair.item.action.image_0) for pair in pairs.pairs])
    found = egovlp_plus.score(generated, target, before, tower, length, protocol)
    clips = [torch.cat([shown(before, protocol), shown(side, protocol)], 1) for side in (generated, target)]
    expected = cosines(*clips)
    assert found.tolist() == expected
    assert tower.asked == [((4, length, 3, 6, 6), False)] * 2
    if protocol == "published":
        assert torch.equal(egovlp_plus.score(generated, target, before, tower, length), found)
    weights = {EGOVLP[dataset].name: Path("tower")}
    precision: Any = "bf16" if protocol == "corrected" else "32"
    setting = MetricSetting(dataset, protocol, precision=precision, weights=weights, opened={"tower": tower})
    store = Store(tmp_path / "kept.sqlite")
    tower.asked = []
    for _ in range(2):  # the second time all is known
        opened = egovlp_plus.METRIC.open(setting, pairs, Memory("kind", store, store))
        assert values_of(opened, pairs) == expected
    assert tower.asked == [((2, length, 3, 6, 6), precision == "bf16")] * 4
    first = egovlp_plus.contexts_of(pairs, setting)[pairs.pairs[0].frame].sha256
    keys = [f"{first}+{own}" for own in pairs.pairs[0].hashes]
    assert store.read("kind", keys).keys() == {*keys}


def test_egovlp_plus_brings_frames_to_the_size_of_the_one_before() -> None:
    before, wide = noise(2, 3, 18, 32), noise(2, 3, 18, 40, seed=1)
    halves = egovlp_plus.halves(wide, before, 6, "published")
    torch.testing.assert_close(halves[:, 0], shown(before, "published"))
    narrowed = interpolate(wide, (18, 32), mode="bilinear")
    torch.testing.assert_close(halves[:, 1], shown(narrowed, "published"))


@pytest.mark.parametrize(("dataset", "length"), [("ego4d", 4), ("epickitchen", 16)])
def test_egovlp_is_loaded_once_for_clips_of_the_data_set(
    dataset: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def load(*given: object) -> Tower:
        asked.append(given)
        return Tower()

    monkeypatch.setattr(egovlp_model, "load_egovlp", load)
    setting = MetricSetting(dataset, weights={EGOVLP[dataset].name: Path("file")})
    assert egovlp.open_network(setting) is egovlp.open_network(setting)
    assert asked == [(Path("file"), length, CPU)]


class Captions:
    """In place of BLIP: of a frame the largest value of each channel; its caption tells the first."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def pixels(self, frame: np.ndarray) -> Tensor:
        assert frame.flags.c_contiguous
        return torch.from_numpy(frame).amax((0, 1))

    def ids(self, pixels: Tensor, protocol: Protocol) -> Tensor:
        self.asked.append((len(pixels), protocol, torch.is_autocast_enabled("cpu")))
        return pixels.long()

    def text(self, ids: Tensor) -> str:
        return "x" * int(ids[0] % 7 + 1)


@pytest.mark.parametrize(("protocol", "precision"), [("published", "32"), ("corrected", "bf16")])
def test_captions_are_compared_with_texts(
    scene: Any, tmp_path: Path, protocol: Protocol, precision: Any
) -> None:
    """Of lengths l and m the cosine is (l m + 1) / sqrt((l^2 + 1) (m^2 + 1))."""
    pairs, captions = pairs_of(scene), Captions()
    vocabulary = write_vocabulary(tmp_path / "vocab.txt", 2048, small_vocabulary())
    setting = MetricSetting(
        "ego4d", protocol, precision=precision,
        weights={
            EGOVLP["ego4d"].name: Path("tower"), BLIP["base"].name: Path("blip"), VOCABULARY.name: vocabulary,
        },
        opened={"tower": Tower(), "blip": captions},
    )  # fmt: skip
    store = Store(tmp_path / "kept.sqlite")
    drawn = [(image * 255).round() for image in frames_of(pairs)[0]]
    lengths = [int(frame[0].max()) % 7 + 1 for frame in drawn]
    wanted = [len(pair.item.action.text("llava_forecast_finetune") or "") for pair in pairs.pairs]
    expected = [
        (a * b + 1) / ((a * a + 1) * (b * b + 1)) ** 0.5 for a, b in zip(lengths, wanted, strict=True)
    ]
    for _ in range(2):  # the second time all captions are known
        metric = blip.metric("base").open(setting, pairs, Memory("kind", store, None))
        assert values_of(metric, pairs) == pytest.approx(expected, abs=1e-6)
        told = metric.compute().captions
        assert told == {pair.frame: "x" * n for pair, n in zip(pairs.pairs, lengths, strict=True)}
    assert captions.asked == [(2, protocol, precision == "bf16")] * 2
    keys = [pair.hashes[0] for pair in pairs.pairs]
    assert store.read("kind", keys).keys() == {*keys}


def test_the_captioner_is_loaded_with_the_tokenizer_of_the_vocabulary(
    scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[Any, ...]] = []

    def load(*given: object) -> Captions:
        asked.append(given)
        return Captions()

    monkeypatch.setattr(blip_captioner, "load_captioner", load)
    weights = {
        EGOVLP["epickitchen"].name: Path("tower"),
        BLIP["large"].name: Path("blip"),
        VOCABULARY.name: write_vocabulary(tmp_path / "vocab.txt", 2048, small_vocabulary()),
    }
    setting = MetricSetting("epickitchen", weights=weights, opened={"tower": Tower()}, llava_key="action")
    with caplog.at_level(logging.WARNING):
        blip.metric("large").open(setting, pairs_of(scene), Memory())
    ((path, tokenizer, device),) = asked
    assert (path, device) == (Path("blip"), CPU)
    assert tokenizer("up")["input_ids"] == [101, 1003, 102]
    # `#C C picks up <cup> 0` has more tokens than this tower takes.
    assert caplog.messages == ["4 of 4 texts are longer than EgoVLP's 9 tokens and are cut"]


def test_a_vocabulary_of_more_words_than_egovlp_knows_is_refused(scene: Any, tmp_path: Path) -> None:
    weights = {
        EGOVLP["ego4d"].name: Path("tower"),
        VOCABULARY.name: write_vocabulary(tmp_path / "vocab.txt", 2050, small_vocabulary()),
    }
    setting = MetricSetting("ego4d", weights=weights, opened={"tower": Tower()})
    with pytest.raises(UserError, match=r"vocab\.txt: a vocabulary of 2050 words, .* with at most 2048"):
        blip.begin("base", setting, pairs_of(scene), Memory())


def test_actions_without_a_text_are_told(scene: Any) -> None:
    assert blip.texts_of(pairs_of(scene), "action")["clip1/act/000002.jpg"] == "#C C picks up <cup> 1"
    raw = scene.annotations.read_text().replace("The right hand holds cup 2.", "")
    scene.annotations.write_text(raw)
    with pytest.raises(UserError) as told:
        blip.texts_of(pairs_of(scene), "llava_forecast_finetune")
    assert str(told.value) == (
        f"{scene.annotations}: 1 of 4 actions, clip2/act first, have no text under "
        "'llava_forecast_finetune', with which captions are compared; name another by --llava_key, merge the "
        "descriptions by python -m llava.merge, or leave the BLIP metrics out of --metrics"
    )
