"""The toy Stable Diffusion: its file, its latents, its start."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from egogen.boxes import Box
from egogen.errors import UserError
from egogen.files import read_json, write_json
from egogen.layout import Layout
from egogen.toy.palette import COLOURS
from egogen.toy.scene import KINDS
from egogen.toy.verdict import Known
from egogen.toy.world import write_world
from ldm.checkpoints.safe_reading import read
from ldm.checkpoints.source import load_parts
from ldm.conditioner import embed
from ldm.networks.architecture import build, infer
from ldm.networks.shapes import LATENT_SCALE
from ldm.networks.text import make_tokenizer, tokenize
from ldm.toy import autoencoder_training, editor, editor_training, fitting
from ldm.toy.__main__ import main
from ldm.toy.autoencoder_training import train_autoencoder, train_decoder
from ldm.toy.crops import cells, close_ups, curated, objects, part_around, zoomed
from ldm.toy.fitting import encode, read_world
from ldm.toy.linear import (
    DETAIL_GAIN,
    LUMINANCE,
    pass_colours_through,
    pass_noise_through,
    standardize_latents,
)
from ldm.toy.start_training import train_text_encoder
from ldm.toy.toy_shapes import SHARP, SMALL


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_world(root, 12, 1, size=32, workers=1)
    return root


@pytest.fixture(scope="module")
def start(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start of few steps, which no test writes into."""
    out = tmp_path_factory.mktemp("start") / "sd.ckpt"
    words = ["--data-root", str(world), "--resolution", "32", "--out", str(out)]
    main([*words, "--vae-steps", "2", "--text-steps", "2", "--unet-steps", "2"])
    return out


