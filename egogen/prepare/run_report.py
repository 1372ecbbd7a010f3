"""The report of a run in Markdown: counts by reason and split, broken sources, settings, a contact sheet."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from egogen.files import atomic_open
from egogen.frames import encoded
from egogen.layout import Layout, Split
from egogen.prepare.contact_sheet import contact_sheet
from egogen.prepare.frames.look import Look
from egogen.prepare.pair_plan import BROKEN, PairPlan
from egogen.record import git_state, installed
from egogen.table import text_table
from egogen.told_command import told_command

REPORT, SHEET = "report.md", "contact_sheet.jpg"
MAX_SOURCES = 100
PACKAGES = ("av", "numpy", "pillow")
# Bytes a pixel of 50 kitchen frames of 456 x 256, by JPEG quality, at full colour resolution.
QUALITIES = (10, 50, 75, 85, 90, 95)
BYTES_PER_PIXEL = (0.054, 0.124, 0.17, 0.221, 0.261, 0.346)
ASPECT = 16 / 9


def summary(plan: PairPlan, splits: Sequence[Split]) -> str:
    """Counts by reason and split, as a Markdown table that reads well in a terminal too."""
    counts = Counter((pair.reason, pair.split) for pair in plan.pairs)
    totals: Counter[str | None] = Counter({None: 0})  # the reason of kept ones is None
    totals.update(pair.reason for pair in plan.pairs)
    columns = [*splits, *([None] if any(pair.split is None for pair in plan.pairs) else [])]
    rows = [
        (
            f"left out: {reason}" if reason else "kept",
            *(counts[reason, split] for split in columns),
            totals[reason],
        )
        for reason in sorted(totals, key=lambda name: (name is not None, -totals[name]))
    ]
    return text_table(
        ("actions", *(split or "no split" for split in columns), "all"), rows, markdown=True
    ).rstrip()


def estimate(plan: PairPlan, look: Look) -> str:
    """What a run would take, said by `--dry-run`: sources, frames, bytes; frames are taken to be 16:9."""
    kept = plan.kept()
    sources = {pair.files for pair in kept}
    frames = sum(3 if pair.split == "val" else 2 for pair in kept)
    pixels = look.size * look.size * ASPECT
    size = frames * pixels * float(np.interp(look.quality, QUALITIES, BYTES_PER_PIXEL))
    return (
        f"{len(kept):,} pairs of {len(sources):,} sources: {frames:,} JPEG files, about {size / 1e9:.2f} GB; "
        "nothing was written (--dry-run)"
    )


def write_report(
    plan: PairPlan, layout: Layout, splits: Sequence[Split], settings: Mapping[str, object], folder: Path
) -> None:
    """Writes the report and its picture."""
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    command = " ".join(["python -m egogen.prepare", *told_command(sys.argv[1:])])
    versions = ", ".join(f"{name} {installed(name)}" for name in PACKAGES)
    parts = [
        f"# {layout.dataset}: {', '.join(splits)}",
        f"{code(command)}  \n{started}, commit {(git_state() or {}).get('commit')}, {versions}",
        summary(plan, splits),
        "The decision on every action is in `manifest.jsonl`.",
        similarity_note(settings),
        *([f"## Missing or broken\n\n{broken}"] if (broken := broken_sources(plan)) else []),
        f"## Settings\n\n```json\n{json.dumps(dict(settings), indent=2)}\n```",
    ]
    sheet = contact_sheet(plan, layout)
    if sheet is not None:
        with atomic_open(folder / SHEET) as file:
            file.write(encoded(sheet, "JPEG", quality=90))
        parts.insert(5, f"## Some pairs\n\n![input and target frames with their labels]({SHEET})")
    with atomic_open(folder / REPORT) as file:
        file.write("\n\n".join(parts).encode() + b"\n")


def similarity_note(settings: Mapping[str, object]) -> str:
    """Whether an image model had a say."""
    judging = settings["judging"]
    if not isinstance(judging, Mapping):
        return (
            "Similarity filter: **off** (no `--embedder`). The paper leaves out pairs outside 0.81 to 0.97."
        )
    low, high = judging["similarity"]
    return f"Similarity filter: on, pairs whose embeddings have a cosine of {low:g} to {high:g} are kept."


def code(text: str) -> str:
    """A text in one line that Markdown shows letter for letter, between more backticks than it holds."""
    signs = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text else ""
    return f"{signs}{space}{' '.join(text.split())}{space}{signs}"


def broken_sources(plan: PairPlan) -> str:
    """A list of what could not be read; empty if all could."""
    broken: dict[str, tuple[str, int]] = {}
    for pair in plan.pairs:
        if pair.reason in BROKEN:
            name = ", ".join(dict.fromkeys(map(str, pair.files)))
            broken[name] = pair.reason, broken.get(name, ("", 0))[1] + 1
    lines = [f"- {code(name)}: {reason}, {count} actions" for name, (reason, count) in broken.items()]
    more = [f"- and {len(lines) - MAX_SOURCES} more"] if len(lines) > MAX_SOURCES else []
    return "\n".join([*lines[:MAX_SOURCES], *more])
