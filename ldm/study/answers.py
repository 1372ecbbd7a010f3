"""What people answered, a line each in a CSV that loses nothing: written before the page goes on."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from egogen.csv_rows import read_text, told
from egogen.errors import UserError, reason, shorten
from egogen.files import atomic_open, ends_with

COLUMNS = ("time", "rater", "item", "choice", "order", "milliseconds")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """One answer.

    `item`: clip/action. `choice`: the system whose frame was picked; None for no difference. `order`: the
    systems as they were shown, from the first place. `milliseconds`: from showing to answering.
    """

    rater: str
    item: str
    choice: str | None
    order: tuple[str, ...]
    milliseconds: int

    @property
    def place(self) -> int:
        """The place that was picked, from 1; 0 for no difference."""
        return 0 if self.choice is None else self.order.index(self.choice) + 1


class AnswerBook:
    """The answers of a study: a file, and what counts of it by rater and item; threads may share it.

    A line that an ended process left unfinished was never told to be kept; it goes.

    Args:
        path: the CSV file, made if absent.

    Raises:
        UserError: it cannot be read or written, or is not of this form.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.Lock()
        try:
            if not path.exists():
                with atomic_open(path) as file:
                    file.write(line(COLUMNS))
            mend(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({reason(error)})") from None
        self.latest = read_answers(path)

    def add(self, answer: Answer) -> None:
        """Appends an answer and waits until it is on disk; an OSError tells that it is not kept."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        fields = [now, answer.rater, answer.item, answer.choice or ""]
        content = line([*fields, json.dumps(answer.order, ensure_ascii=False), answer.milliseconds])
        with self.lock:
            mend(self.path)
            with self.path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self.latest[answer.rater, answer.item] = answer

    def of(self, rater: str) -> Mapping[str, Answer]:
        """A rater's answers that count, by item."""
        with self.lock:
            return {item: answer for (who, item), answer in self.latest.items() if who == rater}


def line(fields: Sequence[object]) -> bytes:
    """A line of the file; a line break within a field would be none of ours."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(fields)
    return stream.getvalue().encode()


def mend(path: Path) -> None:
    """Cuts off a last line without an end."""
    if ends_with(path, b"\n"):
        return
    content = path.read_bytes()
    log.warning("%s: dropped an unfinished last line", path)
    with path.open("rb+") as file:
        file.truncate(content.rfind(b"\n") + 1)
        os.fsync(file.fileno())


def read_answers(path: Path) -> dict[tuple[str, str], Answer]:
    """The answers that count, by rater and item: of several the last; an unfinished last line is passed over.

    Raises:
        UserError: the file is missing or not of this form; names the line.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; python -m ldm.study writes it")
    text = read_text(path)
    lines = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    if tuple(lines.fieldnames or ()) != COLUMNS:
        raise UserError(f"{path}: its columns are {told(lines.fieldnames or ())}, expected {told(COLUMNS)}")
    found = {}
    for row in lines:
        answer = parsed(row, f"{path}: line {lines.line_num}")
        found[answer.rater, answer.item] = answer
    return found


def parsed(row: Mapping[str, Any], where: str) -> Answer:
    """The answer of a line; a `UserError` names one that is none."""
    is_whole = {*row} == {*COLUMNS} and row["rater"] and row["item"]
    try:
        order = json.loads(row["order"])
        are_names = isinstance(order, list) and all(isinstance(name, str) for name in order)
        if is_whole and are_names and row["choice"] in ("", *order):
            taken = int(row["milliseconds"])
            return Answer(row["rater"], row["item"], row["choice"] or None, tuple(order), taken)
    except (TypeError, ValueError, RecursionError):
        pass
    raise UserError(f"{where} is no answer ({shorten(dict(row))}); delete the line")
