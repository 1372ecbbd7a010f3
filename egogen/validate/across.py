"""The checks across splits: contents that occur twice, clips in both, features, unfinished files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path, PurePosixPath

from egogen.annotations import Item
from egogen.errors import UserError
from egogen.features import read_image_feature, read_text_feature
from egogen.layout import Layout, features_root, find_feature, find_text_feature
from egogen.text_names import TextNames
from egogen.unfinished import PARTS
from egogen.validate.check_report import Check
from egogen.validate.frame_files import SplitFrames, spread
from egogen.walks import walk


def check_contents(splits: Sequence[SplitFrames]) -> Check:
    """No two frames of a data set may have the same bytes, in one split or in both.

    A frame that several actions of a clip use, as their input say, is one frame: they share its number.
    """
    check = Check(splits[0].layout.dataset, "", "same content")
    first: list[tuple[str, dict[bytes, str]]] = [(frames.split, {}) for frames in splits]
    for frames, (_, own) in zip(splits, first, strict=True):
        for name, found in frames.probes.items():
            if not found.sha256:
                continue
            check.items += 1
            known = ((split, names[found.sha256]) for split, names in first if found.sha256 in names)
            if (before := next(known, None)) is None:
                own[found.sha256] = name
                continue
            place, other = (
                PurePosixPath(frames.split, name),
                PurePosixPath(*before),
            )
            if (place.parent.parent, place.name) != (other.parent.parent, other.name):
                check.faults.append(f"{place}: the same bytes as {other}")
    return check


def check_leaks(splits: Sequence[SplitFrames]) -> Check:
    """No clip may be in both splits."""
    clips = [{item.clip for item in frames.items} for frames in splits]
    both = sorted(set.intersection(*clips)) if len(clips) > 1 else []
    faults = [f"clip {clip!r} is in the train and in the val annotations" for clip in both]
    return Check(splits[0].layout.dataset, "", "clips in train and val", len(set().union(*clips)), faults)


def check_features(frames: SplitFrames, root: Path, width: int | None, workers: int) -> list[Check]:
    """Every action must have an image feature [256, d] and a text feature [n, d]; d is that of the first."""
    dataset, split = frames.layout.dataset, frames.split
    images, texts = (features_root(root, dataset, split, kind) for kind in ("llava_image", "llava_text"))
    names = TextNames(frames.items, attrgetter("image_0"))
    width = width or width_of_first(images, frames.items)

    def look(item: Item) -> tuple[str | None, str | None]:
        image = item.action.image_0
        text = find_text_feature(texts, names.of(item), image)
        return (
            fault(read_image_feature, find_feature(images, image), width),
            fault(read_text_feature, text, width),
        )

    found = list(spread(look, frames.items, workers, f"{dataset} {split} features"))
    by_kind = zip(*found, strict=True) if found else ((), ())
    return [
        frames.check(name, len(found), filter(None, faults))
        for name, faults in zip(("image features", "text features"), by_kind, strict=True)
    ]


def fault(read: Callable[..., object], path: Path, width: int | None) -> str | None:
    """What is wrong with a feature file, if anything."""
    try:
        read(path, width, outline=True)
    except UserError as error:
        return str(error)
    return None


def width_of_first(root: Path, items: Iterable[Item]) -> int | None:
    """The width of the first image feature that can be read."""
    for item in items:
        with suppress(UserError):
            return int(read_image_feature(find_feature(root, item.action.image_0)).shape[1])
    return None


def check_leftovers(layout: Layout) -> Check:
    """No unfinished file may be left by a command that was killed."""
    found = sorted(path.relative_to(layout.egogen).as_posix() for path in leftovers(layout))
    return Check("", "", "leftover files", len(found), [f"{name}: unfinished" for name in found])


def leftovers(layout: Layout) -> list[Path]:
    """Unfinished files in the EgoGen folder."""
    below = (place / name for place, _, files, _ in walk(layout.egogen) for name in files)
    return [path for path in below if fnmatchcase(path.name, PARTS)]
