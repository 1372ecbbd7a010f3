"""Draws the val split's action frames: config and checkpoint in, `<out>/images/<clip>/<action>/<frame>` out.

A second run continues; a run with another checkpoint or other settings refuses the folder.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from egogen.annotations import ClipMetadata, Item, read_metadata
from egogen.cli import parser, run
from egogen.errors import UserError, check
from egogen.files import atomic_open
from egogen.layout import generated_path, run_root
from egogen.locks import hold
from egogen.manifest import NAME as MANIFEST
from egogen.manifest import checkpoint_hash, claim, file_hash
from egogen.shards import parse_shard, process, take_chunk, take_shard
from egogen.validate.frame_files import probe
from ldm.baselines.copy import copy_frame
from ldm.baselines.token_maps import split_prompt
from ldm.checkpoints.source import open_source, with_sizes
from ldm.config.merge import load_config, split_words
from ldm.config.sections import GenerateConfig
from ldm.data.noise import item_generator
from ldm.data.pairs import EgoGenPairs, SplitFiles, stack
from ldm.networks.devices import HELP, find_device
from ldm.networks.pixels import frame_size, to_frame
from ldm.sampling.methods import COPY, GUIDED, METHODS, PLAIN, Drawer, Request, Scales, make_drawer

log = logging.getLogger(__name__)
FORMATS = {"jpg": "JPEG", "png": "PNG"}
OF_GUIDED = ("scheduler", "steps", "scales_txt", "scales_img")  # of `sampling`; other methods have their own


def arguments() -> argparse.ArgumentParser:
    """The reference's flags, and ours."""
    made = parser("python -m ldm.sample", __doc__)
    made.add_argument(
        "--config", nargs="+", required=True, metavar="YAML",
        help="a configs/generate_*.yaml, and files to lay over it, such as configs/methods/*.yaml",
    )  # fmt: skip
    made.add_argument(
        "--ckpt",
        type=Path,
        help="checkpoint of the model, a file or a diffusers folder (not for --method copy)",
    )
    made.add_argument(
        "--method", choices=METHODS, default=METHODS[0], help="what draws; copy is the source frame itself"
    )
    made.add_argument("--out", type=Path, help="folder of the run [RUN_ROOT/samples/<config>[_<method>]]")
    made.add_argument("--n_chunk", type=int, default=1, help="published split: how many chunks")
    made.add_argument("--chunk_idx", type=int, default=1, help="published split: which chunk, from 1")
    made.add_argument("--shard", help="i/n: every n-th item, starting at the i-th")
    made.add_argument("--batch-size", type=int, help="frames at a time [sampling.batch_size]")
    made.add_argument("--device", default="auto", help=f"{HELP}; several processes take a GPU each")
    made.add_argument("--no-ema", action="store_true", help="use the last weights, not their moving average")
    made.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings, after the file"
    )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, checks, draws what is not there yet."""
    args = arguments().parse_intermixed_args(argv)
    if (args.ckpt is None) != (args.method == "copy"):
        raise UserError(f"--ckpt: {'not used by' if args.ckpt else 'needed for'} --method {args.method}")
    device = find_device(args.device, process().local_rank)
    yamls, words = split_words(args.config)
    words += args.overrides
    if args.batch_size is not None:
        words.append(f"sampling.batch_size={args.batch_size}")
    check_words(words, args.method)
    config = fitting(load_config(GenerateConfig, yamls, words), args.method, args.ckpt)
    width = config.model.shape.llm_width if config.model.vllm_features else None
    files = SplitFiles(config.data, "val", width, config.features.store, config.model.streams)
    metadata = read_metadata(config.data.layout().metadata)
    name = yamls[0].stem if args.method == "lego" else f"{yamls[0].stem}_{args.method}"
    work = [
        Job(folder, scales, files.items, config, metadata)
        for folder, scales in folders(args.out or run_root() / "samples" / name, config, args.method)
    ]
    features = {"feature_store": files.feature_store, "features": files.features_made_by}
    for job in work:
        job.settings = {**settings(config, args, device, job.scales), **features}
        if (job.out / MANIFEST).exists():
            job.claim()
    share = share_name(args.chunk_idx, args.n_chunk, args.shard)
    with ExitStack() as held:
        for job in work:
            held.enter_context(hold(job.out, "drawing", share))
        mine = my_share(files.items, args)
        for job in work:
            job.take(mine)
        left = [item for job in work for item in job.items]
        total = len(mine) * len(work)
        log.info("%d frames, %d of them are there already", total, total - len(left))
        if not left:
            return
        if args.method == "proxnpi":
            check_reweight(config, files)
        files.check(list({(item.clip, item.id): item for item in left}.values()), targets=False)
        drawer = None
        if args.method != COPY:
            dtype = unet_dtype(config, device)
            drawer = make_drawer(args.method, config, args.ckpt, not args.no_ema, device, dtype)
        draw_jobs(work, drawer, files, device)


def fitting(config: GenerateConfig, method: str, ckpt: Path | None) -> GenerateConfig:
    """The settings for a method: LEGO alone takes features, as wide as its checkpoint says."""
    if method == "lego" and config.model.vllm_features and ckpt:
        return replace(config, model=with_sizes(config.model, open_source(ckpt)))
    return replace(config, model=replace(config.model, vllm_features=False))


def check_words(words: Sequence[str], method: str) -> None:
    """Refuses a setting from the command line that the method would ignore.

    Raises:
        UserError: names it.
    """
    unused = [f"{name}{mark}" for name in PLAIN if name != method for mark in ".="]
    if method not in GUIDED:
        unused += [f"sampling.{name}=" for name in OF_GUIDED]
    for word in words:
        if word.startswith(tuple(unused)):
            raise UserError(f"{word!r}: --method {method} does not use it; see docs/baselines.md")


def check_reweight(config: GenerateConfig, files: SplitFiles) -> None:
    """Refuses factors of words that no prompt has.

    Raises:
        UserError: names the first.
    """
    words = {word for item in files.items for word in split_prompt(files.prompt(item))}
    for word in config.proxnpi.reweight:
        check("proxnpi.reweight", word, "words of the prompts, with their case and full stops", word in words)


class Job:
    """One folder of frames: what is drawn, how, and how large.

    Args:
        out: the folder.
        scales: guidance scales.
        items: of the split.
        config: the run's settings.
        metadata: sizes by clip.

    Raises:
        UserError: the metadata file lacks a clip, or `out` is a file.
    """

    def __init__(
        self,
        out: Path,
        scales: Scales,
        items: Sequence[Item],
        config: GenerateConfig,
        metadata: dict[str, ClipMetadata],
    ) -> None:
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file; --out names a folder")
        self.out, self.scales, self.items, self.config = out, scales, list(items), config
        self.side = config.sampling.height or config.data.resolution
        self.sizes = {item.clip: clip_metadata(metadata, item.clip, config) for item in items}
        self.settings: dict[str, object] = {}
        self.claimed = False

    def claim(self) -> None:
        """Makes the folder that of the settings.

        Raises:
            UserError: it was begun with others.
        """
        claim(self.out, self.settings)
        self.claimed = True

    def take(self, items: Sequence[Item]) -> None:
        """Keeps those of the items whose frames are not there yet; a frame that is damaged is drawn anew.

        Raises:
            UserError: there are frames, and nothing says what drew them.
        """
        kind = self.config.sampling.format
        self.items = [item for item in items if not is_drawn(frame_path(self.out, item, kind))]
        if len(self.items) < len(items) and not (self.out / MANIFEST).exists():
            raise UserError(
                f"{self.out}: has frames but no {MANIFEST}, which says what drew them; choose another output "
                "folder or delete this one"
            )

    def save(self, item: Item, frame: np.ndarray) -> None:
        """Writes a frame atomically, at the image library's default quality (published).

        The first one claims the folder: a run that fails before it leaves no trace.

        Raises:
            UserError: another run with other settings has claimed it meanwhile.
        """
        if not self.claimed:
            self.claim()
        path = frame_path(self.out, item, self.config.sampling.format)
        # A target that is no .jpg keeps its own format, as its name says.
        suffix = path.suffix.lower().lstrip(".")
        with atomic_open(path) as file:
            Image.fromarray(frame).save(file, format=FORMATS.get(suffix, "JPEG"))


def folders(out: Path, config: GenerateConfig, method: str) -> list[tuple[Path, Scales]]:
    """A folder for each pair of scales: `out` itself if there is one pair, else one inside it for each."""
    pairs = [
        Scales(text, image) for text in config.sampling.scales_txt for image in config.sampling.scales_img
    ]
    if len(pairs) == 1 or method not in GUIDED:
        return [(out, pairs[0])]
    return [(out / f"txt{scales.text:g}_img{scales.image:g}", scales) for scales in pairs]


def my_share(items: Sequence[Item], args: argparse.Namespace) -> list[Item]:
    """The items of this chunk, this shard, and among torchrun's processes of this process."""
    mine = take_chunk(items, args.chunk_idx, args.n_chunk)
    if args.shard:
        mine = take_shard(mine, *parse_shard(args.shard))
    me = process()
    return take_shard(mine, me.rank + 1, me.world_size)


