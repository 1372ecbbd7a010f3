"""Carries a plan out: claims the folder, extracts, filters, writes. What all subcommands end with."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from egogen.disk import writing
from egogen.errors import UserError
from egogen.files import clean_parts, ends_with
from egogen.frames import JPEG_END
from egogen.journal import Journal, Key
from egogen.layout import Layout, Split
from egogen.locks import hold
from egogen.manifest import claim
from egogen.prepare.frames.extract import SourceWork, extract, remove
from egogen.prepare.judge import judge, verdict
from egogen.prepare.options import BROKEN_BASE, MOST_BROKEN, PrepareOptions
from egogen.prepare.outputs import write_outputs
from egogen.prepare.pair_plan import (
    BROKEN,
    MISSING,
    UNREADABLE,
    ActionPair,
    ClipSize,
    FrameRow,
    PairPlan,
    PairRow,
    pair_journal,
)
from egogen.prepare.processes import spread
from egogen.prepare.run_report import broken_sources, estimate, summary, write_report
from egogen.progress import Progress
from egogen.shard_claims import Claims, Work
from egogen.shards import parse_auto, parse_shard, take_shard
from egogen.unfinished import PARTS

log = logging.getLogger(__name__)

JOURNALS, SCORES, CLAIMS = "journals", "scores.jsonl", "settings"


@dataclass(frozen=True)
class Preparation:
    """One run.

    Args:
        layout: of the data set that is made.
        splits: that the run writes.
        settings: what makes the data what they are; another run with others is refused.
        options: the shared flags.
        clips: size and rate by clip, where they are known better than from the frames.
    """

    layout: Layout
    splits: Sequence[Split]
    settings: Mapping[str, object]
    options: PrepareOptions
    clips: Mapping[str, ClipSize] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the run keeps what it knows."""
        return self.layout.preparation / "_".join([self.layout.dataset, *self.splits])


def carry_out(plan: PairPlan, job: Preparation) -> None:
    """Makes the data set of a plan.

    Raises:
        UserError: the folder holds other data.
        SystemExit: sources were missing or broken; the code says how many.
    """
    behind = plan.limit(job.options.limit)
    check_kept(plan, job)
    if job.options.dry_run:
        log.info("%s\n%s", summary(plan, job.splits), estimate(plan, job.options.look))
        return
    shard = job.options.shard
    with writing(job.layout.egogen):
        if shard is not None:
            claim_splits(job)
            share_extraction(plan, job, shard)
        if shard is not None and parse_auto(shard) is None:
            log.info("shard %s is extracted; the same command without --shard joins all of them", shard)
            return
        # All splits of a data set share the metadata file.
        with hold(job.layout.preparation / job.layout.dataset, "preparation", wait=shard is not None):
            make(plan, behind, job)
    broken = {pair.files for pair in plan.pairs if pair.reason in BROKEN}
    if broken:
        log.warning("%d sources were missing or broken:\n%s", len(broken), broken_sources(plan))
        raise SystemExit(BROKEN_BASE + min(len(broken), MOST_BROKEN))


def make(plan: PairPlan, behind: Sequence[ActionPair], job: Preparation) -> None:
    """Extracts, filters and writes."""
    clean_parts(job.layout.preparation)
    clean_parts(job.layout.egogen, PARTS)
    claim_splits(job)
    scores = pair_journal(job.folder / SCORES)
    keep_earlier(plan, behind, job, scores)
    extract_all(kept_sources(plan, job), job, scores)
    judge(plan.kept(), job.layout, job.options, scores)
    write_outputs(plan, job.layout, job.splits, job.clips, job.folder)
    for pair in plan.pairs:
        if pair.reason is not None and pair.row is not None:
            remove(pair.paths(job.layout))
    write_report(plan, job.layout, job.splits, job.settings, job.folder)
    check_kept(plan, job)
    log.info("%s\nwritten: %s", summary(plan, job.splits), job.layout.egogen)


def share_extraction(plan: PairPlan, job: Preparation, words: str) -> None:
    """Extracts a shard of the sources; with `auto` one after the other, until all are done by somebody."""
    scores, mine = pair_journal(job.folder / SCORES), plan.kept()
    sources = kept_sources(plan, job)  # once: what cannot be read is no reason to count shards anew

    work = partial(extract_all, sources, job, scores)
    if (count := parse_auto(words)) is not None:
        Claims(job.folder, count, together=True).take(work)
    else:
        shard = parse_shard(words)
        claims = Claims(job.folder, shard.total)
        with hold(job.folder / JOURNALS, "preparation", shard.name), claims.own(shard) as told:
            work(told)
    for pair in mine:  # who joins the shards reads what the journals say of all of them
        pair.reason, pair.row = None, None


