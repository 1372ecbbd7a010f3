"""EPIC-KITCHENS-100's tables: actions by row, videos with their rate and size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from egogen.annotations import validate
from egogen.csv_rows import read_csv, told
from egogen.errors import UserError
from egogen.prepare.pair_plan import ClipSize

COLUMNS = (
    "narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp",
    "start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns",
    "all_noun_classes",
)  # fmt: skip
TEST_COLUMNS = COLUMNS[:8]
INFO_COLUMNS = ("video_id", "duration", "fps", "resolution")
LARGEST = 100_000  # width, height or rate that is told
VIDEO_ID = re.compile(r"P\d+_(\d{2,3})")
TIME = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")


def seconds(text: str) -> Fraction:
    """`HH:mm:ss.SS` as exact seconds."""
    match = TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected HH:MM:SS.ss")
    hours, minutes, rest = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + Fraction(rest)


def video_id(text: str) -> str:
    """A video's id, unchanged."""
    if not VIDEO_ID.fullmatch(text):
        raise ValueError("expected a form such as P01_11 or P01_101")
    return text


class EpicAction(BaseModel):
    """One row: where in which video who does what. Times are exact, in seconds."""

    id: str = Field(alias="narration_id")
    video: Annotated[str, AfterValidator(video_id)] = Field(alias="video_id")
    start: Annotated[Fraction, BeforeValidator(seconds)] = Field(alias="start_timestamp")
    stop: Annotated[Fraction, BeforeValidator(seconds)] = Field(alias="stop_timestamp")
    narration: str
    verb: str
    noun: str


def read_actions(path: Path) -> Iterator[EpicAction]:
    """Reads `EPIC_100_train.csv` or `EPIC_100_validation.csv`; columns count by their names.

    Raises:
        UserError: columns are missing, or a row holds what its column cannot.
    """
    return (validate(EpicAction, row, f"{path}: line {line}") for line, row in read_table(path, COLUMNS))


def read_video_info(path: Path) -> dict[str, ClipSize]:
    """Reads `EPIC_100_video_info.csv`: height, width and native frame rate by video.

    Raises:
        UserError: columns are missing, or a row holds what its column cannot.
    """
    found: dict[str, ClipSize] = {}
    for line, row in read_table(path, INFO_COLUMNS):
        try:
            width, height = map(int, row["resolution"].split("x"))
            fps = float(row["fps"])
            if not (0 < width <= LARGEST and 0 < height <= LARGEST and 0 < fps <= LARGEST):
                raise ValueError
            found[row["video_id"]] = {"height": height, "width": width, "fps": fps}
        except ValueError:
            raise UserError(
                f"{path}: line {line}: found fps {row['fps']!r}, resolution {row['resolution']!r}; "
                "expected such as 59.94 and 1920x1080"
            ) from None
    return found


def read_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with their line numbers.

    Raises:
        UserError: it cannot be read, columns are missing, or a row is too short or too long.
    """
    found, rows = read_csv(path)
    lacking = [name for name in columns if name not in found]
    if lacking and tuple(found) == TEST_COLUMNS:
        raise UserError(
            f"{path}: holds the time stamps of EPIC's test set, which has no labels; "
            "use EPIC_100_train.csv or EPIC_100_validation.csv"
        )
    if lacking:
        raise UserError(f"{path}: lacks the columns {', '.join(lacking)}; found {told(found)}")
    for line, row in rows:
        if len(row) < len(found):
            raise UserError(f"{path}: line {line}: expected {len(found)} fields")
        yield line, row


def frames_per_second(video: str) -> int:
    """Rate of the distributed frames: 60 of P01_11 (EPIC-55), 50 of P01_101 (extension)."""
    match = VIDEO_ID.fullmatch(video)
    assert match is not None
    return 60 if len(match[1]) == 2 else 50


def frame_number(time: Fraction, rate: int) -> int:
    """Number of the distributed frame at a time."""
    return max(1, int(time * rate))
