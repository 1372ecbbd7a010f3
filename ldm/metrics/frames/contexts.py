"""The frame before each action, which EgoVLP+ shows first and boxes follow from: finding and checking it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from egogen.errors import UserError
from egogen.hints import hint
from egogen.layout import METRIC_TARGETS, metric_target_path
from egogen.progress import Progress
from ldm.metrics.frames.frame_names import ByFrame, FrameNames
from ldm.metrics.frames.frame_pairs import Pairs, digest
from ldm.metrics.frames.images import check_image
from ldm.metrics.frames.pair_table import HASH, Pair
from ldm.metrics.frames.protocol import size_tolerance
from ldm.metrics.metric import MetricSetting

FOLDERS_IN_USE = 256  # whose first files are known
log = logging.getLogger(__name__)


class Context(NamedTuple):
    """The file of a frame before an action."""

    path: Path
    sha256: str


def split_folder(targets: Path, given: Path | None) -> Path:
    """The folder of the split's frames: the one that was given, or `val` beside `val_gt_for_metric`.

    Raises:
        UserError: it is not there.
    """
    folder = given or targets.absolute().parent / "val"
    if given is None and targets.absolute().name != METRIC_TARGETS:
        raise UserError(
            f"{targets}: the folder of targets is not named {METRIC_TARGETS}, so the frames before the "
            "actions are not known to lie beside it; name their folder by --input_path, or leave "
            "egovlp_plus, psnr_box and ssim_box out of --metrics"
        )
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; the frames before the actions are expected there (--input_path)"
        )
    return folder


def contexts_of(pairs: Pairs, setting: MetricSetting) -> ByFrame[Context]:
    """The frame before the action of each pair, as `find_contexts` finds them once an evaluation."""
    return setting.once(f"contexts of {pairs.names_sha256}", lambda: find_contexts(pairs, setting))


def contexts_sha256(pairs: Pairs, setting: MetricSetting) -> str:
    """Covers the contents of all frames before actions; they are found and checked for it."""
    return contexts_digest(contexts_of(pairs, setting))


def contexts_digest(contexts: ByFrame[Context]) -> str:
    """Covers the contents of frames before actions."""
    both = zip(contexts, contexts.values(), strict=True)
    return digest(f"{name}\0{context.sha256}" for name, context in both)


def sources_of(pairs: Pairs, setting: MetricSetting) -> ByFrame[Context]:
    """The frame before the action of each pair as the annotations name it, whatever the protocol.

    Raises:
        UserError: one is missing, broken or of another size than its target.
    """
    folder = split_folder(pairs.targets, setting.input_path)

    def find() -> ByFrame[Context]:
        shown = Progress(pairs.pairs, desc="frames before the actions", unit="frame", leave=False)
        found = (checked(folder / pair.item.action.image_0, pair, setting) for pair in shown)
        return gathered(pairs, folder, found)

    return setting.once(f"sources of {pairs.names_sha256}", find)


def find_contexts(pairs: Pairs, setting: MetricSetting) -> ByFrame[Context]:
    """The frame before the action of each pair, by the pair's name; every file is read and checked.

    Raises:
        UserError: one is missing, broken or of another size than its target.
    """
    folder, others = split_folder(pairs.targets, setting.input_path), []
    first_of = lru_cache(FOLDERS_IN_USE)(first_of_folder)

    def find(pair: Pair) -> Context:
        stated = folder / pair.item.action.image_0
        target = metric_target_path(folder, pair.item.action.image_1)
        path = first_of(target.parent) if setting.protocol == "published" else stated
        if path == target:
            raise UserError(
                f"{target}: the target sorts first in its folder, where the frame before the action is "
                "expected (pad the numbers of frames with zeros); --protocol corrected goes by the "
                "annotations instead"
            )
        if path != stated:
            others.append(pair.frame)
        return checked(path, pair, setting)

    shown = Progress(pairs.pairs, desc="frames before the actions", unit="frame", leave=False)
    found = gathered(pairs, folder, map(find, shown))
    if others:
        log.warning(
            "EgoVLP+: in %d of %d actions, %s first, the first file of the folder is not the annotated frame "
            "before the action; the published protocol takes the first file (F-EV-09)",
            len(others), len(found), others[0],
        )  # fmt: skip
    return found


def gathered(pairs: Pairs, folder: Path, found: Iterable[Context]) -> ByFrame[Context]:
    """Frames below a folder, one for each pair in order, by the pairs' names; held in arrays."""
    marks = bytearray()

    def names() -> Iterator[str]:
        for context in found:
            marks.extend(bytes.fromhex(context.sha256))
            yield f"{context.path.relative_to(folder)}"

    paths = FrameNames(names())
    return ByFrame(
        pairs.pairs.names,
        lambda place: Context(folder / paths[place], marks[HASH * place : HASH * (place + 1)].hex()),
    )


def checked(path: Path, pair: Pair, setting: MetricSetting) -> Context:
    """Reads the frame before a pair's action once, to its end.

    Raises:
        UserError: it is missing, broken or of another size than the pair's target.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such frame; it is the one before {pair.item.clip}/{pair.item.id}{hint(path)}"
        )
    header = check_image(path)
    size, target = header.size, pair.sizes[1]
    if not size.near(target, size_tolerance(setting.protocol, setting.dataset)):
        raise UserError(
            f"{path}: {size.width}x{size.height} pixels, its target {target.width}x{target.height}; the "
            "frame before an action is expected in the target's size"
        )
    return Context(path, header.sha256)


def first_of_folder(folder: Path) -> Path:
    """What the published code takes for the frame before: the first file beside the target (F-EV-09)."""
    try:
        return min(path for path in folder.iterdir() if not path.name.startswith("."))
    except (OSError, ValueError):
        raise UserError(f"{folder}: no frames here; expected the one before the action") from None
