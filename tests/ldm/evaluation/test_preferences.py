"""What people preferred: rates and intervals by closed forms, agreement by a published worked example."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from egogen.errors import UserError
from ldm import evaluate
from ldm.report.__main__ import main
from ldm.report.preferences import agreement, read_preferences
from ldm.report.shares import share_of
from ldm.study.answers import Answer, AnswerBook

SYSTEMS = ("a", "b", "c")
# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units.
OBSERVED = """1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 ."""


def write(path: Path, *picks: tuple[str, str, str | None], systems: tuple[str, ...] = SYSTEMS) -> Path:
    book = AnswerBook(path)
    for rater, item, choice in picks:
        book.add(Answer(rater, item, choice, systems, 1))
    return path


def test_agreement_of_a_published_example() -> None:
    values = [line.split() for line in OBSERVED.splitlines()]
    answers = [
        Answer(f"{rater}", f"{unit}", value, tuple("12345"), 1)
        for rater, row in enumerate(values)
        for unit, value in enumerate(row)
        if value != "."
    ]
    assert agreement(answers) == pytest.approx(0.743, abs=5e-4)


def test_agreement_needs_two_people_on_an_item(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ("Ann", "x/0", "a"), ("Bo", "y/0", "a"))
    assert read_preferences(path).alpha is None
    path = write(
        tmp_path / "b.csv", ("Ann", "x/0", "a"), ("Bo", "x/0", "a"), ("Ann", "y/0", "b"), ("Bo", "y/0", "b")
    )
    assert read_preferences(path).alpha == 1


def test_wilson_interval() -> None:
    """(p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n)."""
    n, wins, z = 20, 13, 1.959963985
    p = wins / n
    middle, half = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    expected = [100 * end / (1 + z * z / n) for end in (middle - half, middle + half)]
    share = share_of("a", wins, n)
    assert share.percent == pytest.approx(65)
    assert share.interval == pytest.approx(expected, abs=1e-6)
    assert (share.text, share.range) == ("65 %", "43 to 82 %")
    assert share_of("a", 0, 0).interval is None


def test_ties_are_counted_beside_and_the_last_answer_counts(tmp_path: Path) -> None:
    path = write(
        tmp_path / "answers.csv", ("Ann", "x/0", "c"), ("Ann", "x/0", "a"), ("Ann", "y/0", None),
        ("Bo", "x/0", "a"), ("Bo", "y/0", "b"), ("Bo", "z/0", "a"),
    )  # fmt: skip
    found = read_preferences(path)
    assert found.picks == {"a": 3, "b": 1, "c": 0}
    assert [round(share.percent) for share in found.wins] == [75, 25, 0]
    assert (found.answers, found.ties, found.raters, found.items) == (5, 1, 2, 3)
    assert found.chance == pytest.approx(100 / 3)


def test_answers_of_two_studies_are_not_mixed(tmp_path: Path) -> None:
    path = write(tmp_path / "answers.csv")
    with pytest.raises(UserError, match="no answers yet"):
        read_preferences(path)
    write(path, ("Ann", "x/0", "a"))
    write(path, ("Ann", "y/0", "a"), systems=("a", "d"))
    with pytest.raises(UserError, match="y/0 was shown of a, d, others of a, b, c"):
        read_preferences(path)


def test_the_report_shows_them(scene, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    evaluate.main(scene.flags("--metrics", "psnr"))
    study = write(scene.root / "answers.csv", ("Ann", "x/0", "a<"), ("Bo", "x/0", "b"), systems=("a<", "b"))
    capsys.readouterr()
    main([str(scene.run), "--out", str(scene.root / "report"), "--study", str(study)])
    shown = capsys.readouterr().out
    assert (
        "2 answers of 2 people to 1 items; 0 saw no difference. By chance each system would win 50 %" in shown
    )
    page = (scene.root / "report/index.html").read_text()
    section = page[page.index("What people preferred") :]
    assert section.count('class="bar"') == 2
    assert "a&lt;" in section
    told = json.loads((scene.root / "report/metrics.json").read_text())["study"]
    assert told["systems"]["b"]["win_rate"] == 0.5
    assert told["answers"] == 2
