"""Pairs generated frames with their targets, once for all metrics. The first step of an evaluation."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from egogen.annotations import Annotations
from egogen.blocks import in_blocks
from egogen.distinct import among, distinct
from egogen.errors import UserError
from egogen.hints import hint
from egogen.layout import FRAME_FORMATS, generated_name, target_name
from egogen.packed_frames import DrawnFrames, FrameFile
from egogen.progress import Progress
from egogen.shards import WHOLE, Shard, take_shard
from egogen.walks import is_hidden
from ldm.metrics.frames.frame_names import FrameNames
from ldm.metrics.frames.images import Header, Size, check_image, read_pixels
from ldm.metrics.frames.pair_table import FoundFrames, Pair, PairTable

LISTED = 10
DECODERS = 8  # threads
AT_ONCE = 256  # pairs that wait for them
Side = Literal["generated", "reference"]
SIDES: tuple[Side, ...] = get_args(Side)


class PairBatch:
    """Pairs of equal sizes, RGB in [0, 1], decoded when a metric asks. Generated frames keep their size.

    Args:
        pairs: those of the batch.
        device: where images go.
        names: of all pairs of the evaluation.
        places: of the batch's pairs among them.
    """

    def __init__(
        self, pairs: Sequence[Pair], device: torch.device, names: FrameNames, places: Sequence[int]
    ) -> None:
        self.pairs, self.device, self.names, self.places = pairs, device, names, places

    @cached_property
    def generated(self) -> Float[Tensor, "b 3 h1 w1"]:
        """Generated frames."""
        return self.decode([pair.generated for pair in self.pairs])

    @cached_property
    def reference(self) -> Float[Tensor, "b 3 h w"]:
        """Their targets."""
        return self.decode([pair.reference for pair in self.pairs])

    def images(self, side: Side) -> Float[Tensor, "b 3 h w"]:
        """The frames of one side."""
        return self.generated if side == "generated" else self.reference

    def hashes(self, side: Side) -> list[str]:
        """SHA-256 of the files of one side."""
        return [pair.hashes[SIDES.index(side)] for pair in self.pairs]

    def decode(self, paths: Sequence[FrameFile]) -> Float[Tensor, "b 3 h w"]:
        """Decodes images side by side; bytes reach the device as they are. Raises as `read_pixels`."""
        with ThreadPoolExecutor(DECODERS) as pool:
            return torch.stack(list(pool.map(read_pixels, paths))).to(self.device).float() / 255


@dataclass(frozen=True)
class Pairs:
    """All pairs of an evaluation, in the order of the annotation file."""

    pairs: PairTable
    formats: Sequence[str]  # of the generated frames' files
    source: Path  # the annotation file
    targets: Path  # the folder of the targets

    def __len__(self) -> int:
        return len(self.pairs)

    def digest(self, text: Callable[[int], str]) -> str:
        """SHA-256 of the names with a text of each, by its place; whatever the order of the pairs."""
        names = self.pairs.names
        return digest(f"{names[place]}\0{text(place)}" for place in names.order)

    @cached_property
    def names_sha256(self) -> str:
        """Covers the folder of the targets and the names of the pairs."""
        names = self.pairs.names
        return digest(chain([str(self.targets)], map(names.__getitem__, names.order)))

    @cached_property
    def sha256(self) -> str:
        """Covers the names and contents of all images, whatever their order."""
        return self.digest(lambda place: "\0".join(self.pairs.hashes(place)))

    @cached_property
    def targets_sha256(self) -> str:
        """Covers the names and contents of the targets: runs with the same can be compared."""
        return self.digest(lambda place: self.pairs.hashes(place)[1])

    @property
    def digests(self) -> dict[str, str]:
        """What a result that was stored tells of its images."""
        return {"images_sha256": self.sha256, "targets_sha256": self.targets_sha256}

    def texts_sha256(self, key: str) -> str:
        """Covers the texts that the annotations hold under a key."""
        ordered = self.pairs.at(np.asarray(self.pairs.names.order, np.int64))
        return digest(f"{pair.frame}\0{pair.item.action.text(key)}" for pair in ordered)

    def batches(self, batch_size: int, device: torch.device) -> Iterator[PairBatch]:
        """The pairs in batches of equal sizes."""
        for group in self.pairs.groups():
            for start in range(0, len(group), batch_size):
                places = group[start : start + batch_size]
                yield PairBatch(list(self.pairs.at(places)), device, self.pairs.names, places.tolist())


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of lines, which are in order."""
    found = hashlib.sha256()
    for line in lines:
        found.update(f"{line}\0".encode())
    return found.hexdigest()


def run_folder(gen_path: Path) -> Path:
    """The folder of a run: `gen_path` if it holds `images/`, else its parent (the published meaning)."""
    return gen_path if (gen_path / "images").is_dir() else gen_path.absolute().parent


def frames_folder(gen_path: Path) -> Path:
    """The folder that holds clip/action/frame: `<gen_path>/images`, or `gen_path` itself as published."""
    return gen_path / "images" if (gen_path / "images").is_dir() else gen_path


