"""One data set for training, validation and sampling: pairs of frames, their text and stage-1 features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from typing_extensions import NotRequired, TypedDict

from egogen.annotations import Annotations, Item
from egogen.errors import UserError
from egogen.features.feature_shards import Shards
from egogen.features.store import made_by
from egogen.frames import FolderFrames, FrameStore, TarFrames
from egogen.layout import FEATURE_KINDS
from ldm.conditioner import BOTH, Streams
from ldm.config.sections import DataConfig
from ldm.data.image_features import VISION, Batch, VisionFiles, complete, load_vision
from ldm.data.noise import draw
from ldm.data.order import Key
from ldm.data.stage_one import StageOne
from ldm.networks.pixels import to_model

log = logging.getLogger(__name__)


class Sample(TypedDict):
    """One pair; a batch holds the same keys with a leading axis, or lists of strings.

    `source`, `target`: frames [3, r, r] in [-1, 1]. `prompt`: the text. `item`: clip and action id.
    `vllm_image` [256, d] and `vllm_text` [77, d]: stage-1 features, absent for InstructPix2Pix and where
    the ablation leaves one out. In place of `vllm_image`, `clip_patches` [256, v] or `clip_pixels`
    [3, s, s], and whose they are in `vision`, until `ldm.data.image_features.complete` has worked on the batch: compact
    and online stores.
    With cached latents, in place of the frames: `source_latent` [4, h, w] (posterior mode, not scaled),
    `target_moments` [8, h, w] (posterior mean and standard deviation) and `text` [77, ctx].
    In training and validation, the draws of `ldm.data.noise`: `t`, `noise`, `posterior_noise` and, in training
    alone, `drop`.
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
    drop: NotRequired[Float[Tensor, ""]]


@runtime_checkable
class Pairs(Protocol):
    """Samples by index, plain or mirrored."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Id of a pair: clip and action."""
        ...

    def sample(self, index: int, mirrored: bool = False) -> Sample:
        """One pair; `mirrored` swaps left and right of both frames, never of text or features (F-S2-03)."""
        ...


class EgoGenPairs(Dataset[Sample]):
    """The pairs of one split.

    Args:
        config: paths, text key and resolution.
        split: `train` or `val`.
        llm_width: d of the features; None leaves features out.
        targets: whether target frames are read (sampling does not need them).
        store: which store the features are in.
        streams: which of the features are read.

    Raises:
        UserError: an annotation lacks its text; see also `egogen.annotations`.
    """

    def __init__(
        self,
        config: DataConfig,
        split: str,
        llm_width: int | None,
        targets: bool = True,
        store: str = "npy",
        streams: Streams = BOTH,
    ) -> None:
        self.config = config
        self.split = split
        self.store, self.streams = store, streams
        self.targets = targets
        self.annotations = Annotations.read(config.annotations(split))
        log.info("%s split: %s", split, self.annotations.source)
        folder = config.layout().frames("train" if split == "train" else "val")
        self.frames: FrameStore = TarFrames(config.tars(split)) if config.frame_tars else FolderFrames(folder)
        self.items = self.annotations.items
        if not self.items:
            raise UserError(f"{self.annotations.source}: holds no actions; nothing to do")
        for item in self.items:
            self.prompt(item)
        self.features: StageOne | None = None
        if llm_width is not None:
            image, text = (config.feature_folder(split, kind) for kind in ("llava_image", "llava_text"))
            self.features = StageOne(store, image, text, llm_width, self.items, streams)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index)

    def name(self, index: int) -> str:
        """Id of a pair."""
        return item_name(self.items[index])

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

    def sample(self, index: int, mirrored: bool = False) -> Sample:
        """One pair with its frames."""
        item = self.items[index]
        source = self.frames.read(item.action.image_0)
        sample: Sample = {
            "item": item_name(item),
            "prompt": self.prompt(item),
            "source": self.prepared(source, mirrored),
        }
        if self.targets:
            sample["target"] = self.prepared(self.frames.read(item.action.image_1), mirrored)
        return self.with_features(sample, item, source)

    def with_features(self, sample: Sample, item: Item, source: Image.Image | None = None) -> Sample:
        """Adds what there is of stage 1, if this data set has it.

        Args:
            sample: of the item.
            item: of the split.
            source: its source frame; read if it is needed and not given.
        """
        if self.features is not None:
            image = item.action.image_0
            found = self.features.read(item, lambda: self.frames.read(image) if source is None else source)
            sample.update(cast("Sample", found))
        return sample

    def prepared(self, frame: Image.Image, mirrored: bool) -> Float[Tensor, "3 r r"]:
        """A frame, squashed, and mirrored perhaps."""
        pixels = to_model(frame, self.config.resolution)
        return pixels.flip(-1) if mirrored else pixels

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

    def check(self, only: Sequence[Item] | None = None, workers: int = 8) -> None:
        """Reads every file once, in parallel, so that a bad one is named before the work and not within it.

        With `data.check: headers` features are checked by their headers and sizes alone.

        Args:
            only: these items; all by default.
            workers: threads.

        Raises:
            UserError: the first bad file in the order of the annotations, and how many there are.
        """
        for files in self.visions.values():
            load_vision(files)
        with ThreadPoolExecutor(workers) as pool:
            bar = tqdm(
                self.items if only is None else only,
                desc=f"check {self.split} files",
                unit="pair",
                leave=False,
            )
            problems = [problem for problem in pool.map(self.problem, bar) if problem]
        if problems:
            more = f" ({len(problems)} items have such problems)" if len(problems) > 1 else ""
            raise UserError(f"{problems[0]}{more}")

    def problem(self, item: Item) -> str | None:
        """What is wrong with an item's files, or None."""
        steps: list[Callable[[], object]] = [lambda: self.frames.check(item.action.image_0)]
        if self.targets:
            steps.append(lambda: self.frames.check(item.action.image_1))
        if self.features is not None:
            features, full = self.features, self.config.check == "full"
            steps.append(lambda: features.check(item, full))
        try:
            for step in steps:
                step()
        except UserError as error:
            return str(error)
        return None


