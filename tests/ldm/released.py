"""What the authors released, at toy size: repositories by the published names, layouts and formats.

docs/reproduce.md lists each fact that is assumed here, with its source.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from egogen.annotations import Annotations
from egogen.layout import FOLDERS, Layout
from egogen.toy.world import write_world
from ldm.checkpoints.published_names import EMA_DECAY, EMA_UPDATES, ema_name
from ldm.checkpoints.writing import published_state
from ldm.networks.architecture import build
from ldm.networks.shapes import Architecture, TextShape, UNetShape, VAEShape
from tests.egogen.fake_hub import Hub
from tests.egogen.split_archive import split_archive, whole_archive
from tests.ldm.evaluation.networks import egovlp
from tests.workbench import ROOT

TOY = ROOT / "assets" / "toy"
VLLM = "llava-llama-2-13b-chat-forecasting-finetune"
VISION = "model.vision_tower.vision_tower."
TEXT = "The left hand holds the box while the right hand opens it."
WIDTH = 128  # of the toy LLaVA, which stands for 5120
REPOS = {"ego4d": "bolinlai/LEGO-Ego4D", "epickitchen": "bolinlai/LEGO-EpicKitchens"}
FEATURES = {"ego4d": "Ego4D", "epickitchen": "EpicKitchens"}
# As in Stable Diffusion 1.5: eight heads, norms of 32 groups, text heads 64 wide, eight pixels to a cell.
SHAPE = Architecture(
    unet=UNetShape(channels=[32, 32, 32], attention=[False, False, True], blocks=1),
    vae=VAEShape(channels=[32, 32, 32, 32], blocks=1),
    text=TextShape(width=64, layers=1, heads=1, intermediate=64),
    llm_width=WIDTH,
    mixer_width=64,
)


def saved(content: object) -> bytes:
    """As `torch.save` writes it."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def publish_data(hub: Hub, folder: Path, val: int) -> None:
    """The data set: a split archive of frames, JSON files beside it, stage 1's descriptions in them."""
    write_world(folder, 1, val, size=256, workers=1)
    egogen = folder / "EgoGen"
    for path in egogen.glob("*_val.json"):
        Annotations.read(path).write(path, repeat(TEXT))
    names = [path for data in FOLDERS.values() for path in sorted((egogen / data).rglob("*.jpg"))]
    frames = {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}
    *first, last = split_archive(frames, sum(map(len, frames.values())) // 3)
    repo = hub.repos["dataset", "bolinlai/LEGO-Dataset"]
    repo |= {f"EgoGen.z{number:02d}": part for number, part in enumerate(first, 1)} | {"EgoGen.zip": last}
    texts = [path for path in egogen.rglob("*.json") if path.name != "manifest.json"]
    repo |= {path.relative_to(egogen).as_posix(): path.read_bytes() for path in texts}
    repo["README.md"] = b"# LEGO Dataset"


def publish_diffusion(hub: Hub, dataset: str) -> None:
    """The tuned diffusion model with its UNet's average, and the jointly trained one beside it."""
    torch.manual_seed(0)
    state = published_state(build(replace(SHAPE), conditioner=True), SHAPE)
    unet = [name for name in state if name.startswith("model.diffusion_model.")]
    state |= {ema_name(name): state[name].clone() for name in unet}
    state |= {EMA_DECAY: torch.tensor(0.9999), EMA_UPDATES: torch.tensor(10_000, dtype=torch.int32)}
    repo = hub.repos["model", REPOS[dataset]]
    repo[f"{dataset}_diffusion_with_vllm_feature.ckpt"] = saved({"state_dict": state})
    repo[f"scaleup_training_{dataset}_eval.ckpt"] = b"not asked for"
    repo["config.json"] = b"{}"


def publish_vllm(hub: Hub, dataset: str) -> None:
    """The tuned LLaVA in three shards, the vision tower among them; OpenAI's CLIP in its own repository."""
    clip = next((TOY / "openai").iterdir())
    weights = load_file(TOY / "vllm/model.safetensors")
    weights |= {f"{VISION}{name}": value for name, value in load_file(clip / "model.safetensors").items()}
    names = sorted(weights)
    files: dict[str, bytes] = {}
    where: dict[str, str] = {}
    for number in range(3):
        name = f"pytorch_model-{number + 1:05d}-of-00003.bin"
        files[name] = saved({key: weights[key].clone() for key in names[number::3]})
        where |= dict.fromkeys(names[number::3], name)
    index: dict[str, Any] = {"metadata": {}, "weight_map": where}
    files["pytorch_model.bin.index.json"] = json.dumps(index).encode()
    config = json.loads((TOY / "vllm/config.json").read_text())
    config["mm_vision_tower"] = "openai/clip-vit-large-patch14"
    files["config.json"] = json.dumps(config).encode()
    for name in (
        "generation_config.json",
        "special_tokens_map.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ):
        files[name] = (TOY / "vllm" / name).read_bytes()
    hub.repos["model", REPOS[dataset]] |= {f"{VLLM}/{name}": content for name, content in files.items()}
    hub.repos["model", "openai/clip-vit-large-patch14"] = {
        path.name: path.read_bytes() for path in clip.iterdir()
    } | {"pytorch_model.bin": b"not asked for"}


def publish_features(hub: Hub, dataset: str, folder: Path) -> None:
    """Stage 1's features: zipped `.npy` files of float16, images in two parts."""
    layout, rng = Layout(folder, dataset), np.random.default_rng(0)
    repo = hub.repos["dataset", f"bolinlai/LEGO-VLLM-Features-{FEATURES[dataset]}"]
    for kind, tokens in (("image", 256), ("text", 90)):
        files = {}
        for split in ("train", "val"):
            for item in Annotations.read(layout.annotations(split)):
                stream = io.BytesIO()
                np.save(stream, rng.normal(size=(tokens, WIDTH)).astype(np.float16))
                files[f"{VLLM}/{split}/{item.action.image_0.replace('jpg', 'npy')}"] = stream.getvalue()
        stem = f"{dataset}/vllm_{kind}_feature/{VLLM}"
        if kind == "image":
            first, last = split_archive(files, sum(map(len, files.values())) // 2 + 2000)
            repo |= {f"{stem}-split.z01": first, f"{stem}-split.zip": last}
        else:
            repo[f"{stem}.zip"] = whole_archive(files)


def publish_metrics(hub: Hub) -> None:
    """EgoVLP for both data sets."""
    content = saved({"state_dict": egovlp(), "epoch": 1})
    hub.repos["model", "bolinlai/LEGO-Metrics"] = {"egovlp.pth": content, "epic_mir_plus.pth": content}
