"""What is measured of stage 2: its start, trainings, frames and metrics."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from egogen.features.__main__ import main as features
from ldm.evaluate import main as evaluate
from ldm.sample import main as sample
from ldm.toy.__main__ import main as make_start
from ldm.train import main as train
from tests.ldm.evaluation.networks import write_all
from tests.safety_net.record import Net, digest, tensors

FOLDERS = {"ego4d": "ego4d.fho", "epickitchen": "epickitchen"}
WIDTH, PATCH_WIDTH = 128, 16  # of features, and of the patches that they are projected from
CURVES = ("train/loss_simple", "train/gradient_norm", "val/loss_simple", "val/loss_simple_ema")
MODEL = """
model:
  architecture:
    llm_width: 128
    mixer_width: 256
    text: {width: 128, layers: 2, heads: 2, intermediate: 512}
    unet: {channels: [32, 64, 128], attention: [false, true, true], blocks: 1, heads: 2, groups: 8}
    vae: {channels: [32, 32], blocks: 1, groups: 8}
"""
TRAINING = [
    "model.drop_each=0.15", "data.batch_size=2", "data.flip=0.5", "trainer.effective_batch=4",
    "trainer.validate_every_epochs=5", "model.gradient_checkpointing=false", "trainer.images_every_steps=100",
    "trainer.save_every_steps=100", "trainer.log_every_steps=1", "trainer.threads=1", "sampling.steps=2",
]  # fmt: skip
# The mixer's dropout has draws of its own; without it a run shows whether anything else has changed.
SHORT = ["trainer.max_steps=3", "model.mixer_dropout=0"]
PUBLISHED = ["model.train_conditioner=false", "model.ema_every=batch", "model.gradient_checkpointing=true"]
FEW = {
    "lego": ["sampling.steps=4"],
    "ip2p": ["sampling.steps=4", "data.text_key=action"],
    "sdedit": ["sdedit.steps=6"],
    "proxnpi": ["proxnpi.steps=4"],
    "proxmasactrl": ["proxmasactrl.steps=4", "proxmasactrl.masa_layer=1", "proxmasactrl.masa_step=1"],
    "copy": [],
}
METRICS = "psnr,ssim,toy_success,fid,lpips_squeeze,clip"


class StageTwoNet(Net):
    """Trainings and frames of the toy world."""

    name = "stage2"
    libraries = ("torch", "numpy", "pillow", "diffusers", "transformers", "pytorch-lightning", "torchmetrics")

    @cached_property
    def data(self) -> Path:
        """The world with descriptions and features made up."""
        rng = np.random.default_rng(0)
        weight = rng.normal(size=(WIDTH, PATCH_WIDTH)).astype(np.float32) / 4
        bias = rng.normal(size=WIDTH).astype(np.float32)
        save_file({"weight": weight, "bias": bias}, self.root / "mm_projector.safetensors")
        for dataset in FOLDERS:
            for split in ("train", "val"):
                clips = json.loads((self.world / f"{dataset}_{split}.json").read_text())
                for action in (action for clip in clips.values() for action in clip.values()):
                    action["llava_forecast_finetune"] = f"The left hand slowly does {action['action']}."
                    # Sums of 16 products, in an order of our own: no library's threads can change them.
                    patches = rng.normal(size=(256, PATCH_WIDTH)).astype(np.float32)
                    image = sum(np.outer(patches[:, i], weight[:, i]) for i in range(PATCH_WIDTH)) + bias
                    text = rng.normal(size=(9, WIDTH))
                    for kind, values in (("llava_image", image), ("llava_text", text)):
                        path = self.root / "features" / dataset / split / kind / action["image_0"]
                        path.parent.mkdir(parents=True, exist_ok=True)
                        np.save(path.with_suffix(".npy"), values.astype(np.float16))
                (self.root / f"{dataset}_{split}.json").write_text(json.dumps(clips))
        return self.root

    def source(self, dataset: str) -> dict[str, str]:
        """Settings of one data set."""
        return {
            "dataset": dataset,
            "root": f"{self.world.parent}",
            "train_annotations": f"{self.data / dataset}_train.json",
            "val_annotations": f"{self.data / dataset}_val.json",
            "features": f"{self.root / 'features'}",
        }

    def config(self, name: str, text: str = "") -> Path:
        """A YAML file of this run."""
        path = self.root / f"{name}.yaml"
        path.write_text(MODEL + text)
        return path

    def words(self) -> list[str]:
        """Settings of all runs."""
        found = [f"data.{key}={value}" for key, value in self.source("ego4d").items()]
        return [*found, "data.resolution=32"]

    @cached_property
    def start(self) -> Path:
        """A toy Stable Diffusion of a few steps."""
        path = self.root / "start.ckpt"
        few = ["--vae-steps", "2", "--text-steps", "2", "--unet-steps", "2", "--resolution", "32"]
        make_start(["--data-root", str(self.world.parent), "--out", str(path), *few])
        return path

    def fit(self, name: str, *words: str, text: str = "") -> Path:
        """Trains; returns the run's folder."""
        flags = ["--base", str(self.config(name, text)), "--train", "--logdir", str(self.root / "logs")]
        settings = [f"model.start={self.start}", "data.workers=0", *self.words(), *TRAINING, *words]
        train([*flags, *settings])
        return self.root / "logs" / name

    @cached_property
    def whole(self) -> Path:
        """The training of 20 steps."""
        return self.fit("whole", "trainer.max_steps=20")

    @cached_property
    def untuned(self) -> Path:
        """InstructPix2Pix after two steps."""
        two = ["trainer.max_steps=2", "model.vllm_features=false", "data.text_key=action"]
        return self.fit("ip2p_training", *two)

    @cached_property
    def runs(self) -> dict[str, Path]:
        """Frames of each method that was drawn, by its name."""
        return {}

    def draw(self, method: str) -> Path:
        """Draws the val split, once."""
        if method not in self.runs:
            guided = method in ("lego", "ip2p")
            flags = []
            if method != "copy":
                run = {"lego": "whole", "ip2p": "untuned"}.get(method)
                ckpt = getattr(self, run) / "checkpoints" / "last.ckpt" if run else self.start
                flags = ["--ckpt", str(ckpt)]
            more = "sampling: {format: png, output_range: " + ("stretch}" if guided else "clamp}")
            flags += ["--config", str(self.config("generate", more)), "--method", method, "--device", "cpu"]
            self.runs[method] = self.root / method
            sample([*flags, "--out", str(self.root / method), *self.words(), *FEW[method]])
        return self.runs[method]


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors of a published checkpoint."""
    found: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return found


def curves(run: Path) -> dict[str, list[float]]:
    """What TensorBoard has of every step; 32-bit numbers, all digits."""
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return {name: [event.value for event in events.Scalars(name)] for name in CURVES}


def short(run: Path) -> dict[str, Any]:
    """Curves and all tensors of a short training."""
    return {**curves(run), "checkpoint": digest(state(run / "checkpoints" / "last.ckpt"))}


def joint(net: StageTwoNet) -> dict[str, Any]:
    """A training on both data sets."""
    paths = "".join(f"    {key}: {value}\n" for key, value in net.source("epickitchen").items())
    return short(net.fit("joint", *SHORT, text="joint:\n  -\n" + paths))


def cached(net: StageTwoNet) -> dict[str, Any]:
    """As the toy training: cached latents, a warm-up and a cosine, weighted timesteps."""
    schedule = ["optimizer.warmup_steps=2", "optimizer.schedule=cosine", "optimizer.p2_gamma=0.7"]
    return short(net.fit("cached", *SHORT, "data.cache_latents=true", "optimizer.p2_k=0.1", *schedule))


def compact(net: StageTwoNet) -> dict[str, Any]:
    """Features from shards, projected anew."""
    root = net.data / "compact"
    known = ["--to", "compact", "--projector", str(net.root / "mm_projector.safetensors")]
    features(["convert", str(net.root / "features"), str(root), *known])
    return short(net.fit("compact", *SHORT, "features.store=compact", f"data.features={root}"))


def published(net: StageTwoNet) -> dict[str, Any]:
    """The frozen conditioner, the average after every batch, activations computed twice."""
    return short(net.fit("published", *SHORT, *PUBLISHED))


def frames(method: str) -> Any:
    """Measures the frames of a method."""

    def measured(net: StageTwoNet) -> dict[str, Any]:
        images = net.draw(method) / "images"
        paths = sorted(images.rglob("*.png"))
        return {path.relative_to(images).as_posix(): np.asarray(Image.open(path)) for path in paths}

    return measured


def as_jpeg(net: StageTwoNet, method: str) -> Path:
    """A run with a method's frames under the names of their targets."""
    source, run = net.draw(method), net.root / "measured" / method
    for path in source.rglob("*.png"):
        target = (run / path.relative_to(source)).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target, quality=95)
    return run