class JointPairs(Dataset[Sample]):
    """Several data sets in a row, as one.

    Args:
        parts: the data sets.
    """

    def __init__(self, parts: Sequence[Pairs]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index)

    def name(self, index: int) -> str:
        """Id of the index-th of all pairs."""
        part, place = self.find(index)
        return part.name(place)

    def sample(self, index: int, mirrored: bool = False) -> Sample:
        """The index-th of all pairs."""
        part, place = self.find(index)
        return part.sample(place, mirrored)

    def find(self, index: int) -> tuple[Pairs, int]:
        """The data set that holds a pair, and its place there."""
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError("pair index out of range")


class DrawnPairs(Dataset[Sample]):
    """Pairs with the random draws that belong to them: of an epoch for training, fixed ones for validation.

    Args:
        pairs: the data set behind it.
        seed: of the run.
        side: height and width of the latents.
        flip: probability that a pair is mirrored, in training.
    """

    def __init__(self, pairs: Pairs, seed: int, side: int, flip: float) -> None:
        self.pairs, self.seed, self.side, self.flip = pairs, seed, side, flip

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Key | int) -> Sample:
        """A training sample for a `Key`, a validation sample for an index."""
        if isinstance(key, Key):
            index, epoch, flip = key.row, str(key.epoch), self.flip
        else:
            index, epoch, flip = key, "val", 0.0
        draws = draw(self.seed, self.pairs.name(index), epoch, self.side, self.side)
        sample = self.pairs.sample(index, draws.flip < flip)
        sample["t"], sample["noise"], sample["posterior_noise"] = draws.t, draws.noise, draws.posterior_noise
        if isinstance(key, Key):
            sample["drop"] = draws.drop
        return sample


def item_name(item: Item) -> str:
    """Names an item in logs and seeds."""
    return f"{item.clip}/{item.id}"


def stack(
    samples: Sequence[Sample], device: torch.device, visions: Mapping[str, VisionFiles] | None = None
) -> dict[str, Tensor]:
    """The tensors of samples, each with a leading axis, on a device, with image features.

    Args:
        samples: of one store.
        device: where they go.
        visions: what image features are computed with, if their store leaves that to the device.
    """
    rows = [dict(sample) for sample in samples]
    names = [name for name, value in rows[0].items() if isinstance(value, Tensor)]
    batch: Batch = {name: torch.stack([row[name] for row in rows]).to(device) for name in names}  # type: ignore[misc]
    if VISION in rows[0]:
        batch[VISION] = [row[VISION] for row in rows]
    return complete(batch, visions or {})
