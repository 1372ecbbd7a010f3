"""The figures and some examples as one HTML page that needs no other file; for light and dark screens."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from PIL import Image

from egogen.annotations import DESCRIPTION_KEY, Item
from egogen.disk import readable
from egogen.errors import UserError
from egogen.frames import read_frame
from egogen.seeds import item_seed
from egogen.stats.measure import SPREAD, SplitFigures, spread_of
from egogen.stats.summary import share

THUMBNAIL_HEIGHT = 192
JPEG_QUALITY = 82

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>EgoGen: $title</title>
<style>
:root { color-scheme: light dark; --back: #f7f6f3; --card: #fff; --ink: #1d1d1f; --soft: #6b6b70;
        --line: #e2e0da; --bar: #7c9cc4; --mark: #b4552d; }
@media (prefers-color-scheme: dark) {
  :root { --back: #141416; --card: #1e1e21; --ink: #ececee; --soft: #9c9ca3;
          --line: #323237; --bar: #4d6f9c; --mark: #e08a5f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; font: 15px/1.5 system-ui, sans-serif;
       background: var(--back); color: var(--ink); }
h1 { font-size: 1.7rem; margin: 0; }
h2 { font-size: 1.25rem; margin: 3rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 0 0 .5rem; }
p.place { color: var(--soft); margin: .25rem 0 1.5rem; overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 0 0 1rem; }
.facts div, .charts section, figure { background: var(--card); border: 1px solid var(--line);
                                      border-radius: .6rem; }
.facts div { padding: .5rem .9rem; }
.facts dt { color: var(--soft); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.charts, .examples { display: grid; gap: .75rem; margin: 0 0 1rem; }
.charts { grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.charts section { padding: .8rem 1rem; }
.row { display: grid; grid-template-columns: 6.5rem 1fr 4rem; gap: .6rem; align-items: center;
       font-size: .85rem; }
.row span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.row span:last-child { text-align: right; color: var(--soft); font-variant-numeric: tabular-nums; }
.row i { display: block; height: .6rem; border-radius: .3rem; background: var(--bar); min-width: 2px; }
.examples { grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); }
figure { margin: 0; overflow: hidden; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; background: var(--line); }
.pair img, .pair span { display: block; width: 100%; background: var(--card); }
.pair span { padding: 2rem .5rem; text-align: center; color: var(--mark); font-size: .8rem; }
figcaption { padding: .6rem .9rem .8rem; }
figcaption p { margin: .25rem 0 0; color: var(--soft); font-size: .85rem; }
figcaption small { color: var(--soft); overflow-wrap: anywhere; }
</style>
<h1>EgoGen data set</h1>
<p class="place">$title</p>
$splits
</html>
""")

SPLIT = Template("""<h2>$name</h2>
<dl class="facts">$facts</dl>
<div class="charts">$charts</div>
<div class="examples">$examples</div>
""")


def page(splits: Sequence[SplitFigures], top: int, examples: int, title: str) -> str:
    """Writes the page.

    Args:
        splits: what was measured.
        top: how many verbs, nouns and sizes a chart shows.
        examples: how many actions of each split are shown.
        title: the data root's path.
    """
    return PAGE.substitute(
        title=escape(title), splits="\n".join(section(each, top, examples) for each in splits)
    )


def section(measured: SplitFigures, top: int, examples: int) -> str:
    """One split."""
    facts = {
        "clips": f"{measured.clips:,}",
        "actions": f"{len(measured.items):,}",
        "frames": f"{measured.frames:,}",
        **({"frames missing": f"{measured.missing:,}"} if measured.missing else {}),
        "described": share(measured),
        f"words a label, {SPREAD}": spread_of(measured.labels),
        f"words a description, {SPREAD}": spread_of(measured.descriptions),
        "on disk": readable(measured.size),
    }
    sizes = Counter({f"{width} x {height}": count for (width, height), count in measured.sizes.items()})
    charts = {"verbs": measured.verbs, "nouns": measured.nouns, "image sizes": sizes}
    # Chosen by their ids alone: the same ones in any order of the file.
    chosen = sorted(measured.items, key=lambda item: item_seed(0, item.clip, item.id))[:examples]
    folder = measured.layout.frames(measured.split)
    return SPLIT.substitute(
        name=escape(measured.name),
        facts="".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items()),
        charts="".join(chart(name, counts, top) for name, counts in charts.items()),
        examples="\n".join(example(item, folder) for item in chosen),
    )


def chart(name: str, counts: Counter[str], top: int) -> str:
    """The most frequent values as bars."""
    most = counts.most_common(top)
    bars = "".join(
        f'<div class="row"><span title="{escape(value)}">{escape(value)}</span>'
        f'<span><i style="width:{100 * count / most[0][1]:.1f}%"></i></span><span>{count:,}</span></div>'
        for value, count in most
    )
    return f"<section><h3>{name} ({len(counts):,})</h3>{bars}</section>"


def example(item: Item, folder: Path) -> str:
    """One action: both frames, the label, the description."""
    frames = (thumbnail(folder / name, name) for name in (item.action.image_0, item.action.image_1))
    description = item.action.text(DESCRIPTION_KEY)
    text = f"<p>{escape(description)}</p>" if description else ""
    return (
        f'<figure><div class="pair">{"".join(frames)}</div><figcaption>{escape(item.action.action)}{text}'
        f"<small>{escape(item.clip)} / {escape(item.id)}</small></figcaption></figure>"
    )


def thumbnail(path: Path, name: str) -> str:
    """A small copy of a frame inside the page, or a word on why there is none."""
    try:
        frame = read_frame(path)
    except UserError:
        return f"<span>missing or broken: {escape(name)}</span>"
    frame.thumbnail((4 * THUMBNAIL_HEIGHT, THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    frame.save(stream, "JPEG", quality=JPEG_QUALITY)
    content = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{escape(name)}" src="data:image/jpeg;base64,{content}">'
