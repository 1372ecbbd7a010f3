"""Curves of losses and of success rates from TensorBoard logs, as SVG that follows the page's colours."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from egogen.errors import UserError
from egogen.walks import walk_files

# matplotlib writes this colour; the page's own text colour takes its place.
INK = "#010203"
SERIES = ("#3b82f6", "#f59e0b", "#10b981", "#ec4899", "#8b5cf6", "#64748b", "#dc2626")
# Scalars whose names contain one of these are drawn.
DRAWN = ("loss", "success", "toy_fid")
# Loss of neighbouring steps is averaged over this share of a curve.
SMOOTHING = 0.04


class Curve(NamedTuple):
    """A scalar over training steps."""

    tag: str
    steps: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]


class Panel(NamedTuple):
    """The curves of one log."""

    title: str
    svg: str


def panels(logs: Sequence[str]) -> list[Panel]:
    """A panel for each log folder that has losses or success rates.

    Args:
        logs: folders that hold event files, themselves or below; `TITLE=FOLDER` gives a title.

    Raises:
        UserError: a folder is missing, has no event files or nothing to draw.
    """
    made: list[Panel] = []
    for log in logs:
        title, _, name = log.rpartition("=")
        folder = Path(name)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such log folder; expected a folder with TensorBoard event files")
        sources = sorted({path.parent for path in walk_files(folder, "*tfevents*")})
        if not sources:
            raise UserError(f"{folder}: no TensorBoard event files (*tfevents*) here or below")
        found = {source: lines for source in sources if (lines := curves(source))}
        if not found:
            raise UserError(
                f"{folder}: the event files hold no scalar whose name contains {' or '.join(DRAWN)}"
            )
        for source, lines in found.items():
            below = "" if source == folder else f" ({source.relative_to(folder).as_posix()})"
            heading = (title or folder.name) + (below if len(found) > 1 else "")
            made.append(Panel(heading, draw(lines, salt=f"{len(made)}")))
    return made


def curves(folder: Path) -> list[Curve]:
    """The curves of one folder of event files; steps that were logged twice keep the later value."""
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    events.Reload()
    found = []
    for tag in sorted(events.Tags()[SCALARS]):
        if any(word in tag.lower() for word in DRAWN):
            by_step = {event.step: event.value for event in events.Scalars(tag)}
            finite = sorted((step, value) for step, value in by_step.items() if np.isfinite(value))
            steps, values = np.array(finite, np.float64).reshape(-1, 2).T
            found.append(Curve(tag, steps, values))
    return [curve for curve in found if len(curve.steps)]


def smooth(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Centred moving average; at both ends over the part of the window that there is."""
    half = int(len(values) * SMOOTHING / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def draw(lines: Iterable[Curve], salt: str, over: str = "step", *, is_log: bool = False) -> str:
    """Draws curves as an SVG element.

    Args:
        lines: what to draw.
        salt: keeps the element's ids apart from those of the page's other drawings.
        over: what the values stand over.
        is_log: whether that axis is logarithmic.
    """
    style = mpl.rc_context({
        "svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 10, "text.color": INK,
        "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False,
    })  # fmt: skip
    with style:
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.grid(color=INK, alpha=0.12, linewidth=0.6)
        for index, curve in enumerate(lines):
            colour = SERIES[index % len(SERIES)]
            axes.plot(curve.steps, curve.values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(
                curve.steps, smooth(curve.values), color=colour, linewidth=1.8,
                marker="o" if len(curve.steps) < 20 else "", markersize=3, label=curve.tag,
            )  # fmt: skip
        axes.set_xlabel(over)
        if is_log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(ScalarFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.legend(frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