def share_name(chunk: int, chunks: int, shard: str | None) -> str:
    """What `my_share` takes, as part of a file's name; empty if that is everything."""
    rank, _, world_size = process()
    parts = [f"chunk_{chunk}_of_{chunks}"] if chunks > 1 else []
    parts += [f"shard_{shard.replace('/', '_of_')}"] if shard else []
    parts += [f"process_{rank + 1}_of_{world_size}"] if world_size > 1 else []
    return "-".join(parts)


def settings(
    config: GenerateConfig, args: argparse.Namespace, device: torch.device, scales: Scales
) -> dict[str, object]:
    """What makes a frame what it is; batch size and sharding are left out, since they change nothing."""
    precision = "bf16" if unet_dtype(config, device) == torch.bfloat16 else "32"
    sampling = asdict(config.sampling) | {"precision": precision}
    own = asdict(getattr(config, args.method)) if args.method in PLAIN else {}
    ignored = ("seed", "output_range", "precision") if args.method == COPY else ()
    for name in ("batch_size", "compile", *OF_GUIDED, *ignored):
        del sampling[name]
    if args.method in GUIDED:
        kept = {"scheduler": config.sampling.scheduler, "steps": config.sampling.steps}
        sampling |= {**kept, "scale_txt": scales.text, "scale_img": scales.image}
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
        **({args.method: own} if own else {}),
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


