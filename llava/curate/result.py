"""What a run leaves behind: the conversations that stage 1 is tuned on, and a report of the run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from egogen.annotations import Item
from egogen.conversations import Conversation, Turn, write_conversations
from egogen.errors import UserError, reason
from egogen.files import write_json
from egogen.manifest import claim
from egogen.record import run_record
from llava.curate.budget import Prices, sum_of
from llava.curate.cases import Case
from llava.curate.exchange import Reply
from llava.curate.job import Job
from llava.prompts import QUESTION, question


def manifest_name(out: Path) -> str:
    """The file beside the conversations that says what made them."""
    return f"{out.stem}.manifest.json"


def check_place(out: Path, settings: Mapping[str, Any]) -> None:
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
    turns = [
        Turn.model_validate({"from": "human", "value": question(QUESTION, words)}),
        Turn.model_validate({"from": "gpt", "value": description}),
    ]
    return Conversation(id=f"{item.clip}_{item.id}", image=item.action.image_0, conversations=turns)


def write_result(job: Job) -> None:
    """Writes the described actions as conversations, in the order of the annotation file, and what made them.

    Raises:
        UserError: meanwhile the place was taken by a run with other settings.
    """
    claim(job.out.parent, job.settings, manifest_name(job.out))
    made = {
        (item.clip, item.id): conversation(item, case.words, case.description)
        for case in job.cases
        if case.description is not None
        for item in case.items
    }
    keys = [(item.clip, item.id) for item in job.items]
    write_conversations(job.part, [made[key] for key in keys if key in made])


def report(cases: Sequence[Case], costs: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a run went, as JSON values.

    Args:
        cases: all of the run.
        costs: its tokens and money (`spending`).
        settings: what made the result.
    """
    left_out = [(item, case) for case in cases if case.description is None for item in case.items]
    actions = sum(len(case.items) for case in cases)
    return {
        "settings": dict(settings),
        "actions": actions,
        "described": actions - len(left_out),
        "left_out": len(left_out),
        "left_out_by_check": dict(Counter(name for _, case in left_out for name in case.failed)),
        "answers_that_failed_by_check": dict(
            Counter(name for case in cases for attempt in case.attempts for name in attempt.faults)
        ),
        **costs,
        "actions_left_out": [
            {"clip": item.clip, "id": item.id, "action": item.action.action, "reason": case.reason}
            for item, case in left_out
        ],
        "run": run_record(["lego-egogen", "openai", "transformers"]),
    }


def spending(replies: Sequence[Reply], prices: Prices) -> dict[str, Any]:
    """Tokens and cost of some replies, by the server's count where it gave one."""
    usage = sum_of(reply.usage for reply in replies)
    return {
        "answers": len(replies),
        "of_which_tokens_are_estimated": sum(not reply.counted for reply in replies),
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "cost": prices.of(usage),
    }


def write_report(out: Path, made: Mapping[str, Any]) -> Path:
    """Writes the report beside the conversations."""
    path = out.with_name(f"{out.stem}.report.json")
    write_json(path, made)
    return path


def summary(made: Mapping[str, Any]) -> str:
    """The report in three lines."""
    counts = ", ".join(f"{name} {count}" for name, count in made["left_out_by_check"].items())
    lines = [
        f"{made['actions']} actions: {made['described']} described, {made['left_out']} left out"
        + (f" ({counts})" if counts else "")
    ]
    for name in ("this_run", "all_runs"):
        part = made[name]
        lines.append(
            f"{name.replace('_', ' ')}: {part['answers']} answers, {part['prompt_tokens']:,} tokens read, "
            f"{part['completion_tokens']:,} written" + (f", cost {part['cost']:.4f}" if part["cost"] else "")
        )
    return "\n".join(lines)
