"""A folder of drawn frames: what makes them what they are, which are there, and drawing the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int64
from PIL import Image

from egogen.annotations import ClipMetadata, Item, read_metadata
from egogen.errors import UserError, check
from egogen.frames import encoded
from egogen.hints import require
from egogen.layout import OutFormat, generated_name, generated_path, target_name
from egogen.manifest import NAME as MANIFEST
from egogen.manifest import checkpoint_hash, file_hash
from egogen.packed_frames import frame_ending
from egogen.shards import ALONE, WHOLE, Process, Shard, process, take_chunk, take_shard
from egogen.stored_items import choose
from ldm.config.sections import GenerateConfig
from ldm.data.pairs import SplitFiles
from ldm.sampling.drawing_plan import DrawingPlan, Scales
from ldm.sampling.drawn_items import claim_items, item_digests
from ldm.sampling.frame_output import FrameOutput, open_output
from ldm.sampling.method_names import COPY, GUIDED, OF_GUIDED, PIPELINE, SECTIONED

log = logging.getLogger(__name__)
Each = TypeVar("Each")
FORMATS = {"jpg": "JPEG", "png": "PNG"}
# Keys of `sampling` that folders of old do not state, and what they are where they change nothing.
YOUNGER = {"interval_txt": [], "interval_img": [], "timesteps": "own", "precision_vae": "32", "loras": []}


class Share(NamedTuple):
    """Which items are this process's: of a chunk, of a shard, and among a launcher's processes.

    A shard that is `claimed` is one process's, whatever launched it.
    """

    chunk: Shard
    shard: Shard | None = None
    claimed: bool = False

    @property
    def me(self) -> Process:
        """This process among those that share what the flags name."""
        return ALONE if self.claimed else process(self.shard is not None or self.chunk.total > 1)

    def take(self, items: Sequence[Each]) -> Sequence[Each]:
        """Its part of the items, or of what there is of each.

        Raises:
            UserError: there is no such chunk.
        """
        mine = take_chunk(items, *self.chunk)
        if self.shard:
            mine = take_shard(mine, *self.shard)
        return take_shard(mine, self.me.rank + 1, self.me.world_size)

    @property
    def whole(self) -> Shard:
        """It, as one of all shards that there are."""
        shard = (self.shard or WHOLE).within(self.chunk)
        return Shard(self.me.rank + 1, self.me.world_size).within(shard)

    @property
    def name(self) -> str:
        """As part of a file's name; empty if it is everything."""
        rank, _, world_size = self.me
        parts = [f"chunk_{self.chunk.name}"] if self.chunk.total > 1 else []
        parts += [f"shard_{self.shard.name}"] if self.shard else []
        parts += [f"process_{rank + 1}_of_{world_size}"] if world_size > 1 else []
        return "-".join(parts)


@dataclass
class DrawingJob:
    """One folder of frames.

    `settings`: what makes a frame what it is. `known`: gives what each item of the split is drawn from.
    `sizes`: by clip. `items`: those to draw, `rows`: where they stand in `split`, which is all items. `form`:
    what frames are written to, `part`: what files of this process are called.
    """

    out: Path
    scales: Scales
    config: GenerateConfig
    settings: Mapping[str, object]
    known: Callable[[], Iterable[tuple[str, str]]]
    sizes: Mapping[str, ClipMetadata]
    items: Sequence[Item] = ()
    claimed: bool = False
    form: OutFormat = "files"
    part: str = ""
    split: Sequence[Item] = ()
    rows: Int64[np.ndarray, " n"] = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"{self.out}: is a file; --out names a folder")
        if (self.out / MANIFEST).exists():
            self.claim()

    @cached_property
    def output(self) -> FrameOutput:
        """What takes the frames, and knows those that are there."""
        return open_output(self.form, self.out, self.part)

    @property
    def side(self) -> int:
        """Height of a frame."""
        return self.config.sampling.height or self.config.data.resolution

    def claim(self) -> None:
        """Makes the folder that of the settings.

        Raises:
            UserError: it was begun with others.
        """
        claim_items(self.out, self.settings, self.known)
        self.claimed = True

    def path(self, item: Item) -> Path:
        """Where it goes; in the folder of tar files, of which one will hold it, if it is to be in one."""
        return generated_path(self.out, item.action.image_1, self.config.sampling.format)

    def take(self, share: Share) -> int:
        """Keeps those items of a share whose frames are not there yet; a damaged frame is drawn anew.

        Returns:
            How many items the share has.

        Raises:
            UserError: there are frames, and nothing says what drew them.
        """
        self.part = share.name
        self.__dict__.pop("output", None)
        items = share.take(self.split)
        missing = self.output.missing(frame_name(item, self.config) for item in items)
        left = np.flatnonzero(np.fromiter(missing, bool))
        self.items = choose(items, left)
        self.rows = np.asarray(share.take(range(len(self.split))), np.int64)[left]
        if len(self.items) < len(items) and not (self.out / MANIFEST).exists():
            raise UserError(
                f"{self.out}: has frames but no {MANIFEST}, which says what drew them; choose another output "
                "folder or delete this one"
            )
        return len(items)

    def save(self, item: Item, frame: np.ndarray) -> None:
        """Hands on a frame, at the image library's default quality (published), to be written atomically.

        The first one claims the folder: a run that fails before it leaves no trace.

        Raises:
            UserError: another run with other settings has claimed it meanwhile.
        """
        if not self.claimed:
            self.claim()
        name = frame_name(item, self.config)
        # A target that is no .jpg keeps its own format, as its name says.
        self.output.add(name, encoded(Image.fromarray(frame), FORMATS.get(frame_ending(name), "JPEG")))