def test_the_command_writes_a_published_file_once(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "start" / "sd.ckpt"
    words = ["--data-root", str(world), "--out", str(out), "--resolution", "32"]
    main([*words, "--vae-steps", "3", "--text-steps", "3", "--unet-steps", "2"])
    state = read(out)["state_dict"]
    found = infer(state)
    assert found.unet.in_channels == 4
    assert found.unet.channels == SMALL.unet.channels
    assert "betas" in state
    assert not any(name.startswith(("projection_", "model_ema")) for name in state)
    parts = load_parts(out)
    assert parts.conditioner is None
    assert parts.unet.config.in_channels == 8
    before = out.stat().st_mtime_ns
    main(words)
    assert out.stat().st_mtime_ns == before
    os.truncate(out, out.stat().st_size - 1000)
    main([*words, "--vae-steps", "1", "--text-steps", "1", "--unet-steps", "1"])
    assert read(out)["state_dict"].keys() == state.keys()


@torch.no_grad()
def decoded(vae: AutoencoderKL, frames: Tensor) -> Tensor:
    """Frames encoded and decoded."""
    return vae.decode(vae.encode(frames).latent_dist.mode()).sample


@pytest.mark.slow
def test_the_autoencoder_starts_as_averaging_and_its_decoder_learns(world: Path) -> None:
    torch.manual_seed(0)
    vae = build(SMALL, conditioner=False).vae
    frames, texts, _ = read_world(Layout(world, "ego4d"), 32)
    assert len(frames) == 2 * len(texts) == 24
    pass_colours_through(vae)
    # Closed form: the mean of each block of 2 x 2 pixels, repeated. Norms divide by nearly a constant.
    means = functional.interpolate(functional.avg_pool2d(frames, 2), scale_factor=2)
    torch.testing.assert_close(decoded(vae, frames), means, rtol=0, atol=0.05)
    with torch.no_grad():
        edges = vae.encode(frames).latent_dist.mean[:, 3]
    light = (frames * torch.tensor(LUMINANCE)[:, None, None]).sum(dim=1)
    torch.testing.assert_close(
        edges, DETAIL_GAIN * (light[:, ::2, ::2] - light[:, 1::2, 1::2]), rtol=0, atol=0.05
    )
    untrained = float((decoded(vae, frames) - frames).square().mean())
    train_decoder(vae, frames, 80)
    assert float((decoded(vae, frames) - frames).square().mean()) < 0.8 * untrained


def test_standardized_latents_have_the_published_spread(world: Path) -> None:
    torch.manual_seed(0)
    vae = build(SMALL, conditioner=False).vae
    frames, *_ = read_world(Layout(world, "ego4d"), 32)
    pass_colours_through(vae)
    before = decoded(vae, frames)
    standardize_latents(vae, frames)
    # The two scalings undo each other, up to rounding.
    torch.testing.assert_close(decoded(vae, frames), before, rtol=0, atol=1e-4)
    latents = encode(vae, frames[::8])
    assert float(latents.std()) == pytest.approx(1 / LATENT_SCALE, rel=1e-2)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3 / LATENT_SCALE
    with torch.no_grad():
        assert vae.encode(frames[:1]).latent_dist.std.max() < 0.02 * latents.std()


def test_close_ups_show_their_object_large(world: Path) -> None:
    layout = Layout(world, "ego4d")
    frames, captions = close_ups(layout, 32, seed=0)
    assert len(frames) == len(captions) == 12
    for frame, caption in zip(frames, captions, strict=True):
        _, colour, kind = caption.split()
        assert kind in KINDS
        # A close-up is at most 2.2 objects wide and high: thin ones (a knife) cover least of it.
        pixels = (frame.permute(1, 2, 0).numpy() + 1) * 127.5
        known = Known((0, 0, 0), (0, 0, 0), (0, 0, 0))
        found = {
            name: known.share(pixels, rgb, Box(x=0, y=0, width=32, height=32), 1.0)
            for name, rgb in COLOURS.items()
        }
        assert found[colour] == max(found.values())
        assert found[colour] > 0.06


def test_data_that_are_no_toy_world_are_named(tmp_path: Path) -> None:
    write_world(tmp_path, 2, 1, size=32, workers=1)
    layout = Layout(tmp_path, "ego4d")
    facts = read_json(layout.metadata)
    del facts["toy_train_000001"]["object_box_1"]
    write_json(layout.metadata, facts)
    with pytest.raises(UserError, match=r"clip 'toy_train_000001' has no object_box_1; expected a toy world"):
        close_ups(layout, 32, seed=0)


def test_zoomed_pairs_are_parts_of_their_frames(world: Path) -> None:
    layout = Layout(world, "ego4d")
    frames, *_ = read_world(layout, 32)
    pairs = zoomed(layout, 32, seed=0)
    assert pairs.shape == frames.shape
    assert pairs.equal(zoomed(layout, 32, seed=0))
    assert not pairs.equal(zoomed(layout, 32, seed=1))
    # Both frames of a pair are cut alike: what the action leaves as it was differs as little as before.
    change, before = (
        (part[:12] - part[12:]).abs().flatten(1).median(dim=1).values for part in (pairs, frames)
    )
    assert float(change.median()) < 0.2
    assert float(before.median()) < 0.1


@pytest.mark.parametrize("x", [0.0, 40.0, 75.0])
def test_a_part_stays_within_the_frame(x: float) -> None:
    box, facts = Box(x=x, y=30.0, width=10.0, height=18.0), {"width": 85, "height": 48}
    for seed in range(20):
        left, top, right, bottom = part_around(box, facts, 0.5, Random(seed))
        assert 0 <= left < right <= 85 + 1e-9
        assert 0 <= top < bottom <= 48 + 1e-9
        assert (right - left, bottom - top) == (pytest.approx(42.5), pytest.approx(24))
        assert left <= x + 5 <= right
        assert top <= 39 <= bottom
    assert part_around(box, facts, 3.0, Random(0)) == (0, 0, 85, 48)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0.0, 1.0, (0, 8)),
        (0.3, 0.4, (2, 3)),  # 2.4 to 3.2
        (0.2, 0.3, (2, 3)),  # 1.6 to 2.4 rounds to nothing: its first cell
        (0.49, 0.5, (4, 5)),
        (0.97, 1.0, (7, 8)),  # 7.8 rounds to the end: the last cell
    ],
)
def test_cells_that_an_interval_covers(low: float, high: float, found: tuple[int, int]) -> None:
    assert cells(low, high, 8) == slice(*found)


