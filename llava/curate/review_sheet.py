"""A page to read a sample of curated descriptions by: frames with their boxes, label, text, failed checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from egogen.annotations import Item
from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.pages import render
from egogen.seeds import item_seed
from llava.curate.cases import Case
from llava.curate.exchange import data_url

FRAME_SIDE = 384  # pixels


class ReviewedAction(NamedTuple):
    """An action and its case."""

    item: Item
    case: Case


def sample(cases: Sequence[Case], size: int) -> list[ReviewedAction]:
    """Actions to look at, the same ones each time: up to half are left out of the result, and come first."""
    everything = [ReviewedAction(item, case) for case in cases for item in case.items]
    everything.sort(key=lambda shown: item_seed(0, shown.item.clip, shown.item.id))
    left_out = [shown for shown in everything if shown.case.description is None]
    described = [shown for shown in everything if shown.case.description is not None]
    failed = left_out[: max(size - len(described), size // 2)]
    return [*failed, *described[: size - len(failed)]]


def picture(path: Path) -> dict[str, str]:
    """A frame as a `url`, or the `fault` for which it cannot be read."""
    try:
        return {"url": data_url(path, FRAME_SIDE), "fault": ""}
    except UserError as error:
        return {"url": "", "fault": str(error)}


def write_sheet(path: Path, cases: Sequence[Case], size: int, frames: Path, about: Mapping[str, str]) -> None:
    """Writes the page of `size` actions, pictures inside it; `about` is what its head says."""
    shown = sample(cases, size)
    head = {**about, "shown": f"{len(shown)} of {sum(len(case.items) for case in cases)} actions"}
    words = {"head": head, "shown": shown, "frames": frames, "picture": picture}
    with atomic_open(path) as file:
        file.write(render("llava.curate", "review_sheet.html.j2", words).encode("utf-8", "replace"))