def check_kept(plan: PairPlan, job: Preparation) -> None:
    """Ends a run that has no pair to show for it, unless broken sources end it, with a code of their own.

    Raises:
        UserError: no pair is kept; says why.
    """
    reasons = Counter(pair.reason for pair in plan.pairs)
    if None not in reasons and not any(reason in BROKEN for reason in reasons):
        told = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common()) or "no actions"
        raise UserError(f"{job.layout.egogen}: none of {len(plan.pairs)} pairs can be kept: {told}")


def claim_splits(job: Preparation) -> None:
    """Claims the splits that the run writes.

    Raises:
        UserError: one of them was made by something else, or by a run with other settings.
    """
    claims = job.layout.preparation / CLAIMS
    for split in job.splits:
        for path in (job.layout.annotations(split), job.layout.frames(split)):
            if path.exists() and not (claims / f"{job.layout.dataset}_{split}.json").exists():
                raise UserError(f"{path}: was not made by egogen.prepare; choose another --out")
    for split in job.splits:
        claim(claims, job.settings, f"{job.layout.dataset}_{split}.json")


def by_journal(pairs: Iterable[ActionPair], job: Preparation) -> dict[Path, list[ActionPair]]:
    """The pairs of each source by its journal."""
    found: dict[Path, list[ActionPair]] = {}
    for pair in pairs:
        name = pair.files[0].stem if pair.source is None else pair.source.name
        found.setdefault(job.folder / JOURNALS / f"{name}.jsonl", []).append(pair)
    return found


def keep_earlier(plan: PairPlan, behind: Sequence[ActionPair], job: Preparation, scores: Journal) -> None:
    """Keeps what an earlier run extracted of missing sources, and behind the limit.

    Videos may be fetched a few at a time; the limit bounds new work.
    """
    missing = [pair for pair in plan.pairs if pair.reason == MISSING]
    for path, pairs in by_journal([*missing, *behind], job).items():
        left = {pair.key for pair in recall(pairs, pair_journal(path).rows, job, scores)}
        for pair in pairs:
            if pair.key not in left and pair.reason == MISSING:
                pair.reason = None
            elif pair.key not in left:
                plan.pairs.append(pair)


def kept_sources(plan: PairPlan, job: Preparation) -> dict[Path, list[ActionPair]]:
    """The pairs of each source by its journal; without a source are those that an earlier run extracted."""
    return by_journal((pair for pair in plan.kept() if pair.source is not None), job)


def extract_all(
    sources: Mapping[Path, list[ActionPair]], job: Preparation, scores: Journal, told: Work | None = None
) -> None:
    """Extracts what is not there yet, source by source, and notes in each pair what became of it.

    With `told` that of a shard of the sources, which hears of it.
    """
    if told is not None:
        sources = dict(take_shard(list(sources.items()), *told.shard))
    work = []
    for journal, pairs in sources.items():
        left = recall(pairs, pair_journal(journal).rows, job, scores)
        if left and pairs[0].source is not None:
            work.append(SourceWork(pairs[0].source, left, journal))
    log.info("%d of %d sources are to be read", len(work), len(sources))
    make = partial(extract, layout=job.layout, look=job.options.look)
    total = sum(len(part.pairs) for part in work)
    if told is not None:
        every = sum(map(len, sources.values()))
        told.begin(every, every - total)
    also = None if told is None else told.advance
    with Progress(total=total, desc="pairs", unit="pair", also=also) as bar:
        for part, signal in spread(make, work, job.options.workers, job.options.patience, written):
            if signal:
                log.warning("%s: signal %d ended the decoder", part.source.name, signal)
            rows = pair_journal(part.journal).rows
            for pair in recall(part.pairs, rows, job, scores):
                pair.reason = rows.get(pair.key, {}).get("reason", UNREADABLE)
            bar.update(len(part.pairs))


def written(part: SourceWork) -> int:
    """Bytes of a source's journal: what grows while its decoder gets on."""
    return part.journal.stat().st_size if part.journal.exists() else 0


def recall(
    pairs: Sequence[ActionPair], rows: Mapping[Key, Mapping[str, object]], job: Preparation, scores: Journal
) -> list[ActionPair]:
    """Gives each pair what its source's journal says was extracted, if that is still there.

    Returns:
        The pairs that are not extracted. What the journal calls lost is tried again by the next run: a video
        may have been fetched anew.
    """
    left = []
    for pair in pairs:
        row = rows.get(pair.key, {})
        pair.row = cast("PairRow", share_names(row)) if "frames" in row else None
        if pair.row is not None:
            pair.row["frames"] = [cast("FrameRow", share_names(frame)) for frame in pair.row["frames"]]
        if pair.row is not None and verdict(scores.rows.get(pair.key), job.options) is None:
            pair.row = pair.row if all(ends_with(path, JPEG_END) for path in pair.paths(job.layout)) else None
        if pair.row is None:
            left.append(pair)
    return left


def share_names(row: Mapping[str, object]) -> dict[str, object]:
    """An object of a journal whose names are in memory once; each line that is read has its own."""
    return dict(zip(map(sys.intern, row), row.values(), strict=True))