def metric(net: StageTwoNet) -> dict[str, Any]:
    """`metric.json` of frames drawn and copied, by networks whose weights are random."""
    runs = [as_jpeg(net, method) for method in ("lego", "copy")]
    world = ["--gt_path", str(net.world / FOLDERS["ego4d"] / "val_gt_for_metric"), "--dataset", "ego4d"]
    world += ["--edit_file", str(net.data / "ego4d_val.json"), "--published", "none", "--device", "cpu"]
    world += ["--metadata", str(net.world / "ego4d_metadata.json"), "--bootstrap", "10"]
    weights = write_all(net.root / "weights")
    evaluate([*world, "--weights", str(weights), "--metrics", METRICS, "--gen_path", *map(str, runs)])
    return {run.name: json.loads((run / "metric" / "metric.json").read_text()) for run in runs}


StageTwoNet.sections = {
    "start": lambda net: digest(state(net.start)),
    "curves": lambda net: curves(net.whole),
    "tensors": lambda net: tensors(state(net.whole / "checkpoints" / "last.ckpt")),
    "joint": joint,
    "cached": cached,
    "compact": compact,
    "published": published,
    "ip2p": lambda net: short(net.untuned),
    **{f"frames-{method}": frames(method) for method in FEW},
    "metric": metric,
}
