"""A toy run whose image features are those of a tiny CLIP, in all three stores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.annotations import Annotations
from egogen.features import write_feature
from egogen.features.__main__ import main as features
from egogen.features.projector import Projector
from egogen.layout import feature_name, features_root
from ldm.config.merge import load_config
from ldm.config.sections import TrainConfig
from ldm.data.loaders import PairsModule
from ldm.networks.architecture import Parts
from ldm.networks.text import make_tokenizer
from tests.ldm.toy_run import TRAINING, WIDTH, Run, base, make_run

STORES = ("npy", "compact", "online")
PATCH_WIDTH = 16
SHORT = [*TRAINING, "trainer.max_steps=2", "trainer.save_every_steps=1", "trainer.images_every_steps=2"]
SHORT += ["trainer.threads=1"]


def make_stores(root: Path) -> Run:
    """Writes the published tree by transformers alone, and converts it."""
    run = make_run(root)
    clip = write_clip(run.root / "clip")
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(WIDTH, PATCH_WIDTH)).astype(np.float32) / 4
    projector = Projector(weight, rng.normal(size=WIDTH).astype(np.float32))
    projector.write(run.root / "mm_projector.safetensors")
    shutil.rmtree(run.features)
    for split in ("train", "val"):
        write_features(run, split, clip, projector)
    for store in STORES[1:]:
        convert(run, run.root / store, "--to", store)
    return run


def write_clip(folder: Path) -> CLIPVisionModel:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=PATCH_WIDTH, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        image_size=64, patch_size=4,
    )  # fmt: skip
    model = CLIPVisionModel(config).eval()
    model.save_pretrained(folder)
    return model


def write_features(run: Run, split: str, clip: CLIPVisionModel, projector: Projector) -> None:
    """The published tree, by transformers alone."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    rng = np.random.default_rng(1)
    for item in Annotations.read(run.annotations(split)):
        frame = Image.open(run.layout.frames(split) / item.action.image_0).convert("RGB")  # type: ignore[arg-type]
        pixels = torch.from_numpy(processor([frame], return_tensors="np")["pixel_values"])
        with torch.no_grad():
            states = clip(pixels, output_hidden_states=True).hidden_states[-2][0, 1:].numpy()
        name = feature_name(item.action.image_0)
        for kind, values in (
            ("llava_image", states @ projector.weight.T + projector.bias),
            ("llava_text", rng.normal(size=(rng.integers(3, 100), WIDTH))),
        ):
            write_feature(features_root(run.features, "ego4d", split, kind) / name, values)  # type: ignore[arg-type]


def convert(run: Run, target: Path, *more: str) -> Path:
    known = ["--projector", str(run.root / "mm_projector.safetensors"), "--clip", str(run.root / "clip")]
    features(["convert", str(run.features), str(target), *known, "--features-per-shard", "4", *more])
    return target


def words(run: Run, store: str, *more: str) -> list[str]:
    root = run.features if store == "npy" else run.root / store
    return [*run.words(), f"data.features={root}", f"features.store={store}", *more]


def module(run: Run, store: str, *more: str) -> PairsModule:
    config = load_config(TrainConfig, [base(run)], words(run, store, *SHORT, *more))
    return PairsModule(config, Parts(None, None, None, None), make_tokenizer())  # type: ignore[arg-type]


def batches(data: PairsModule) -> list[dict[str, Any]]:
    """All val batches as training sees them, then the first training batch."""
    found = [*data.val_dataloader(), next(iter(data.train_dataloader()))]
    return [data.on_after_batch_transfer(batch, 0) for batch in found]
