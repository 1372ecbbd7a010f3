"""Draws the val split's action frames: config and checkpoint in, `<out>/images/<clip>/<action>/<frame>` out.

A second run continues; a run with another checkpoint or other settings refuses the folder.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from egogen.annotations import ClipMetadata, Item, read_metadata
from egogen.cli import parser, run
from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.layout import generated_path, run_root
from egogen.manifest import checkpoint_hash, claim, file_hash
from egogen.seeds import item_seed
from egogen.shards import parse_shard, process, take_chunk, take_shard
from ldm.baselines.copy import copy_frame
from ldm.checkpoint import load_parts
from ldm.config import GenerateConfig, load_config
from ldm.data import EgoGenPairs, stack
from ldm.pipeline import LegoPipeline
from ldm.transforms import OutputRange, frame_size, to_frame

log = logging.getLogger(__name__)
FORMATS = {"jpg": "JPEG", "png": "PNG"}


def arguments() -> argparse.ArgumentParser:
    """The reference's flags, and ours."""
    made = parser("python -m ldm.sample", __doc__)
    made.add_argument("--config", type=Path, required=True, help="a configs/generate_*.yaml")
    made.add_argument(
        "--ckpt",
        type=Path,
        help="checkpoint of the model, a file or a diffusers folder (not for --method copy)",
    )
    made.add_argument("--method", choices=["lego", "copy"], default="lego", help="copy: the source frame")
    made.add_argument("--out", type=Path, help="folder of the run [RUN_ROOT/samples/<config>]")
    made.add_argument("--n_chunk", type=int, default=1, help="published split: how many chunks")
    made.add_argument("--chunk_idx", type=int, default=1, help="published split: which chunk, from 1")
    made.add_argument("--shard", help="i/n: every n-th item, starting at the i-th")
    made.add_argument("--batch-size", type=int, help="frames at a time [sampling.batch_size]")
    made.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1"
    )
    made.add_argument("--no-ema", action="store_true", help="use the last weights, not their moving average")
    made.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings, after the file"
    )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, checks, draws what is not there yet."""
    args = arguments().parse_args(argv)
    if (args.ckpt is None) != (args.method == "copy"):
        raise UserError(f"--ckpt: {'not used by' if args.ckpt else 'needed for'} --method {args.method}")
    words = list(args.overrides)
    if args.batch_size is not None:
        words.append(f"sampling.batch_size={args.batch_size}")
    config = load_config(GenerateConfig, [args.config], words)
    width = config.model.architecture.llm_width
    needs_features = config.model.vllm_features and args.method == "lego"
    pairs = EgoGenPairs(
        config.data, "val", width if needs_features else None, targets=False, store=config.features.store
    )
    metadata = read_metadata(config.data.layout().metadata)
    work = [
        Job(folder, scales, pairs.items, config, metadata)
        for folder, scales in folders(args.out or run_root() / "samples" / args.config.stem, config)
    ]
    for job in work:
        claim(job.out, {**settings(config, args, job.scales), "feature_store": pairs.feature_store})
    mine = my_share(pairs.items, args)
    for job in work:
        job.take(mine)
    left = [item for job in work for item in job.items]
    log.info(
        "%d frames, %d of them are there already", len(mine) * len(work), len(mine) * len(work) - len(left)
    )
    if not left:
        return
    pairs.check(only=list({(item.clip, item.id): item for item in left}.values()))
    pipeline = None if args.method == "copy" else load_pipeline(config, args)
    for job in work:
        if pipeline is None:
            copy_all(pairs, job)
        else:
            draw_all(pipeline, pairs, job)
        log.info("wrote %s", job.out / "images")


class Scales(NamedTuple):
    """Guidance scales of one folder of frames."""

    text: float
    image: float


class Job:
    """One folder of frames: what is drawn, how, and how large.

    Args:
        out: the folder.
        scales: guidance scales.
        items: of the split.
        config: the run's settings.
        metadata: sizes by clip.

    Raises:
        UserError: the metadata file lacks a clip.
    """

    def __init__(
        self,
        out: Path,
        scales: Scales,
        items: Sequence[Item],
        config: GenerateConfig,
        metadata: dict[str, ClipMetadata],
    ) -> None:
        self.out, self.scales, self.items, self.config = out, scales, list(items), config
        self.sizes = {item.clip: clip_metadata(metadata, item.clip, config) for item in items}

    def take(self, items: Sequence[Item]) -> None:
        """Keeps those of the items whose frames are not there yet."""
        kind = self.config.sampling.format
        self.items = [item for item in items if not frame_path(self.out, item, kind).exists()]

    def save(self, item: Item, frame: np.ndarray) -> None:
        """Writes a frame atomically, at the image library's default quality (published)."""
        path = frame_path(self.out, item, self.config.sampling.format)
        # A target that is no .jpg keeps its own format, as its name says.
        suffix = path.suffix.lower().lstrip(".")
        with atomic_open(path) as file:
            Image.fromarray(frame).save(file, format=FORMATS.get(suffix, "JPEG"))


def folders(out: Path, config: GenerateConfig) -> list[tuple[Path, Scales]]:
    """A folder for each pair of scales: `out` itself if there is one pair, else one inside it for each."""
    pairs = [
        Scales(text, image) for text in config.sampling.scales_txt for image in config.sampling.scales_img
    ]
    if len(pairs) == 1:
        return [(out, pairs[0])]
    return [(out / f"txt{scales.text:g}_img{scales.image:g}", scales) for scales in pairs]


