"""A page to read a sample of curated descriptions by: frames with their boxes, label, text, failed checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from egogen.annotations import Item
from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.seeds import item_seed
from llava.curate.cases import Attempt, Case
from llava.curate.exchange import data_url
from llava.curate.facts import Boxes

FRAME_SIDE = 384  # pixels

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<h1>{title}</h1>
<ul class="facts">{facts}</ul>
{cards}
</body>
</html>
"""


class Shown(NamedTuple):
    """An action and its case."""

    item: Item
    case: Case


def sample(cases: Sequence[Case], size: int) -> list[Shown]:
    """Actions to look at, the same ones each time: up to half are left out of the result, and come first."""
    everything = [Shown(item, case) for case in cases for item in case.items]
    everything.sort(key=lambda shown: item_seed(0, shown.item.clip, shown.item.id))
    left_out = [shown for shown in everything if shown.case.description is None]
    described = [shown for shown in everything if shown.case.description is not None]
    failed = left_out[: max(size - len(described), size // 2)]
    return [*failed, *described[: size - len(failed)]]


def write_sheet(path: Path, cases: Sequence[Case], size: int, frames: Path, about: Mapping[str, str]) -> None:
    """Writes the page; pictures are inside it.

    Args:
        path: the HTML file.
        cases: to take a sample from.
        size: actions that are shown.
        frames: the folder of frames.
        about: what the head of the page says.
    """
    shown = sample(cases, size)
    head = {**about, "shown": f"{len(shown)} of {sum(len(case.items) for case in cases)} actions"}
    page = PAGE.format(
        title="Curated descriptions",
        style=files("llava.curate").joinpath("sheet.css").read_text(encoding="utf-8"),
        facts="".join(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in head.items()),
        cards="\n".join(card(one, frames) for one in shown),
    )
    with atomic_open(path) as file:
        file.write(page.encode("utf-8", "replace"))


def card(shown: Shown, frames: Path) -> str:
    """One action."""
    item, case = shown
    text = case.description
    if text is not None:
        words = f'<p>{escape(text)}</p><p class="passed">passed all checks</p>'
    else:
        last = f"<blockquote>{escape(case.attempts[-1].text)}</blockquote>" if case.attempts else ""
        words = f'{last}<p class="failed">left out: {escape(case.reason)}</p>'
    return (
        f'<article class="{"described" if text is not None else "left-out"}">'
        f"{figure('Before the action', frames / item.action.image_0, case.facts.before)}"
        f"{figure('During it', frames / item.action.image_1, case.facts.during)}"
        f'<div class="words"><h2>{escape(item.action.action)}</h2>'
        f"<small>{escape(case.words)} &middot; {escape(item.clip)} / {escape(item.id)}</small>"
        f"{words}{history(case.attempts[:-1])}</div></article>"
    )


def figure(caption: str, path: Path, boxes: Boxes) -> str:
    """A frame with its boxes; a note where it cannot be read."""
    try:
        inside = f'<img src="{data_url(path, FRAME_SIDE)}" alt="">'
    except UserError as error:
        inside = f"<p>{escape(str(error))}</p>"
    else:
        inside += "".join(outline(name, *box) for name, box in boxes.items())
    return f'<figure><div class="picture">{inside}</div><figcaption>{caption}</figcaption></figure>'


def outline(name: str, left: float, top: float, right: float, bottom: float) -> str:
    """A box with its name."""
    place = f"left:{left:.2%};top:{top:.2%};width:{right - left:.2%};height:{bottom - top:.2%}"
    # The name stands above the box and begins at its left, unless there is no room.
    kinds = [("hand", "hand" in name), ("high", top < 0.12), ("far", left > 0.6)]
    return (
        f'<i class="{" ".join(kind for kind, holds in kinds if holds)}" style="{place}">'
        f"<b>{escape(name)}</b></i>"
    )


def history(attempts: Sequence[Attempt]) -> str:
    """Earlier answers and why they were asked again."""
    if not attempts:
        return ""
    told = "".join(
        f'<blockquote>{escape(attempt.text)}</blockquote><p class="failed">'
        f"{escape('; '.join(attempt.faults.values()))}</p>"
        for attempt in attempts
    )
    return f"<details><summary>earlier answers: {len(attempts)}</summary>{told}</details>"
