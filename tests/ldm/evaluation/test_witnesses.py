"""CLIP and FID against other libraries on the same weights; intervals and tests against closed forms."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from egogen.clip_pixels import CLIP_MEAN, CLIP_STD
from ldm.metrics import clip, fid
from ldm.metrics.frames.resize import cover, normalize, resize
from ldm.metrics.networks.metric_weights import CLIP, INCEPTION
from ldm.metrics.results.intervals import interval, paired_p_value

CPU = torch.device("cpu")
# open_clip's names -> those of transformers, in this order.
NAMES = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.": "vision_model.embeddings.patch_embedding.",
    "ln_pre.": "vision_model.pre_layrnorm.",
    "ln_post.": "vision_model.post_layernorm.",
    "transformer.resblocks.": "vision_model.encoder.layers.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}


def as_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for name, value in state.items():
        new = name
        for old, other in NAMES.items():
            new = new.replace(old, other)
        if name == "proj":
            found["visual_projection.weight"] = value.T
        elif ".attn.in_proj_" in name:
            kind = name.rpartition("_")[2]
            base = new.partition(".attn.")[0]
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                found[f"{base}.self_attn.{part}_proj.{kind}"] = piece
        else:
            found[new] = value
    return found


def test_clip_against_transformers(weights: Path) -> None:
    ours = clip.load(weights / CLIP.name, CPU)
    config = CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, projection_dim=64, num_hidden_layers=2, num_attention_heads=2,
        image_size=224, patch_size=32, hidden_act="quick_gelu",
    )  # fmt: skip
    theirs = CLIPVisionModelWithProjection(config).eval()
    theirs.load_state_dict(as_transformers(ours.state_dict()))
    images = torch.rand(2, 3, 60, 90, generator=torch.Generator().manual_seed(0))
    pixels = normalize(resize(images, 224, 224, "bicubic", antialias=False), CLIP_MEAN, CLIP_STD)
    with torch.no_grad():
        witness = torch.nn.functional.normalize(theirs(pixel_values=pixels).image_embeds, dim=-1)
    torch.testing.assert_close(clip.embed(ours, images), witness, atol=1e-6, rtol=0)


def test_corrected_clip_sees_what_open_clip_prepares(weights: Path) -> None:
    """Resized with antialiasing, cut to the middle: within two grey levels of open_clip's own on 8 bits."""
    network = clip.load(weights / CLIP.name, CPU)
    coarse = torch.rand(1, 3, 16, 22, generator=torch.Generator().manual_seed(0))
    image = (resize(coarse, 256, 341, "bilinear", antialias=False)[0] * 255).byte()
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    prepare = image_transform(224, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    ours = normalize(
        cover(image[None].float() / 255, 224, "bicubic", antialias=True).clamp(0, 1), CLIP_MEAN, CLIP_STD
    )[0]
    assert float((ours - prepare(pil)).abs().max()) < 2 / 255 / min(CLIP_STD)
    assert clip.embed(network, image[None].float() / 255, "corrected").shape == (1, 64)


@pytest.mark.slow
def test_fid_against_torchmetrics(weights: Path) -> None:
    """Of what Inception sees, in the first 64 of 2,048 features: 1e-4."""
    network = fid.load(weights / INCEPTION.name, CPU)

    class Seen(torch.nn.Identity):
        num_features = 64

    theirs = FrechetInceptionDistance(feature=Seen())
    sides = []
    for real in (True, False):
        generator = torch.Generator().manual_seed(int(real))
        images = torch.rand(6, 3, 299, 299, generator=generator) ** (1 + int(real))
        vectors = fid.activations(network, images)[:, :64]
        theirs.update(vectors, real=real)
        sides.append(fid.Moments.empty(64))
        sides[-1].add(vectors.numpy())
    a, b = sides
    ours = fid.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-4)


def test_intervals_cover_as_often_as_they_say() -> None:
    """Of 95 % intervals of normal samples about 95 % hold the true mean: 180 to 198 of 200."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = interval(generator.normal(3, 1, 60), 300) or (0.0, 0.0)
        hits += low <= 3 <= high
    assert 180 <= hits <= 198


def test_intervals_are_repeatable_and_honest() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    assert interval(values, 100) == interval(values, 100)
    assert interval([5.0, 5.0, 5.0], 100) == [5.0, 5.0]
    assert interval([1.0], 100) is None
    assert interval([1.0, float("inf")], 100) is None
    assert interval(values, 0) is None


def test_paired_test_by_counting() -> None:
    """With six items all 64 ways of swapping are counted."""
    a, b = [3.0, 2.0, 5.0, 4.0, 6.0, 7.0], [2.5, 2.2, 4.0, 3.0, 5.5, 5.0]
    differences = np.subtract(a, b)
    means = [abs(np.mean(differences * signs)) for signs in product((1, -1), repeat=6)]
    expected = np.mean([mean >= abs(differences.mean()) - 1e-12 for mean in means])
    assert paired_p_value(a, b) == pytest.approx(expected)


def test_paired_test_of_equal_and_of_far_runs() -> None:
    values = list(np.random.default_rng(0).normal(size=200))
    assert paired_p_value(values, values) == 1.0
    assert paired_p_value([value + 1 for value in values], values) == pytest.approx(2e-4, abs=1e-4)
    assert paired_p_value([1.0], [2.0]) is None
    assert paired_p_value([float("inf"), 1.0], [float("inf"), 1.0]) is None
