"""Filters by an image model: what is kept, what is remembered, the two kinds of model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from egogen.annotations import Annotations
from egogen.errors import UserError
from egogen.layout import Layout
from egogen.prepare import judge as judge_module
from egogen.prepare.__main__ import main
from egogen.prepare.embedders import load_embedder, load_head
from tests.egogen.raw_data import Ego4D, action, make_video
from tests.egogen.scripted import save_scripted


def angles(images: Sequence[Image.Image]) -> np.ndarray:
    """Embeds a picture as a direction: red pictures lie at 0 degrees, others in proportion to their green."""
    greens = np.array([np.asarray(image)[..., 1].mean() for image in images]) / 255
    return 7 * np.stack([np.cos(greens), np.sin(greens)], 1).astype(np.float32)


def coloured(green: int) -> Image.Image:
    return Image.new("RGB", (80, 48), (200, green, 0))


@pytest.fixture
def source(tmp_path: Path) -> Ego4D:
    """Three pairs, whose targets are by 0.05, 0.4 and 1 away from their inputs."""
    made = Ego4D(tmp_path / "ego4d")
    made.add("a", "val", [action(number) for number in range(3)])
    greens = {60: 13, 61: 102, 62: 255}
    make_video(made.clips / "clip-a.mp4", [coloured(greens.get(number, 0)) for number in range(70)],
               options={"crf": "1"})  # fmt: skip
    made.write()
    return made


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures the model was shown, call by call."""
    shown: list[int] = []

    def embed(images: Sequence[Image.Image]) -> np.ndarray:
        shown.append(len(images))
        return angles(images)

    monkeypatch.setattr(judge_module, "load_embedder", lambda *_: embed)
    return shown


def decisions(out: Path) -> dict[str, dict[str, Any]]:
    (path,) = out.rglob("manifest.jsonl")
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}


def model_file(folder: Path) -> Path:
    path = folder / "model.pt"
    path.write_bytes(b"any model")
    return path


def test_pairs_too_alike_or_too_different_are_left_out(
    source: Ego4D, tmp_path: Path, calls: list[int]
) -> None:
    words = source.words(tmp_path / "out", "--embedder", str(model_file(tmp_path)))
    main(["ego4d", *words])
    found = decisions(tmp_path / "out")
    assert [row["reason"] for row in found.values()] == [
        "similarity above 0.97",
        None,
        "similarity below 0.81",
    ]
    assert found["uid-1"]["similarity"] == pytest.approx(np.cos(0.4), abs=0.01)
    layout = Layout(tmp_path / "out", "ego4d")
    assert [item.id for item in Annotations.read(layout.annotations("val"))] == ["uid-1"]
    # Neither their frames nor their targets among those of the metrics are left.
    assert len(list(layout.egogen.rglob("frame_*.jpg"))) == 3
    (report,) = layout.preparation.glob("*/report.md")
    assert "Similarity filter: on, pairs whose embeddings have a cosine of 0.81 to 0.97" in report.read_text()
    # A second run extracts nothing and shows the model nothing.
    before = (layout.preparation / "ego4d_train_val" / "journals" / "clip-a.jsonl").read_bytes()
    main(["ego4d", *words])
    assert calls == [6]
    assert (layout.preparation / "ego4d_train_val" / "journals" / "clip-a.jsonl").read_bytes() == before
    with pytest.raises(UserError, match=r"made with judging\.similarity ="):
        main(["ego4d", *words, "--similarity", "0", "1"])


@pytest.mark.usefixtures("calls")
def test_aesthetic_scores_are_a_linear_layer_on_embeddings(source: Ego4D, tmp_path: Path) -> None:
    head = tmp_path / "head.pth"
    torch.save({"weight": torch.tensor([[10.0, 0.0]]), "bias": torch.tensor([1.0])}, head)
    flags = ["--embedder", str(model_file(tmp_path)), "--similarity", "0", "1"]
    main(
        [
            "ego4d",
            *source.words(tmp_path / "out", *flags, "--aesthetic-head", str(head), "--min-aesthetic", "9"),
        ]
    )
    found = decisions(tmp_path / "out")
    assert [row["aesthetic_1"] for row in found.values()] == pytest.approx(
        10 * np.cos([0.05, 0.4, 1]) + 1, abs=0.1
    )
    assert [row["reason"] for row in found.values()] == [None, None, "aesthetic score below 9"]


@pytest.mark.usefixtures("calls")
def test_a_head_for_another_model(source: Ego4D, tmp_path: Path) -> None:
    head = tmp_path / "head.pth"
    torch.save({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, head)
    with pytest.raises(UserError, match="head is for embeddings of width 768, --embedder gives 2"):
        main(["ego4d", *source.words(tmp_path / "out", "--embedder", str(model_file(tmp_path)),
                                     "--aesthetic-head", str(head))])  # fmt: skip
    head.write_bytes(b"junk")
    with pytest.raises(UserError, match=r"head\.pth: expected tensors 'weight' \[1, d\] and 'bias' \[1\]"):
        load_head(head)


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (48, 80, 3), np.uint8)) for _ in range(3)]


def test_a_transformers_folder(tmp_path: Path) -> None:
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 16}  # fmt: skip
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    processor.save_pretrained(tmp_path)
    found = load_embedder(tmp_path, "unused")(pictures())
    with torch.inference_mode():
        expected = model.get_image_features(**processor(images=pictures(), return_tensors="pt"))
    expected = getattr(expected, "pooler_output", expected)
    assert found.shape == (3, 16)
    assert np.allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("scripted", [False, True])
def test_an_open_clip_file(tmp_path: Path, scripted: bool) -> None:
    """A plain file, and OpenAI's form: a TorchScript archive with settings, whose networks use QuickGELU."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip is in the ldm environment alone")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny-for-tests.json").write_text(
        json.dumps({
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
            "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1},
        })
    )  # fmt: skip
    open_clip.add_model_config(tmp_path / "configs")
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms(
        "tiny-for-tests", pretrained=None, force_quick_gelu=scripted
    )
    if scripted:
        save_scripted({**model.state_dict(), "vocab_size": torch.tensor(100)}, tmp_path / "tiny.pt")
    else:
        torch.save(model.state_dict(), tmp_path / "tiny.pt")
    found = load_embedder(tmp_path / "tiny.pt", "tiny-for-tests")(pictures())
    with torch.inference_mode():
        expected = model.eval().encode_image(torch.stack([transform(image) for image in pictures()]))
    assert np.allclose(found, expected.numpy(), atol=1e-5)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded as an image model"):
        load_embedder(tmp_path, "ViT-L-14")
    with pytest.raises(UserError, match=r"model\.pt: (cannot be loaded as an image model|needs open_clip)"):
        load_embedder(model_file(tmp_path), "ViT-B-32")
