"""One data set for training, validation and sampling: pairs of frames, their text and stage-1 features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from typing_extensions import NotRequired, TypedDict

from egogen.annotations import Annotations, Item
from egogen.errors import UserError
from egogen.features import fit_tokens, read_image_feature, read_text_feature
from egogen.layout import find_feature, find_text_feature, text_feature_names
from ldm.config import DataConfig
from ldm.transforms import read_frame, to_model


class Sample(TypedDict):
    """One pair; a batch holds the same keys with a leading axis, or lists of strings.

    `source`, `target`: frames [3, r, r] in [-1, 1]. `prompt`: the text. `item`: clip and action id.
    `vllm_image` [256, d] and `vllm_text` [77, d]: stage-1 features, absent for InstructPix2Pix.
    With cached latents, in place of the frames: `source_latent` [views, 4, h, w], `target_moments`
    [views, 8, h, w] (plain and, with flips, mirrored) and `text` [77, ctx].
    """

    item: str
    prompt: str
    source: NotRequired[Float[Tensor, "3 r r"]]
    target: NotRequired[Float[Tensor, "3 r r"]]
    vllm_image: NotRequired[Float[Tensor, "i d"]]
    vllm_text: NotRequired[Float[Tensor, "t d"]]
    source_latent: NotRequired[Float[Tensor, "views c h w"]]
    target_moments: NotRequired[Float[Tensor, "views m h w"]]
    text: NotRequired[Float[Tensor, "t ctx"]]


class EgoGenPairs(Dataset[Sample]):
    """The pairs of one split.

    Args:
        config: paths, text key and resolution.
        split: `train` or `val`.
        llm_width: d of the features; None leaves features out.
        targets: whether target frames are read (sampling does not need them).

    Raises:
        UserError: an annotation lacks its text; see also `egogen.annotations`.
    """

    def __init__(self, config: DataConfig, split: str, llm_width: int | None, targets: bool = True) -> None:
        self.config = config
        self.split = split
        self.llm_width = llm_width
        self.targets = targets
        self.annotations = Annotations.read(config.annotations(split))
        self.frames = config.layout().frames("train" if split == "train" else "val")
        self.items = self.annotations.items
        if not self.items:
            raise UserError(f"{self.annotations.source}: holds no actions; nothing to do")
        self.text_names = text_feature_names(self.items, lambda action: action.image_0)
        for item in self.items:
            self.prompt(item)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        sample: Sample = {
            "item": item_name(item),
            "prompt": self.prompt(item),
            "source": self.frame(item.action.image_0),
        }
        if self.targets:
            sample["target"] = self.frame(item.action.image_1)
        return self.with_features(sample, item)

    def with_features(self, sample: Sample, item: Item) -> Sample:
        """Adds the stage-1 features, if this data set has them."""
        if self.llm_width is not None:
            image, text = self.feature_files(item)
            sample["vllm_image"] = torch.from_numpy(read_image_feature(image, self.llm_width)).float()
            sample["vllm_text"] = torch.from_numpy(fit_tokens(read_text_feature(text, self.llm_width)))
        return sample

    def frame(self, image: str) -> Float[Tensor, "3 r r"]:
        """Reads and squashes a frame."""
        return to_model(read_frame(self.frames / image), self.config.resolution)

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

    def feature_files(self, item: Item) -> tuple[Path, Path]:
        """The item's image and text feature files."""
        frame = item.action.image_0
        image = find_feature(self.config.feature_folder(self.split, "llava_image"), frame)
        texts = self.config.feature_folder(self.split, "llava_text")
        return image, find_text_feature(texts, self.text_names[item.clip, item.id], frame)

    def check(self, only: Sequence[Item] | None = None, workers: int = 8) -> None:
        """Reads every file once, in parallel, so that a bad one is named before the work and not within it.

        Args:
            only: these items; all by default.
            workers: threads.

        Raises:
            UserError: the first bad file in the order of the annotations, and how many there are.
        """
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
        steps: list[Callable[[], object]] = [lambda: read_frame(self.frames / item.action.image_0)]
        if self.targets:
            steps.append(lambda: read_frame(self.frames / item.action.image_1))
        if self.llm_width is not None:
            width = self.llm_width
            image, text = self.feature_files(item)
            steps += [lambda: read_image_feature(image, width), lambda: read_text_feature(text, width)]
        try:
            for step in steps:
                step()
        except UserError as error:
            return str(error)
        return None


def item_name(item: Item) -> str:
    """Names an item in logs and seeds."""
    return f"{item.clip}/{item.id}"


def stack(samples: Sequence[Sample], device: torch.device) -> dict[str, Tensor]:
    """The tensors of samples, each with a leading axis, on a device."""
    rows = [dict(sample) for sample in samples]
    names = [name for name, value in rows[0].items() if isinstance(value, Tensor)]
    return {name: torch.stack([row[name] for row in rows]).to(device) for name in names}  # type: ignore[misc]
