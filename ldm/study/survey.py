"""What a study shows: which items, in which order, and whose frame stands where; all of it keyed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen.annotations import Annotations, Item
from egogen.errors import UserError, check
from egogen.layout import metric_target_path
from egogen.packed_frames import DrawnFrames, FrameFile
from egogen.seeds import item_seed
from ldm.metrics.frames.frame_pairs import frames_folder
from ldm.metrics.frames.images import check_image

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
MOST = 9  # systems: each has a key


@dataclass(frozen=True)
class Picture:
    """A file that browsers show."""

    path: FrameFile
    mime: str
    sha256: str


@dataclass(frozen=True)
class Exhibit:
    """An item: `key` is clip/action; `frames` by the system's name."""

    key: str
    action: str
    source: Picture
    frames: Mapping[str, Picture]


@dataclass(frozen=True)
class Survey:
    """The exhibits, those of every system, and the seed of their orders."""

    exhibits: Sequence[Exhibit]
    systems: Sequence[str]
    seed: int

    def sequence(self, rater: str) -> list[Exhibit]:
        """All exhibits in a rater's own order."""
        return sorted(self.exhibits, key=lambda each: item_seed(self.seed, rater, each.key))

    def order(self, rater: str, exhibit: Exhibit) -> list[str]:
        """Whose frame stands where, for one rater and one exhibit."""
        return sorted(self.systems, key=lambda name: item_seed(self.seed, rater, exhibit.key, name))

    @property
    def settings(self) -> dict[str, object]:
        """What answers depend on, as JSON values."""
        return {
            "seed": self.seed,
            "items": [exhibit.key for exhibit in self.exhibits],
            "systems": {name: self.digest(name) for name in self.systems},
        }

    def digest(self, system: str) -> str:
        """Covers the frames of a system and their sources."""
        sums = [f"{each.key} {each.source.sha256} {each.frames[system].sha256}\n" for each in self.exhibits]
        return hashlib.sha256("".join(sums).encode()).hexdigest()


def make_survey(
    runs: Mapping[str, Path], annotations: Annotations, frames: Path, count: int, seed: int
) -> Survey:
    """Picks items by the order of their seeds, the same for all systems, and finds their pictures.

    Args:
        runs: folders of runs by the systems' names.
        annotations: of the split.
        frames: folder that its image paths are relative to.
        count: how many items.
        seed: of the choice and of all orders.

    Raises:
        UserError: there are too few or too many systems or items, or a system lacks an item.
    """
    check("RUN", len(runs), f"2 to {MOST} systems", 2 <= len(runs) <= MOST)
    items = sorted(annotations.items, key=lambda item: item_seed(seed, item.clip, item.id))
    check(
        "--items", count, f"1 to {len(items)}, as many as {annotations.source} has", 1 <= count <= len(items)
    )
    drawn = {system: DrawnFrames(frames_folder(run)) for system, run in runs.items()}
    chosen = [exhibit(item, drawn, frames) for item in items[:count]]
    return Survey(chosen, list(runs), seed)


def exhibit(item: Item, runs: Mapping[str, DrawnFrames], frames: Path) -> Exhibit:
    """An item's pictures; a `UserError` names a system that lacks it."""
    key, name = f"{item.clip}/{item.id}", metric_target_path(Path(), item.action.image_1).as_posix()
    drawn = {}
    for system, run in runs.items():
        path = run.find(name)
        if not path.is_file():
            place = run.folder.parent if run.folder.name == "images" else run.folder
            raise UserError(
                f"{path}: the system {system!r} has no frame of {key}; a study shows the same items of all "
                f"systems: draw it by python -m ldm.sample --out {place}"
            )
        drawn[system] = picture(path)
    source = frames / item.action.image_0
    if not source.is_file():
        raise UserError(f"{source}: no such frame; it is the one before {key}")
    return Exhibit(key, spoken(item.action.action), picture(source), drawn)


def spoken(label: str) -> str:
    """A label as people read it: without Ego4D's tag and letter of the wearer."""
    return re.sub(r"^#\S+\s+(C\s+)?", "", label).strip() or label


def picture(path: FrameFile) -> Picture:
    """Checks a picture to its end.

    Raises:
        UserError: it is broken or of a format that browsers do not show.
    """
    header = check_image(path)
    if header.format not in MIME:
        raise UserError(f"{path}: a {header.format} file; allowed are {', '.join(MIME)}")
    return Picture(path, MIME[header.format], header.sha256)