def unet_dtype(config: GenerateConfig, device: torch.device) -> torch.dtype:
    """What `sampling.precision` means on a device."""
    wanted = config.sampling.precision
    if wanted == "auto":
        on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
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


def is_drawn(path: Path) -> bool:
    """Whether a frame is there and can be decoded to its end."""
    if not path.exists():
        return False
    fault = probe(path).fault
    if fault:
        log.warning("%s: %s; it is drawn anew", path, fault)
    return not fault


def draw_jobs(work: Sequence[Job], drawer: Drawer | None, files: SplitFiles, device: torch.device) -> None:
    """Draws what all jobs have left.

    Args:
        work: the jobs.
        drawer: None copies source frames.
        files: of the split.
        device: of the drawer.

    Raises:
        UserError: after the last job, if frames are not finite.
    """
    broken: list[str] = []
    for job in work:
        if drawer is None:
            copy_all(files, job)
        else:
            broken += draw_all(drawer, files, job, device)
        log.info("wrote %s", job.out / "images")
    if broken:
        count = sum(len(job.items) for job in work)
        raise UserError(
            f"{broken[0]}: not finite, as are {len(broken)} of {count} frames; they are not written, the "
            "others are. Try sampling.precision=32, or another checkpoint"
        )


def draw_all(drawer: Drawer, files: SplitFiles, job: Job, device: torch.device) -> list[str]:
    """Draws items in batches; an item's noise depends on the seed and its own id alone.

    Returns:
        Paths of frames that are not finite; they are not written.
    """
    broken = []
    options = job.config.sampling
    pairs = EgoGenPairs([files], targets=False)
    index_of = {(item.clip, item.id): index for index, item in enumerate(files.items)}
    with tqdm(total=len(job.items), desc="draw", unit="frame") as bar:
        for first in range(0, len(job.items), options.batch_size):
            part = job.items[first : first + options.batch_size]
            samples = [pairs[index_of[item.clip, item.id]] for item in part]
            stacked = stack(samples, device, pairs.visions)
            request = Request(
                stacked["source"],
                [sample["prompt"] for sample in samples],
                [item_generator(options.seed, item.clip, item.id) for item in part],
                job.scales,
                stacked.get("vllm_image"),
                stacked.get("vllm_text"),
            )
            for item, frame in zip(part, drawer(request), strict=True):
                bar.update()
                if not frame.isfinite().all():
                    broken.append(f"{frame_path(job.out, item, options.format)}")
                    continue
                size = job.sizes[item.clip]
                job.save(item, to_frame(frame, size.height, size.width, options.output_range, job.side))
    return broken


def copy_all(files: SplitFiles, job: Job) -> None:
    """Writes source frames at the size of generated ones."""
    for item in tqdm(job.items, desc="copy", unit="frame"):
        clip = job.sizes[item.clip]
        size = frame_size(job.side, clip.height, clip.width)
        job.save(item, copy_frame(files.frames.read(item.action.image_0), *size))


if __name__ == "__main__":
    run(main)
