"""What is measured of stage 1: descriptions with their features, and trainings."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from llava.describe import main as describe
from llava.merge import main as merge
from llava.toy.__main__ import main as make_toy
from llava.train import main as train
from tests.llava_oracle import write_published
from tests.safety_net.record import EXACT_ONLY, Net, digest, sha256, tensors

CURVES = ("loss", "grad_norm", "learning_rate")


class StageOneNet(Net):
    """Descriptions and trainings of the toy world by the tiny checkpoint of the recorded numbers."""

    name = "stage1"
    libraries = ("torch", "numpy", "pillow", "transformers", "sentencepiece", "accelerate", "peft")

    @cached_property
    def start(self) -> Path:
        """The tiny checkpoint."""
        (self.root / "published").mkdir()
        return write_published(self.root / "published")

    def describe(self, dataset: str, *more: str) -> Path:
        """Describes the four val frames of a data set; returns the folder of texts and features."""
        out = self.root / "-".join(("described", dataset, *more))
        folder = self.world / ("ego4d.fho" if dataset == "ego4d" else dataset) / "val"
        flags = [
            "--model-path",
            str(self.start),
            "--image-dir",
            str(folder),
            "--save-path",
            str(out / "texts"),
        ]
        flags += ["--action-label", str(self.world / f"{dataset}_val.json"), "--max-new-tokens", "12"]
        flags += ["--save-image-feature-path", str(out / "image")]
        describe([*flags, "--save-text-feature-path", str(out / "text"), *more])
        return out

    def fit(self, name: str, *more: str) -> Path:
        """Trains on the toy world's eight conversations, two of them at a time."""
        out = self.root / name
        records = self.world / "curation_from_gpt" / "ego4d_for_tuning_forecasting.json"
        flags = ["--model_name_or_path", str(self.start), "--data_path", str(records), "--bf16", "False"]
        flags += ["--image_folder", str(self.world / "ego4d.fho" / "train"), "--output_dir", str(out)]
        flags += ["--use_cpu", "True", "--per_device_train_batch_size", "2", "--learning_rate", "1e-3"]
        train([*flags, "--logging_steps", "1", "--lr_scheduler_type", "cosine", *more])
        return out


def written(out: Path) -> dict[str, Any]:
    """Texts, the journal's lines, and features: hash and first rows of each."""
    found: dict[str, Any] = {
        "texts": json.loads((out / "texts" / "chunk_1_of_1.json").read_text()),
        "journal": [*map(json.loads, (out / "texts" / "chunk_1_of_1.jsonl").read_text().splitlines())],
    }
    for path in sorted(out.rglob("*.npy")):
        values, name = np.load(path), path.relative_to(out).as_posix()
        found[f"{name} hash"] = {EXACT_ONLY: sha256(values.tobytes()), "shape": list(values.shape)}
        found[name] = values[:2]
    return found


def described(net: StageOneNet) -> dict[str, Any]:
    """Four actions of Ego4D."""
    return written(net.describe("ego4d"))


def greedy(net: StageOneNet) -> dict[str, Any]:
    """Four of EPIC-KITCHENS by their likeliest tokens, for the target frame."""
    return written(net.describe("epickitchen", "--greedy", "--setting", "description"))


def compact(net: StageOneNet) -> dict[str, Any]:
    """The texts, and shards of patches and rows."""
    out = net.describe("ego4d", "--feature-store", "compact")
    shards = [path for path in sorted(out.rglob("*.safetensors")) if path.is_file()]
    assert shards
    return written(out) | {
        "shards": {path.relative_to(out).as_posix(): tensors(load_file(path)) for path in shards}
    }


def merged(net: StageOneNet) -> dict[str, Any]:
    """The annotation file with descriptions."""
    out = net.describe("ego4d")
    target = out / "merged.json"
    edits = str(net.world / "ego4d_val.json")
    merge(["--save-path", str(out / "texts"), "--edits", edits, "--out", str(target)])
    return {"merged": json.loads(target.read_text())}


def history(run: Path) -> dict[str, Any]:
    """Loss, gradient norm and rate of every step."""
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return {name: [entry[name] for entry in log if name in entry] for name in CURVES}


def trained(net: StageOneNet) -> dict[str, Any]:
    """Eight steps of all weights, and every tensor."""
    run = net.fit("trained", "--num_train_epochs", "2", "--warmup_ratio", "0.2")
    return history(run) | {"tensors": tensors(load_file(run / "model.safetensors"))}


def adapters(net: StageOneNet) -> dict[str, Any]:
    """Four steps of LoRA's adapters."""
    run = net.fit("adapters", "--num_train_epochs", "1", "--lora_enable", "True", "--lora_r", "4")
    return history(run) | {"tensors": tensors(load_file(run / "adapter_model.safetensors"))}


def toy(net: StageOneNet) -> dict[str, Any]:
    """A toy LLaVA of two steps."""
    out = net.root / "toy" / "llava"
    few = ["--vision-steps", "2", "--language-steps", "2", "--dataset", "ego4d"]
    make_toy(["--data-root", str(net.world.parent), "--out", str(out), *few])
    found = {}
    for path in sorted(out.parent.rglob("*")):
        if path.suffix in (".safetensors", ".bin"):
            state = torch.load(path, weights_only=True) if path.suffix == ".bin" else load_file(path)
            found[path.relative_to(out.parent).as_posix()] = digest(state)
    assert found
    return found


StageOneNet.sections = {
    "described": described,
    "greedy": greedy,
    "compact": compact,
    "merged": merged,
    "trained": trained,
    "adapters": adapters,
    "toy": toy,
}