def my_share(items: Sequence[Item], args: argparse.Namespace) -> list[Item]:
    """The items of this chunk, this shard, and among torchrun's processes of this process."""
    mine = take_chunk(items, args.chunk_idx, args.n_chunk)
    if args.shard:
        mine = take_shard(mine, *parse_shard(args.shard))
    me = process()
    return take_shard(mine, me.rank + 1, me.world_size)


def settings(config: GenerateConfig, args: argparse.Namespace, scales: Scales) -> dict[str, object]:
    """What makes a frame what it is; batch size and sharding are left out, since they change nothing."""
    sampling = asdict(config.sampling)
    for name in ("batch_size", "compile", "scales_txt", "scales_img"):
        del sampling[name]
    sampling |= {"scale_txt": scales.text, "scale_img": scales.image}
    sampling["precision"] = "bf16" if unet_dtype(config, args.device) == torch.bfloat16 else "32"
    return {
        "method": args.method,
        "dataset": config.data.dataset,
        "checkpoint": None if args.ckpt is None else hash_of(args.ckpt),
        "ema": not args.no_ema,
        "vllm_features": config.model.vllm_features,
        "text_key": config.data.text_key,
        "resolution": config.data.resolution,
        "annotations": file_hash(config.data.annotations("val")),
        "sampling": sampling,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }


@cache
def hash_of(path: Path) -> str:
    """SHA-256 of the checkpoint.

    Raises:
        UserError: there is no such file or folder.
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint file or folder")
    return checkpoint_hash(path)


def unet_dtype(config: GenerateConfig, device: str) -> torch.dtype:
    """What `sampling.precision` means on a device."""
    wanted = config.sampling.precision
    if wanted == "auto":
        on_gpu = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        wanted = "bf16" if on_gpu else "32"
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def clip_metadata(metadata: dict[str, ClipMetadata], clip: str, config: GenerateConfig) -> ClipMetadata:
    """Size of a clip.

    Raises:
        UserError: the metadata file does not know the clip.
    """
    if clip not in metadata:
        raise UserError(
            f"{config.data.layout().metadata}: clip {clip!r} is missing; its height and width are needed"
        )
    return metadata[clip]


def frame_path(out: Path, item: Item, kind: str) -> Path:
    """Where an item's frame goes: under the target's own name, unless another format is asked for."""
    path = generated_path(out, item.action.image_1)
    return path if kind == "jpg" else path.with_suffix(f".{kind}")


def load_pipeline(config: GenerateConfig, args: argparse.Namespace) -> LegoPipeline:
    """Loads the checkpoint onto the device."""
    parts = load_parts(
        args.ckpt,
        config.model.architecture,
        use_ema=not args.no_ema,
        conditioner=config.model.vllm_features,
    )
    pipeline = LegoPipeline.from_parts(parts, config.sampling.scheduler)
    device = args.device
    if device == "cuda":
        device = f"cuda:{process().local_rank}"
    pipeline.to(device)
    if unet_dtype(config, args.device) == torch.bfloat16:
        pipeline.unet.to(torch.bfloat16)
    if device.startswith("cuda"):
        pipeline.unet.to(memory_format=torch.channels_last)
    torch.set_float32_matmul_precision("high")
    if config.sampling.compile:
        pipeline.unet.compile()
        pipeline.vae.decoder.compile()
    return pipeline


def draw_all(pipeline: LegoPipeline, pairs: EgoGenPairs, job: Job) -> None:
    """Draws items in batches; an item's noise depends on the seed and its own id alone."""
    options = job.config.sampling
    output_range = cast("OutputRange", options.output_range)
    index_of = {(item.clip, item.id): index for index, item in enumerate(pairs.items)}
    bar = tqdm(total=len(job.items), desc="draw", unit="frame")
    with pipeline.quiet(), bar:
        for first in range(0, len(job.items), options.batch_size):
            part = job.items[first : first + options.batch_size]
            samples = [pairs[index_of[item.clip, item.id]] for item in part]
            stacked = stack(samples, pipeline.device, pairs.visions)
            frames = pipeline(
                stacked["source"],
                [sample["prompt"] for sample in samples],
                stacked.get("vllm_image"),
                stacked.get("vllm_text"),
                num_inference_steps=options.steps,
                guidance_scale=job.scales.text,
                image_guidance_scale=job.scales.image,
                generator=[
                    torch.Generator().manual_seed(item_seed(options.seed, item.clip, item.id))
                    for item in part
                ],
                output_type="pt",
            ).images
            for item, frame in zip(part, frames, strict=True):
                size = job.sizes[item.clip]
                job.save(item, to_frame(frame, size.height, size.width, output_range))
                bar.update()


def copy_all(pairs: EgoGenPairs, job: Job) -> None:
    """Writes source frames at the size of generated ones."""
    for item in tqdm(job.items, desc="copy", unit="frame"):
        clip = job.sizes[item.clip]
        size = frame_size(job.config.data.resolution, clip.height, clip.width)
        job.save(item, copy_frame(pairs.frames.read(item.action.image_0), *size))


if __name__ == "__main__":
    run(main)