def test_objects_are_found_on_the_grid(world: Path) -> None:
    """Both boxes' middles are marked, and no cell whose middle is more than a cell away from both boxes."""
    layout, side = Layout(world, "ego4d"), 16
    found = objects(layout, side)
    assert found.shape == (12, 1, side, side)
    for grid, (_, facts) in zip(found, curated(layout), strict=True):
        near = torch.zeros(side, side, dtype=torch.bool)
        middles = (torch.arange(side) + 0.5) / side
        for box in (Box.model_validate(facts[name]) for name in ("object_box_0", "object_box_1")):
            x, width = box.x / facts["width"], box.width / facts["width"]
            y, height = box.y / facts["height"], box.height / facts["height"]
            assert grid[0, int((y + height / 2) * side), int((x + width / 2) * side)]
            columns = (middles > x - 1 / side) & (middles < x + width + 1 / side)
            rows = (middles > y - 1 / side) & (middles < y + height + 1 / side)
            near |= rows[:, None] & columns
        assert not (grid[0] & ~near).any()


def test_changed_latents_and_the_objects_count_more() -> None:
    changes = torch.zeros(3, 2, 4, 4, 4)
    changes[:2, :, :, 0, 0] = 1.0
    changes[:2, :, :, 1, 1] = 0.2  # too little to count as a change
    where = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    where[:, :, 0, :2] = True
    care = editor_training.cares(changes, where)
    torch.testing.assert_close(care.mean(dim=(1, 2, 3, 4)), torch.ones(3))
    whole, zoom, close = care[:, 0, 0] / care[:, 0, 0, 3:, 3:]
    assert [float(whole[0, 0]), float(whole[0, 1])] == pytest.approx([26, 21])
    assert float(whole[1, 1]) == pytest.approx(1)
    assert float(zoom[0, 0]) == pytest.approx(6)
    assert float(zoom[0, 1]) == pytest.approx(1)
    assert close.eq(1).all()


def test_a_wrong_device_is_refused_before_any_work(world: Path, tmp_path: Path) -> None:
    words = ["--data-root", str(world), "--out", str(tmp_path / "x.ckpt"), "--device", "gpu"]
    with pytest.raises(UserError, match=r"device 'gpu': .*allowed are auto, cpu or a GPU such as cuda:0"):
        editor.main([*words, "--start", str(tmp_path / "none.ckpt")])


@pytest.mark.slow
def test_the_text_encoder_keeps_its_words(world: Path) -> None:
    """Trained on changes alone it forgets colours; the default keeps every word readable by a linear head."""
    torch.manual_seed(0)
    encoder = build(SMALL, conditioner=False).text_encoder
    frames, texts, _ = read_world(Layout(world, "ego4d"), 32)
    train_text_encoder(encoder, frames[12:] - frames[:12], texts, 30)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    ids = tokenize(make_tokenizer(), texts)
    states = encoder(ids).last_hidden_state.flatten(0, 1)
    words = ids.flatten()
    means = torch.stack([states[words == word].mean(dim=0) for word in words.unique()])
    nearest = torch.cdist(states, means).argmin(dim=1)
    assert float((words.unique()[nearest] == words).float().mean()) > 0.9


@pytest.mark.slow
def test_a_stopped_editor_goes_on_as_if_never_stopped(
    world: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data-root", str(world), "--resolution", "32", "--start", str(start), "--steps", "4"]
    editor.main([*options, "--out", str(tmp_path / "whole.ckpt")])
    whole = read(tmp_path / "whole.ckpt")["state_dict"]
    assert infer(whole).unet.in_channels == 8

    monkeypatch.setattr(fitting, "KEEP_EVERY", 3)
    keep = fitting.save

    def stop_after(*arguments: Any) -> None:
        keep(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "save", stop_after)
        with pytest.raises(KeyboardInterrupt):
            editor.main([*options, "--out", str(tmp_path / "parts.ckpt")])
    assert not (tmp_path / "parts.ckpt").exists()
    with pytest.raises(UserError, match=r"parts.training: kept by a training with other settings; delete it"):
        editor.main([*options, "--steps", "9", "--out", str(tmp_path / "parts.ckpt")])
    (tmp_path / "cut.training").write_bytes((tmp_path / "parts.training").read_bytes()[:999])
    (tmp_path / "cut.ckpt").touch()
    editor.main([*options, "--out", str(tmp_path / "cut.ckpt")])
    assert read(tmp_path / "cut.ckpt")["state_dict"].keys() == whole.keys()
    editor.main([*options, "--out", str(tmp_path / "parts.ckpt")])
    assert not (tmp_path / "parts.training").exists()
    resumed = read(tmp_path / "parts.ckpt")["state_dict"]
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)