def read_pairs(
    annotations: Annotations,
    gen_path: Path,
    gt_path: Path,
    tolerance: int = 0,
    shard: Shard = WHOLE,
    known: PairTable | None = None,
) -> Pairs:
    """Pairs the frames of two folders by an annotation file; every file of a shard is read and checked.

    The published code walks the targets in the order of the file system and ignores generated frames
    that have none (F-EV-01); here the annotations say what belongs to the evaluation.

    Args:
        annotations: the actions.
        gen_path: the run.
        gt_path: the folder of the targets.
        tolerance: by how many pixels the sizes of a pair may differ along each side.
        shard: which part of the actions.
        known: another run's pairs of the same actions and targets: these are not read again.

    Raises:
        UserError: a folder is empty, files are missing or extra, an image is broken, not RGB or of a
            wrong size.
    """
    names = frame_names(annotations)
    drawn = find_files(frames_folder(gen_path), names, "generated frames")
    targets = find_files(gt_path, names, "target frames") if known is None else known.files[1]
    items = annotations.items
    if shard != WHOLE:
        mine = take_shard(range(len(names)), *shard)
        items, names = take_shard(items, *shard), FrameNames(names[place] for place in mine)
        drawn, targets = drawn.at(mine), targets.at(mine)
    table = PairTable(items, names if known is None else known.names, (drawn, targets), known)

    def check(places: Sequence[int]) -> list[tuple[Header, Header]]:
        found = []
        for place in places:
            generated, reference = table.paths(place)
            shown, target = check_image(generated), table.target(place) or check_image(reference)
            if not shown.size.near(target.size, tolerance):
                raise wrong_size(generated, shown.size, target.size, tolerance)
            found.append((shown, target))
        return found

    places = Progress(range(len(names)), desc="checking frames", unit="pair", leave=False)
    formats = set()
    with ThreadPoolExecutor(DECODERS) as pool:
        for block in in_blocks(places, AT_ONCE):  # a pool takes all that it is given at once
            for shown, target in chain.from_iterable(pool.map(check, in_blocks(block, AT_ONCE // DECODERS))):
                formats.add(shown.format)
                table.add(shown, target)
    return Pairs(table, sorted(formats), annotations.source, gt_path)


def wrong_size(path: FrameFile, shown: Size, target: Size, tolerance: int) -> UserError:
    """Says of a frame that it has not its target's size."""
    allowed = f" (give or take {tolerance} pixel)" if tolerance else ""
    return UserError(
        f"{path}: the frame is {shown.width}x{shown.height} pixels, its target "
        f"{target.width}x{target.height}; expected the same size{allowed}"
    )


def frame_names(annotations: Annotations) -> FrameNames:
    """The target frames of the annotations as clip/action/file, in file order.

    Raises:
        UserError: two actions share a target frame.
    """
    names = FrameNames(target_name(item.action.image_1) for item in annotations)
    if distinct(np.fromiter(map(hash, names), np.int64, len(names))) < len(names):
        first: dict[str, int] = {}
        for place, frame in enumerate(names):
            if (before := first.setdefault(frame, place)) != place:
                other, item = annotations.items[before], annotations.items[place]
                raise UserError(
                    f"{annotations.source}: the actions {other.clip}/{other.id} and {item.clip}/{item.id} "
                    f"share the target frame {frame}; each action needs its own"
                )
    return names


def find_files(folder: Path, frames: FrameNames, what: str) -> FoundFrames:
    """The files of named frames, in any format that frames are drawn in (`egogen.layout.FRAME_FORMATS`).

    Of a name its hash is held. Of 10^6 one is taken for another once in 10^7 times (`egogen.distinct`).

    Raises:
        UserError: the folder does not exist, is empty, or files are missing, extra, hidden ones aside, or
            there twice.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; {what} are expected there as clip/action/frame{hint(folder)}"
        )
    files_of, count = DrawnFrames(folder), len(frames)
    marks = [  # of the names of each format; that of the first is the frame's own
        np.fromiter((hash(generated_name(frame, form)) for frame in frames), np.int64, count)
        for form in FRAME_FORMATS
    ]
    own, expected = np.sort(np.concatenate(marks)), np.sort(marks[0])
    here, extras = array("q"), 0
    extra: list[str] = []  # the first of them
    for block in in_blocks(files_of.names):
        found = np.fromiter(map(hash, block), np.int64, len(block))
        is_own = among(found, own)  # a clip may be named as if hidden
        here.frombytes(found[is_own].tobytes())
        others = [block[row] for row in np.flatnonzero(~is_own) if not is_hidden(block[row])]
        extra, extras = nsmallest(LISTED, extra + others), extras + len(others)
    if not here and not extras:
        raise UserError(f"{folder}: the folder is empty; expected {count} {what}{hint(folder)}")
    there = np.sort(np.frombuffer(here, np.int64))
    has = np.stack([among(each, there) for each in marks])  # [formats, n]
    for other, its in zip(marks[1:], has[1:], strict=True):
        its &= ~among(other, expected)  # that one is another frame's own
    twice = np.flatnonzero(has.sum(0) > 1).tolist()
    if twice:
        first = min(twice, key=frames.__getitem__)
        both = [
            generated_name(frames[first], form)
            for form, its in zip(FRAME_FORMATS, has[:, first], strict=True)
            if its
        ]
        raise UserError(
            f"{folder}: {' and '.join(both)} are one frame, as are {len(twice)} such pairs; remove those "
            "of one format"
        )
    lacking = np.flatnonzero(~has.any(0)).tolist()
    missing = nsmallest(LISTED, map(frames.__getitem__, lacking))
    faults = [
        f"{number} {fault} ({', '.join(names)}{', ...' if number > LISTED else ''})"
        for fault, number, names in (("missing", len(lacking), missing), ("extra", extras, extra))
        if number
    ]
    if faults:
        raise UserError(
            f"{folder}: of {count} {what}, {' and '.join(faults)}; expected exactly those of "
            f"the annotation file{hint(folder) if missing else ''}"
        )
    return FoundFrames(files_of, has.argmax(0).astype(np.uint8))