def frame_name(item: Item, config: GenerateConfig) -> str:
    """An item's frame: the target's own name, unless another format is asked for."""
    return generated_name(target_name(item.action.image_1), config.sampling.format)


def make_jobs(out: Path, plan: DrawingPlan, files: SplitFiles, form: OutFormat = "files") -> list[DrawingJob]:
    """A job for each pair of scales: in `out` itself if there is one pair, else in a folder of it for each.

    Raises:
        UserError: a folder was begun with other settings, or the metadata file lacks a clip.
    """
    config, path = plan.config, plan.config.data.layout().metadata
    sizes = read_metadata(require(path))
    for clip in files.annotations.clips_in_use:
        if clip not in sizes:
            raise UserError(f"{path}: clip {clip!r} is missing; its height and width are needed")
    sampling = config.sampling
    pairs = [Scales(text, image) for text in sampling.scales_txt for image in sampling.scales_img]
    several = len(pairs) > 1 and plan.method in GUIDED
    checkpoint = None if plan.ckpt is None else checkpoint_hash(plan.ckpt)
    known, jobs = partial(item_digests, files), []
    for scales in pairs if several else pairs[:1]:
        folder = out / f"txt{scales.text:g}_img{scales.image:g}" if several else out
        made = settings(plan, files, scales, checkpoint) | ({} if form == "files" else {"out_format": form})
        jobs.append(DrawingJob(folder, scales, config, made, known, sizes, form=form, split=files.items))
    check_paths(jobs[0], files)
    return jobs


def check_paths(job: DrawingJob, files: SplitFiles) -> None:
    """Refuses items that would overwrite each other's frames.

    Raises:
        UserError: two actions share a target frame, or one name but for its ending, which a format replaces.
    """
    if files.are_apart:
        return  # as nearly always
    seen: dict[str, Item] = {}
    for item in job.split:
        other = seen.setdefault(frame_name(item, job.config), item)
        if other is not item:
            raise UserError(
                f"{files.annotations.source}: the actions {other.clip}/{other.id} and {item.clip}/{item.id} "
                f"would be drawn to one file, {job.path(item)}; each needs a target frame (image_1) of its "
                "own, whose names differ in more than their endings unless sampling.format=jpg"
            )


def settings(
    plan: DrawingPlan, files: SplitFiles, scales: Scales, checkpoint: str | None
) -> dict[str, object]:
    """What makes a frame what it is; batch size and sharding are left out, since they change nothing."""
    config, method = plan.config, plan.method
    sampling = asdict(config.sampling)
    sampling["loras"] = []
    if method in GUIDED and config.sampling.loras:
        from ldm.checkpoints.lora_files import told_loras

        sampling["loras"] = told_loras(config.sampling.loras)
    sampling |= {"precision": plan.precisions.unet, "precision_vae": plan.precisions.vae}
    ignored = {"batch_size", "compile", "adapt", "scales_txt", "scales_img"}
    if method in GUIDED:
        sampling |= {"scale_txt": scales.text, "scale_img": scales.image}
    else:
        ignored |= {*OF_GUIDED}
    ignored |= {name for name, nothing in YOUNGER.items() if sampling[name] == nothing}
    if method == COPY:
        ignored |= {"seed", "output_range", "precision"}
    return {
        "method": method,
        "dataset": config.data.dataset,
        "checkpoint": checkpoint,
        "ema": plan.use_ema,
        "vllm_features": config.model.vllm_features,
        "text_key": config.data.text_key,
        "resolution": config.data.resolution,
        "annotations": file_hash(config.data.annotations("val")),
        "sampling": {name: value for name, value in sampling.items() if name not in ignored},
        **({method: section(plan)} if method in SECTIONED else {}),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        "feature_store": files.feature_store,
        "features": files.features_made_by,
    }


def section(plan: DrawingPlan) -> dict[str, object]:
    """A method's own settings; of a pipeline its class too, while its size is the run's resolution."""
    stated = asdict(getattr(plan.config, plan.method))
    if plan.method == PIPELINE and plan.ckpt:
        from ldm.baselines.pipeline_index import open_index

        stated["resolution"] = plan.config.data.resolution
        stated["class"] = open_index(plan.ckpt).name
    return stated


def check_inputs(work: Sequence[DrawingJob], plan: DrawingPlan, files: SplitFiles) -> None:
    """Reads what the jobs will read, once.

    Raises:
        UserError: a file is bad, or `proxnpi.reweight` has a word that no prompt has; names the first.
    """
    if plan.method == "proxnpi":
        from ldm.baselines.token_maps import split_prompt

        words = {word for item in files.items for word in split_prompt(files.prompt(item))}
        for word in plan.config.proxnpi.reweight:
            allowed = "words of the prompts, with their case and full stops"
            check("proxnpi.reweight", word, allowed, word in words)
    left = choose(files.items, np.unique(np.concatenate([job.rows for job in work])))
    files.check(left, targets=False)
    if plan.method not in (COPY, PIPELINE):  # pipelines have tokenizers of their own
        from ldm.networks.text import make_tokenizer, say_lost

        say_lost(make_tokenizer(), map(files.prompt, left), f"{files.annotations.source}")
