"""Looks before the first byte is fetched: what servers have, what disks hold, who computes."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from egogen import cli
from egogen.disk import readable, require_space
from egogen.layout import Layout, data_root
from ldm.reproduction import needs
from ldm.reproduction.needs import by_disk, fetching, total
from ldm.reproduction.reproduce_options import CHECKPOINTS, FEATURES, ReproduceOptions
from ldm.reproduction.step import Step

log = logging.getLogger(__name__)


def count_pairs(options: ReproduceOptions) -> int:
    """Pairs of the val split; before it is here, those of the published one."""
    path = Layout(data_root(), options.dataset).annotations("val")
    if not path.exists():
        return options.released.val
    from egogen.annotations import Annotations

    return len(Annotations.read(path).items)


def left(options: ReproduceOptions, steps: list[Step]) -> list[Step]:
    """The steps that scripts/steps.sh has not noted as finished."""
    return [step for step in steps if not (options.work / ".done" / step.name).exists()]


def ask_servers(steps: list[Step]) -> tuple[list[Step], float]:
    """Downloads with what is still lacking of them, and what share of the published data set there is.

    Raises:
        UserError: a server gives no good answer, or lacks what is wanted.
    """
    from egogen.download.wanted import DownloadOptions, ask_all, choose

    asked, share = [], 1.0
    for step in steps:
        wanted = cli.options(DownloadOptions, step.words[2:], "scripts/download.sh", None)
        found = ask_all(wanted)
        size = sum(each.remaining(each.downloads()) for each in found)
        room = sum(each.needed() for each in found)
        asked.append(replace(step, need=fetching(wanted.root, size, room)))
        if wanted.group == "dataset" and found:
            published = sum(source.size for source in choose(wanted).values())
            share = min(1.0, sum(each.announced for each in found) / published)
    return asked, share


def check_room(steps: list[Step]) -> None:
    """Holds what all steps will write against what the disks have free.

    Raises:
        UserError: a disk is too small.
    """
    for root, there in by_disk([step.need for step in steps]).items():
        names = ", ".join(step.name for step in steps if step.need.disk and step.need in there)
        require_space(root, total(there), f"what is left for it ({names})")


def warn_without_gpu(options: ReproduceOptions, pairs: int) -> None:
    """A line where a model of 13 billion weights would run on a CPU."""
    if options.lanes or options.taken == FEATURES:
        return
    hours = needs.DESCRIBE.hours(pairs, 0)[0]
    does = "describing" if options.taken == CHECKPOINTS else "describing alone, tuning apart,"
    log.warning(
        "no GPU here: by the released LLaVA %s would take about %s hours on %d CPU cores, and %s of memory; "
        "--from %s needs no LLaVA",
        does, f"{hours:,.0f}", os.cpu_count() or 1, readable(2 * needs.WEIGHTS_13B), FEATURES,
    )  # fmt: skip
