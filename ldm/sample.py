"""Draws the val split's action frames: config and checkpoint in, `<out>/images/<clip>/<action>/<frame>` out.

A second run continues; a run with another checkpoint or other settings refuses the folder.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from egogen.annotations import ClipMetadata, Item, read_metadata
from egogen.cli import parser, run
from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.layout import generated_path, run_root
from egogen.manifest import claim, file_hash
from egogen.seeds import item_seed
from egogen.shards import parse_shard, take_chunk, take_shard
from ldm.baselines.copy import copy_frame
from ldm.checkpoint import load_parts
from ldm.config import GenerateConfig, load_config
from ldm.data import EgoGenPairs, stack
from ldm.pipeline import LegoPipeline
from ldm.transforms import OutputRange, frame_size, read_frame, to_frame

log = logging.getLogger(__name__)
FORMATS = {"jpg": "JPEG", "png": "PNG"}


def arguments() -> argparse.ArgumentParser:
    """The reference's flags, and ours."""
    made = parser("python -m ldm.sample", __doc__)
    made.add_argument("--config", type=Path, required=True, help="a configs/generate_*.yaml")
    made.add_argument("--ckpt", type=Path, help="checkpoint of the model (not for --method copy)")
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
    pairs = EgoGenPairs(config.data, "val", width if needs_features else None, targets=False)
    metadata = read_metadata(config.data.layout().metadata)
    out = args.out or run_root() / "samples" / args.config.stem
    claim(out, settings(config, args))
    mine = take_chunk(pairs.items, args.chunk_idx, args.n_chunk)
    if args.shard:
        mine = take_shard(mine, *parse_shard(args.shard))
    left = [item for item in mine if not frame_path(out, item, config.sampling.format).exists()]
    log.info("%d frames, %d of them are there already", len(mine), len(mine) - len(left))
    if not left:
        return
    sizes = {item.clip: clip_metadata(metadata, item.clip, config) for item in left}
    pairs.check(only=left)
    if args.method == "copy":
        copy_all(pairs, left, sizes, config, out)
    else:
        draw_all(load_pipeline(config, args), pairs, left, sizes, config, out)
    log.info("wrote %s", out / "images")


def settings(config: GenerateConfig, args: argparse.Namespace) -> dict[str, object]:
    """What makes a frame what it is; batch size and sharding are left out, since they change nothing."""
    sampling = asdict(config.sampling)
    del sampling["batch_size"]
    return {
        "method": args.method,
        "dataset": config.data.dataset,
        "checkpoint": None if args.ckpt is None else checkpoint_hash(args.ckpt),
        "ema": not args.no_ema,
        "vllm_features": config.model.vllm_features,
        "text_key": config.data.text_key,
        "resolution": config.data.resolution,
        "annotations": file_hash(config.data.annotations("val")),
        "sampling": sampling,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }


def checkpoint_hash(path: Path) -> str:
    """SHA-256 of the checkpoint.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    return file_hash(path)


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
    return pipeline.to(args.device)


def draw_all(
    pipeline: LegoPipeline,
    pairs: EgoGenPairs,
    items: Sequence[Item],
    sizes: dict[str, ClipMetadata],
    config: GenerateConfig,
    out: Path,
) -> None:
    """Draws items in batches; an item's noise depends on the seed and its own id alone."""
    options = config.sampling
    index_of = {(item.clip, item.id): index for index, item in enumerate(pairs.items)}
    bar = tqdm(total=len(items), desc="draw", unit="frame")
    with pipeline.quiet(), bar:
        for first in range(0, len(items), options.batch_size):
            part = items[first : first + options.batch_size]
            samples = [pairs[index_of[item.clip, item.id]] for item in part]
            stacked = stack(samples, pipeline.device)
            frames = pipeline(
                stacked["source"],
                [sample["prompt"] for sample in samples],
                stacked.get("vllm_image"),
                stacked.get("vllm_text"),
                num_inference_steps=options.steps,
                guidance_scale=options.scale_text,
                image_guidance_scale=options.scale_image,
                generator=[
                    torch.Generator().manual_seed(item_seed(options.seed, item.clip, item.id))
                    for item in part
                ],
                output_type="pt",
            ).images
            for item, frame in zip(part, frames, strict=True):
                size = sizes[item.clip]
                output_range = cast("OutputRange", options.output_range)
                save(out, item, to_frame(frame, size.height, size.width, output_range), options.format)
                bar.update()


def copy_all(
    pairs: EgoGenPairs,
    items: Sequence[Item],
    sizes: dict[str, ClipMetadata],
    config: GenerateConfig,
    out: Path,
) -> None:
    """Writes source frames at the size of generated ones."""
    for item in tqdm(items, desc="copy", unit="frame"):
        size = frame_size(config.data.resolution, sizes[item.clip].height, sizes[item.clip].width)
        frame = copy_frame(read_frame(pairs.frames / item.action.image_0), *size)
        save(out, item, frame, config.sampling.format)


def save(out: Path, item: Item, frame: np.ndarray, kind: str) -> None:
    """Writes a frame atomically, at the image library's default quality (published)."""
    path = frame_path(out, item, kind)
    # A target that is no .jpg keeps its own format, as its name says.
    suffix = path.suffix.lower().lstrip(".")
    with atomic_open(path) as file:
        Image.fromarray(frame).save(file, format=FORMATS.get(suffix, "JPEG"))


if __name__ == "__main__":
    run(main)
