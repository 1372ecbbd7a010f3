"""What stage 2 trains on and draws from: pairs of frames, with their texts, features and draws."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import NotRequired, TypedDict

from egogen.annotations import Annotations, Item, Look
from egogen.blocks import in_blocks
from egogen.errors import UserError
from egogen.features.feature_shards import Shards
from egogen.features.store import made_by
from egogen.frames import FolderFrames, FrameStore, TarFrames
from egogen.hints import require
from egogen.layout import FEATURE_KINDS
from egogen.progress import Progress
from egogen.sample_shards import SampleShards
from ldm.config.sections import DataConfig
from ldm.data.image_features import VISION, Batch, VisionFiles, complete, load_vision
from ldm.data.noise import draw
from ldm.data.order import Key
from ldm.data.split_facts import SplitFacts
from ldm.data.stage_one import StageOne
from ldm.networks.pixels import to_model
from ldm.networks.shapes import BOTH, Streams

log = logging.getLogger(__name__)


class Sample(TypedDict):
    """One pair; a batch holds the same keys with a leading axis, or lists of strings.

    `source`, `target`: frames [3, r, r] in [-1, 1]. `prompt`: the text. `item`: clip and action id.
    `vllm_image` [256, d] and `vllm_text` [77, d]: stage-1 features, absent for InstructPix2Pix and where
    the ablation leaves one out. In place of `vllm_image`, `clip_patches` [256, v] or `clip_pixels`
    [3, s, s], and whose they are in `vision`, until `ldm.data.image_features.complete` has worked on the
    batch: compact and online stores.
    With cached latents, in place of the frames: `source_latent` [4, h, w] (posterior mode, not scaled),
    `target_moments` [8, h, w] (posterior mean and standard deviation) and `text` [77, ctx].
    In training and validation, the draws of `ldm.data.noise`: `t`, `noise`, `posterior_noise`, `scales` and,
    in training alone, `drop`.
    """

    item: str
    prompt: str
    source: NotRequired[Float[Tensor, "3 r r"]]
    target: NotRequired[Float[Tensor, "3 r r"]]
    vllm_image: NotRequired[Float[Tensor, "i d"]]
    vllm_text: NotRequired[Float[Tensor, "t d"]]
    clip_patches: NotRequired[Float[Tensor, "i v"]]
    clip_pixels: NotRequired[Float[Tensor, "3 s s"]]
    vision: NotRequired[str]
    source_latent: NotRequired[Float[Tensor, "c h w"]]
    target_moments: NotRequired[Float[Tensor, "m h w"]]
    text: NotRequired[Float[Tensor, "t ctx"]]
    t: NotRequired[Int64[Tensor, ""]]
    noise: NotRequired[Float[Tensor, "c h w"]]
    posterior_noise: NotRequired[Float[Tensor, "c h w"]]
    scales: NotRequired[Float[Tensor, "2"]]
    drop: NotRequired[Float[Tensor, ""]]


class SplitFiles:
    """What one data set's split holds on disk: annotations, frames and, if wanted, stage 1's features.

    Args:
        config: paths, text key and resolution.
        split: `train` or `val`.
        llm_width: d of the features; None leaves features out.
        store: which store the features are in.
        streams: which of the features are read.

    Raises:
        UserError: an annotation lacks its text; see also `egogen.annotations`.
    """

    def __init__(
        self,
        config: DataConfig,
        split: str,
        llm_width: int | None = None,
        store: str = "npy",
        streams: Streams = BOTH,
    ) -> None:
        self.config, self.split, self.store, self.streams = config, split, store, streams
        facts = SplitFacts(config.text_key, named=llm_width is not None)
        self.annotations, self.frames = open_split(config, split, facts)
        log.info("%s split: %s", split, self.annotations.source)
        self.items = self.annotations.items
        self.are_apart = facts.are_apart  # target frames, by their names
        if facts.lacking is not None:
            self.prompt(facts.lacking)
        self.features: StageOne | None = None
        if llm_width is not None:
            image, text = (config.feature_folder(split, kind) for kind in ("llava_image", "llava_text"))
            marks = facts.input_marks
            self.features = StageOne(store, image, text, llm_width, self.items, streams, marks)

    @property
    def visions(self) -> dict[str, VisionFiles]:
        """What `ldm.data.image_features.complete` needs for the samples, by digest."""
        vision = self.features.vision if self.features else None
        return {vision.digest: vision} if vision else {}

    @property
    def feature_store(self) -> str | None:
        """What decides how stage 1's features are rounded; None for the published form, or without any."""
        if self.features is None or self.store == "npy":
            return None
        texts = self.features.texts
        return f"{self.store}, text {texts.row_type}" if isinstance(texts, Shards) else self.store

    @property
    def features_made_by(self) -> dict[str, str]:
        """A hash of what made the features, for each kind that is read; published ones do not say."""
        read = (False, False) if self.features is None else self.streams
        kinds = [kind for kind, used in zip(FEATURE_KINDS, read, strict=True) if used]
        return {kind: made_by(self.config.feature_folder(self.split, kind)) for kind in kinds}

    def prompt(self, item: Item) -> str:
        """The item's text.

        Raises:
            UserError: it has none under the configured key.
        """
        text = item.action.text(self.config.text_key)
        if text is None:
            raise UserError(
                f"{self.annotations.source}: clip {item.clip!r}, action {item.id!r} has no text "
                f"{self.config.text_key!r}; run llava.describe and llava.merge, or set data.text_key=action"
            )
        return text

    def check(self, only: Sequence[Item] | None = None, targets: bool = True, workers: int = 8) -> None:
        """Reads every file once, in parallel, so that a bad one is named before the work and not within it.

        With `data.check: headers` features are checked by their headers and sizes alone; `only` these items.

        Raises:
            UserError: the first bad file in the order of the annotations, and how many there are.
        """
        for files in self.visions.values():
            load_vision(files)
        items = self.items if only is None else only
        if isinstance(self.frames, SampleShards) and self.config.check == "full" and only is None:
            self.frames.check_sums()
        first, count = None, 0
        with ThreadPoolExecutor(workers) as pool:
            bar = Progress(items, desc=f"check {self.split} files", unit="pair", leave=False)
            for some in in_blocks(bar):  # a pool takes all that it is given at once
                for problem in filter(None, pool.map(lambda item: self.problem(item, targets), some)):
                    first, count = first or problem, count + 1
        if first is not None:
            more = f" ({count} items have such problems)" if count > 1 else ""
            raise UserError(f"{first}{more}")

    def problem(self, item: Item, targets: bool) -> str | None:
        """What is wrong with an item's files, or None."""
        try:
            self.frames.check(item.action.image_0)
            if targets:
                self.frames.check(item.action.image_1)
            if self.features is not None:
                self.features.check(item, full=self.config.check == "full")
        except UserError as error:
            return str(error)
        return None


