"""Shipping: editor and LEGO in 16 bits, what they share once; commands read them as any other file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from egogen.errors import UserError
from egogen.layout import Layout
from egogen.toy.world import write_world
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.writing import published_state, write
from ldm.networks.architecture import Parts, build
from ldm.networks.distilled import Distilled
from ldm.networks.scales import add_scale_layer, bake, distilled_of, state_distilled
from ldm.networks.text import make_tokenizer, tokenize
from ldm.pipeline import LegoPipeline
from ldm.toy.ship import main
from ldm.toy.shipping import texts_of
from tests.ldm.toy_run import SHAPE


def save(parts: Parts, path: Path) -> None:
    write(path, published_state(parts, SHAPE), SHAPE, 32)


def test_what_is_shipped_reads_as_what_was_trained(tmp_path: Path) -> None:
    write_world(tmp_path, 3, 2, size=32, workers=1)
    torch.manual_seed(0)
    lego = build(SHAPE)
    save(lego._replace(conditioner=None), tmp_path / "editor.ckpt")
    save(lego, tmp_path / "lego.ckpt")
    words = ["--data-root", tmp_path, "--editor", tmp_path / "editor.ckpt", "--out", tmp_path / "out"]
    words += ["--lego", tmp_path / "lego.ckpt", "--names", "lego"]
    words += ["--described", Layout(tmp_path, "ego4d").annotations("val")]
    main(list(map(str, words)))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "frozen.safetensors", "ip2p.safetensors", "lego.safetensors",
    }  # fmt: skip
    found = load_parts(tmp_path / "out" / "lego.safetensors")
    assert load_parts(tmp_path / "out" / "ip2p.safetensors").conditioner is None
    for name in ("unet", "conditioner"):
        for key, value in getattr(lego, name).state_dict().items():
            torch.testing.assert_close(getattr(found, name).state_dict()[key], value.half().float())
    # Every text of the world is read as before, up to 16 bits; a word of no toy text is a zero row.
    texts = sorted(set(texts_of(tmp_path, [])))
    with torch.no_grad():
        told, wanted = (
            encoder.eval()(tokenize(make_tokenizer(), texts)).last_hidden_state
            for encoder in (found.text_encoder, lego.text_encoder)
        )
    torch.testing.assert_close(told, wanted, rtol=0, atol=2e-2)
    (unknown,) = make_tokenizer()("zebra", add_special_tokens=False).input_ids
    assert not found.text_encoder.get_input_embeddings().weight[unknown].any()
    assert LegoPipeline.from_single_file(tmp_path / "out" / "lego.safetensors").conditioner is not None


def test_distillations_still_know_what_they_are(tmp_path: Path) -> None:
    write_world(tmp_path, 1, 1, size=32, workers=1)
    lego = build(SHAPE)
    save(lego._replace(conditioner=None), tmp_path / "editor.ckpt")
    add_scale_layer(lego.unet)
    state_distilled(lego.unet, Distilled([1, 5], [1, 2], phases=4))
    bake(lego.unet, 3.0, 1.5)
    stated = distilled_of(lego.unet)
    write(tmp_path / "baked.ckpt", published_state(lego, SHAPE), SHAPE, 32, stated)
    words = ["--data-root", tmp_path, "--editor", tmp_path / "editor.ckpt", "--out", tmp_path / "out"]
    main(list(map(str, [*words, "--lego", tmp_path / "baked.ckpt", "--names", "lego-4"])))
    found = load_parts(tmp_path / "out" / "lego-4.safetensors")
    assert distilled_of(found.unet) == stated == Distilled([3, 3], [1.5, 1.5], phases=4, baked=True)


def test_a_lego_of_another_editor_is_refused(tmp_path: Path) -> None:
    write_world(tmp_path, 1, 1, size=32, workers=1)
    save(build(SHAPE, conditioner=False), tmp_path / "editor.ckpt")
    save(build(SHAPE), tmp_path / "lego.ckpt")
    words = ["--data-root", tmp_path, "--editor", tmp_path / "editor.ckpt", "--out", tmp_path / "out"]
    words += ["--lego", tmp_path / "lego.ckpt", "--names"]
    with pytest.raises(UserError, match=r"lego.ckpt: first_stage_model\S+ is not the editor's"):
        main([*map(str, words), "lego"])
    with pytest.raises(UserError, match=r"--names a b: expected one for each of 1 LEGOs"):
        main([*map(str, words), "a", "b"])