def test_the_unet_starts_as_the_identity_on_noise() -> None:
    torch.manual_seed(0)
    unet = build(SMALL, conditioner=False).unet
    pass_noise_through(unet)
    noise = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        found = unet(noise, torch.tensor([999, 500]), torch.zeros(2, 77, SMALL.text.width)).sample
    # The last norm divides by the spread of noise and constants, which is known up to the sampling error.
    torch.testing.assert_close(found, noise, rtol=0, atol=0.02)


def test_an_empty_world_is_named(tmp_path: Path) -> None:
    write_world(tmp_path, 0, 1, size=32, workers=1)
    with pytest.raises(UserError, match="holds no conversations"):
        main(["--data-root", str(tmp_path), "--out", str(tmp_path / "sd.ckpt")])


def test_a_start_like_another_shares_all_but_the_unet(world: Path, start: Path, tmp_path: Path) -> None:
    second, edits = tmp_path / "second.ckpt", tmp_path / "ip2p.ckpt"
    words = ["--data-root", str(world), "--resolution", "32"]
    editor.main([*words, "--start", str(start), "--out", str(edits), "--steps", "1"])
    main([*words, "--out", str(second), "--like", str(edits), "--unet-steps", "1"])
    one, other = read(start)["state_dict"], read(second)["state_dict"]
    same = {name for name in one if torch.equal(one[name], other[name])}
    assert {name for name in one if not name.startswith("model.diffusion")} <= same < one.keys()


def test_sharp_networks_begin_as_averaging_and_as_the_identity() -> None:
    torch.manual_seed(0)
    parts = build(SHARP, conditioner=False)
    pass_colours_through(parts.vae)
    pass_noise_through(parts.unet)
    frames = functional.interpolate(torch.rand(2, 3, 4, 4) * 2 - 1, scale_factor=8)
    # Closed form: flat blocks of 4 x 4 pixels are their own means, but for borders that the decoder's
    # convolutions do not know; the norms divide by nearly a constant.
    found = decoded(parts.vae, frames)
    assert float((found - frames).abs().median()) < 0.03
    noise = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        same = parts.unet(noise, torch.tensor([999, 500]), torch.zeros(2, 77, SHARP.text.width)).sample
    torch.testing.assert_close(same, noise, rtol=0, atol=0.02)


def test_both_halves_of_a_sharp_autoencoder_learn(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step's loss is the sum that is stated, and its gradient reaches encoder and decoder."""
    torch.manual_seed(0)
    vae = build(SHARP, conditioner=False).vae
    frames = read_world(Layout(world, "ego4d"), 32)[0][:2]
    pass_colours_through(vae)
    standardize_latents(vae, frames)
    wrong = decoded(vae, frames) - frames
    steps = [wrong.diff(dim=2).abs().mean(), wrong.diff(dim=3).abs().mean()]
    length = (LATENT_SCALE * encode(vae, frames)).square().mean()
    wanted = wrong.square().mean() + wrong.abs().mean() + sum(steps) + 1e-3 * length
    found = []

    def one_step(_: torch.optim.Adam, loss: Any, count: int, *__: object, **___: object) -> None:
        assert count == 2
        value = loss(torch.arange(count))
        value.backward()
        found.append(float(value.detach()))

    monkeypatch.setattr(autoencoder_training, "LATENT_NOISE", 0.0)
    monkeypatch.setattr(autoencoder_training, "optimize", one_step)
    train_autoencoder(vae, frames, 1)
    assert found == [pytest.approx(float(wanted), rel=0.05)]  # 16 bits, where the processor has tiles
    for half in (vae.encoder.conv_in, vae.decoder.conv_out):
        assert half.weight.grad is not None
        assert half.weight.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def test_a_prompt_book_says_what_the_encoder_says(world: Path) -> None:
    torch.manual_seed(0)
    encoder = build(SMALL, conditioner=False).text_encoder.eval()
    made = read_world(Layout(world, "ego4d"), 32)
    book = fitting.PromptBook(encoder, made, ["the red cup"])
    asked = [made.texts[3], "", "the red cup", made.labels[0], made.texts[3]]
    with torch.no_grad():
        wanted = embed(encoder, make_tokenizer(), asked)
    torch.testing.assert_close(book.read(asked), wanted, rtol=0, atol=1e-5)
