"""What a run leaves behind: the conversations that stage 1 is tuned on, and a report of the run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from egogen.annotations import Item
from egogen.conversations import Conversation, Turn, write_conversations
from egogen.errors import UserError, reason
from egogen.manifest import claim
from egogen.record import run_record
from llava.curate.budget import Spending
from llava.curate.curation import Curation
from llava.question.labels import QUESTION
from llava.question.prompts import question


def manifest_name(out: Path) -> str:
    """The file beside the conversations that says what made them."""
    return f"{out.stem}.manifest.json"


def check_place(out: Path, settings: Mapping[str, object]) -> None:
    """Checks, before anything is paid for, that the result can be written and mixes with nothing.

    Raises:
        UserError: the place is no file's, or holds what other settings or other commands made.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({reason(error)})") from None
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise UserError(f"{out}: cannot be written; expected a file's path in a folder that is yours")
    if out.with_name(manifest_name(out)).exists():
        claim(out.parent, settings, manifest_name(out))
    elif out.exists():
        raise UserError(
            f"{out}: exists, and was not made by this command; choose another --out, or move it elsewhere"
        )


def conversation(item: Item, words: str, description: str) -> Conversation:
    """The record that teaches stage 1 one action."""
    asked = Turn(speaker="human", value=question(QUESTION, words))
    turns = [asked, Turn(speaker="gpt", value=description)]
    return Conversation(id=f"{item.clip}_{item.id}", image=item.action.image_0, conversations=turns)


def write_result(work: Curation) -> None:
    """Writes the described actions as conversations, in the order of the annotation file, and what made them.

    Raises:
        UserError: meanwhile the place was taken by a run with other settings.
    """
    claim(work.out.parent, work.settings, manifest_name(work.out))
    told = {(item.clip, item.id): case for case in work.cases for item in case.items}
    found = [(item, told.get((item.clip, item.id))) for item in work.items]
    records = [
        conversation(item, case.words, case.description) for item, case in found if case and case.description
    ]
    write_conversations(work.part, records)


def report(work: Curation, this_run: Spending, all_runs: Spending, lost: int) -> dict[str, object]:
    """How a run went, as JSON values; `lost` tries may have been charged for nothing."""
    failed = Counter(name for case in work.cases for attempt in case.attempts for name in attempt.faults)
    return {
        "settings": work.settings,
        "actions": work.actions,
        "described": work.actions - len(work.left_out),
        "left_out": len(work.left_out),
        "left_out_by_check": Counter(name for _, case in work.left_out for name in case.failures),
        "answers_that_failed_by_check": failed,
        "this_run": asdict(this_run),
        "all_runs": asdict(all_runs),
        "tries_of_this_run_that_may_have_been_charged_too": lost,
        "actions_left_out": [
            {"clip": item.clip, "id": item.id, "action": item.action.action, "reason": case.reason}
            for item, case in work.left_out
        ],
        "run": run_record(["lego-egogen", "openai", "transformers"]),
    }


def summary(work: Curation, this_run: Spending, all_runs: Spending) -> str:
    """The report in three lines."""
    failed = Counter(name for _, case in work.left_out for name in case.failures)
    counts = ", ".join(f"{name} {count}" for name, count in failed.items())
    left_out = len(work.left_out)
    return (
        f"{work.actions} actions: {work.actions - left_out} described, {left_out} left out"
        + (f" ({counts})" if counts else "")
        + f"\nthis run: {this_run}\nall runs: {all_runs}"
    )
