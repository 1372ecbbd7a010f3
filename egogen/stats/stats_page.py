"""The figures and some examples as one HTML page that needs no other file; for light and dark screens."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from egogen.errors import UserError
from egogen.frames import read_frame
from egogen.layout import DESCRIPTION_KEY
from egogen.pages import render
from egogen.seeds import item_seed
from egogen.stats.measure import SPREAD, SplitFigures, spread_of

THUMBNAIL_HEIGHT = 192
JPEG_QUALITY = 82


def page(splits: Sequence[SplitFigures], top: int, examples: int, title: str) -> str:
    """Writes the page, with so many bars in a chart (`top`) and so many examples of each split."""
    shown = [section(each, examples) for each in splits]
    words = {"title": title, "splits": shown, "top": top, "key": DESCRIPTION_KEY, "thumbnail": thumbnail}
    return render("egogen.stats", "stats_page.html.j2", words)


def section(figures: SplitFigures, examples: int) -> dict[str, object]:
    """What the page shows of one split."""
    facts = {
        "clips": f"{figures.clips:,}",
        "actions": f"{len(figures.items):,}",
        "frames": f"{figures.frames:,}",
        **({"frames missing": f"{figures.missing:,}"} if figures.missing else {}),
        "described": figures.described,
        f"words a label, {SPREAD}": spread_of(figures.labels),
        f"words a description, {SPREAD}": spread_of(figures.descriptions),
        "on disk": figures.on_disk,
    }
    return {
        "name": figures.name,
        "facts": facts,
        "charts": figures.counters,
        # Chosen by their ids alone: the same ones in any order of the file.
        "examples": sorted(figures.items, key=lambda item: item_seed(0, item.clip, item.id))[:examples],
        "folder": figures.layout.frames(figures.split),
    }


def thumbnail(path: Path) -> str | None:
    """A small copy of a frame inside the page; None if it is missing or broken."""
    try:
        frame = read_frame(path)
    except UserError:
        return None
    frame.thumbnail((4 * THUMBNAIL_HEIGHT, THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    frame.save(stream, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
