"""Pairs generated frames with their targets, once for all metrics. The first step of an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from egogen.annotations import Annotations, Item
from egogen.errors import UserError
from egogen.hints import hint
from egogen.layout import generated_names, target_name
from egogen.packed_frames import DrawnFrames, FrameFile
from egogen.progress import Progress
from egogen.shards import WHOLE, Shard, take_shard
from egogen.walks import is_hidden
from ldm.metrics.frames.images import Size, check_image, read_pixels

LISTED = 10
DECODERS = 8  # threads
Side = Literal["generated", "reference"]
SIDES: tuple[Side, ...] = get_args(Side)


@dataclass(frozen=True)
class Pair:
    """A generated frame and its target; `frame` is clip/action/file, the pair's name in every result."""

    item: Item
    frame: str
    generated: FrameFile
    reference: FrameFile
    sizes: tuple[Size, Size]
    hashes: tuple[str, str]


class PairBatch:
    """Pairs of equal sizes, RGB in [0, 1], decoded when a metric asks. Generated frames keep their size."""

    def __init__(self, pairs: Sequence[Pair], device: torch.device) -> None:
        self.pairs, self.device = pairs, device

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

    pairs: Sequence[Pair]
    formats: Sequence[str]  # of the generated frames' files
    source: Path  # the annotation file
    targets: Path  # the folder of the targets

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def names_sha256(self) -> str:
        """Covers the folder of the targets and the names of the pairs."""
        return digest([str(self.targets), *(pair.frame for pair in self.pairs)])

    @cached_property
    def sha256(self) -> str:
        """Covers the names and contents of all images, whatever their order."""
        return digest("\0".join([pair.frame, *pair.hashes]) for pair in self.pairs)

    @cached_property
    def targets_sha256(self) -> str:
        """Covers the names and contents of the targets: runs with the same can be compared."""
        return digest(f"{pair.frame}\0{pair.hashes[1]}" for pair in self.pairs)

    @property
    def digests(self) -> dict[str, str]:
        """What a result that was stored tells of its images."""
        return {"images_sha256": self.sha256, "targets_sha256": self.targets_sha256}

    def texts_sha256(self, key: str) -> str:
        """Covers the texts that the annotations hold under a key."""
        return digest(f"{pair.frame}\0{pair.item.action.text(key)}" for pair in self.pairs)

    def batches(self, batch_size: int, device: torch.device) -> Iterator[PairBatch]:
        """The pairs in batches of equal sizes."""
        by_size: dict[tuple[Size, Size], list[Pair]] = {}
        for pair in self.pairs:
            by_size.setdefault(pair.sizes, []).append(pair)
        for group in by_size.values():
            for start in range(0, len(group), batch_size):
                yield PairBatch(group[start : start + batch_size], device)


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of lines, whatever their order."""
    return hashlib.sha256("".join(f"{line}\0" for line in sorted(lines)).encode()).hexdigest()


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
) -> Pairs:
    """Pairs the frames of two folders by an annotation file; every file of a shard is read and checked.

    The published code walks the targets in the order of the file system and ignores generated frames
    that have none (F-EV-01); here the annotations say what belongs to the evaluation.

    Sizes of a pair may differ by `tolerance` pixels along each side.

    Raises:
        UserError: a folder is empty, files are missing or extra, an image is broken, not RGB or of a
            wrong size.
    """
    frames = frame_names(annotations)
    drawn = find_files(frames_folder(gen_path), frames, "generated frames")
    targets = find_files(gt_path, frames, "target frames")
    pairs, formats = [], set()
    mine = take_shard(list(frames.items()), *shard)
    for frame, item in Progress(mine, desc="checking frames", unit="pair", leave=False):
        generated, reference = drawn[frame], targets[frame]
        shown, target = check_image(generated), check_image(reference)
        if not shown.size.near(target.size, tolerance):
            allowed = f" (give or take {tolerance} pixel)" if tolerance else ""
            raise UserError(
                f"{generated}: the frame is {shown.size.width}x{shown.size.height} pixels, its target "
                f"{target.size.width}x{target.size.height}; expected the same size{allowed}"
            )
        formats.add(shown.format)
        sizes, hashes = (shown.size, target.size), (shown.sha256, target.sha256)
        pairs.append(Pair(item, frame, generated, reference, sizes, hashes))
    return Pairs(pairs, sorted(formats), annotations.source, gt_path)


def frame_names(annotations: Annotations) -> dict[str, Item]:
    """The target frames of the annotations as clip/action/file, in file order.

    Raises:
        UserError: two actions share a target frame.
    """
    frames: dict[str, Item] = {}
    for item in annotations:
        frame = target_name(item.action.image_1)
        if frame in frames:
            other = frames[frame]
            raise UserError(
                f"{annotations.source}: the actions {other.clip}/{other.id} and {item.clip}/{item.id} share "
                f"the target frame {frame}; each action needs its own"
            )
        frames[frame] = item
    return frames


def find_files(folder: Path, frames: Iterable[str], what: str) -> dict[str, FrameFile]:
    """The files of named frames, in any format that frames are drawn in (`egogen.layout.generated_names`).

    Raises:
        UserError: the folder does not exist, is empty, or files are missing, extra, hidden ones aside, or
            there twice.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; {what} are expected there as clip/action/frame{hint(folder)}"
        )
    expected = set(frames)
    files_of = DrawnFrames(folder)
    own = {name for frame in expected for name in generated_names(frame)}  # a clip may be named as if hidden
    there = {name for name in files_of.names if name in own or not is_hidden(name)}
    if not there:
        raise UserError(f"{folder}: the folder is empty; expected {len(expected)} {what}{hint(folder)}")
    found = {
        frame: [
            name
            for name in generated_names(frame)
            if name in there and (name == frame or name not in expected)
        ]
        for frame in sorted(expected)
    }
    twice = [files for files in found.values() if len(files) > 1]
    if twice:
        raise UserError(
            f"{folder}: {' and '.join(twice[0])} are one frame, as are {len(twice)} such pairs; remove those "
            "of one format"
        )
    known = {name for files in found.values() for name in files}
    faults = [
        f"{len(names)} {fault} ({', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''})"
        for fault, names in (
            ("missing", [frame for frame, files in found.items() if not files]),
            ("extra", sorted(there - known)),
        )
        if names
    ]
    if faults:
        raise UserError(
            f"{folder}: of {len(expected)} {what}, {' and '.join(faults)}; expected exactly those of "
            f"the annotation file{hint(folder) if not all(found.values()) else ''}"
        )
    return {frame: files_of.file(files[0]) for frame, files in found.items()}