def open_split(config: DataConfig, split: str, look: Look) -> tuple[Annotations, FrameStore]:
    """Annotations and frames of a split, wherever the settings say that they are; `look` is shown each item.

    Raises:
        UserError: they cannot be read.
    """
    source = require(config.annotations(split))
    if config.webdataset:
        shards = SampleShards(Path(config.webdataset), config.dataset, split)
        if source != shards.source:
            return Annotations.read(source, look), shards
        for item in shards.annotations:
            look(item)
        return shards.annotations, shards
    annotations = Annotations.read(source, look).of(config.dataset)
    if config.frame_tars:
        return annotations, TarFrames(config.tars(split))
    return annotations, FolderFrames(config.layout().frames("train" if split == "train" else "val"))


class Chance(NamedTuple):
    """What the draws of training and validation depend on besides the item and the epoch.

    `seed`: of the run. `side`: height and width of the latents. `flip`: probability that a pair is mirrored
    in training.
    """

    seed: int
    side: int
    flip: float


# A pair's latents and text embedding by its row, plain or mirrored; `ldm.data.latents` reads them from disk.
Latents = Callable[[int, bool], Mapping[str, Tensor]]


class EgoGenPairs(Dataset[Sample]):
    """The pairs of one split, of one data set or of several in a row.

    Args:
        sources: the splits on disk.
        targets: whether target frames are read (drawing does not need them).
        latents: for each source, what replaces its frames and texts; none reads frames.
        chance: adds the draws that belong to a pair: of its epoch for a `Key`, fixed ones for an index.
    """

    def __init__(
        self,
        sources: Sequence[SplitFiles],
        targets: bool = True,
        latents: Sequence[Latents] = (),
        chance: Chance | None = None,
    ) -> None:
        self.sources, self.targets, self.latents, self.chance = sources, targets, latents, chance
        self.ends = list(accumulate(len(files.items) for files in sources))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, key: Key | int) -> Sample:
        """One pair: in training for a `Key`, else for an index."""
        index, epoch = key if isinstance(key, Key) else (key, None)
        place = bisect_right(self.ends, index)
        files = self.sources[place]
        row = index - self.ends[place] + len(files.items)
        item = files.items[row]
        sample: Sample = {"item": item_name(item), "prompt": files.prompt(item)}
        mirrored = False
        if self.chance is not None:
            seed, side, flip = self.chance
            draws = draw(seed, sample["item"], "val" if epoch is None else str(epoch), side, side)
            sample |= {"t": draws.t, "noise": draws.noise, "posterior_noise": draws.posterior_noise}  # type: ignore[typeddict-item]
            sample["scales"] = draws.scales
            if epoch is not None:
                sample["drop"] = draws.drop
                mirrored = draws.flip < flip
        source: Image.Image | None = None
        if self.latents:
            sample.update(cast("Sample", self.latents[place](row, mirrored)))
        else:
            source = files.frames.read(item.action.image_0)
            sample["source"] = prepared(source, files.config.resolution, mirrored)
            if self.targets:
                target = files.frames.read(item.action.image_1)
                sample["target"] = prepared(target, files.config.resolution, mirrored)
        if files.features is not None:
            found = files.features.read(
                item, lambda: files.frames.read(item.action.image_0) if source is None else source
            )
            sample.update(cast("Sample", found))
        return sample

    @property
    def visions(self) -> dict[str, VisionFiles]:
        """What `ldm.data.image_features.complete` needs for the samples, by digest."""
        return {digest: vision for files in self.sources for digest, vision in files.visions.items()}


def prepared(frame: Image.Image, resolution: int, mirrored: bool) -> Float[Tensor, "3 r r"]:
    """A frame, squashed; mirrored perhaps, of which text and features know nothing (F-S2-03)."""
    pixels = to_model(frame, resolution)
    return pixels.flip(-1) if mirrored else pixels


def item_name(item: Item) -> str:
    """Names an item in logs and draws."""
    return f"{item.clip}/{item.id}"


def stack(
    samples: Sequence[Sample], device: torch.device, visions: Mapping[str, VisionFiles] | None = None
) -> Batch:
    """The tensors of samples of one store, each with a leading axis, on a device, with image features."""
    rows = [dict(sample) for sample in samples]
    names = [name for name, value in rows[0].items() if isinstance(value, Tensor)]
    batch: Batch = {name: torch.stack([row[name] for row in rows]).to(device) for name in names}  # type: ignore[misc]
    if VISION in rows[0]:
        batch[VISION] = [row[VISION] for row in rows]
    return complete(batch, visions or {})
