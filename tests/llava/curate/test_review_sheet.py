from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, PackageLoader

from llava.curate.cases import Attempt, Case
from llava.curate.pair_facts import PairFacts
from llava.curate.review_sheet import sample
from tests.llava.curate.conftest import ACTIONS, Run
from tests.llava.curate.server import Answer, completion, describe, serve
from tests.llava.curate.test_pair_facts import item

VOID = {"meta", "img"}


class Strict(HTMLParser):
    """Notes unbalanced tags and whatever is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


@pytest.fixture
def page(run: Run, tmp_path: Path) -> str:
    """Three answers of a kind each: refused for good, mended, good."""
    asked: list[str] = []

    def answer(request: dict[str, Any]) -> Answer:
        first = request["messages"][13]["content"]
        asked.append(first)
        kind = list(dict.fromkeys(asked)).index(first)
        if kind == 0:
            return completion("I'm sorry <b>no</b>.")
        if kind == 1 and asked.count(first) == 1:
            return completion("Sure! " + describe(request).body["choices"][0]["message"]["content"])
        return describe(request)

    with serve(answer) as server:
        flags = ["--sheet", str(tmp_path / "s.html"), "--sheet-size", "5", "--concurrency", "1"]
        assert run(server, *flags) == 3
        first = (tmp_path / "s.html").read_text()
        assert run(server, *flags, "--sheet-size", "100") == 3
    assert first.count("<article") == 5
    assert first.count('class="left-out"') == 1
    return (tmp_path / "s.html").read_text()


def test_a_sheet_shows_frames_boxes_texts_and_faults(page: str) -> None:
    assert page.count("<article") == ACTIONS
    assert page.count('src="data:image/jpeg;base64,') == 2 * ACTIONS
    assert page.count("passed all checks") == ACTIONS - 1
    assert "left out: it declines, or asks back" in page
    assert "<summary>earlier answers: 2</summary>" in page
    assert "<summary>earlier answers: 1</summary><blockquote>Sure! The right hand" in page
    assert (
        len(re.findall(r'<i class="hand[^"]*" style="left:[\d.]+%;top:[\d.]+%;width:[\d.]+%', page)) > ACTIONS
    )
    assert "#C C " in page
    assert "prefers-color-scheme: dark" in page


def test_a_sheet_is_sound_html_that_loads_nothing(page: str) -> None:
    parser = Strict()
    parser.feed(page)
    assert parser.stack == []
    assert all(source.startswith("data:image/jpeg;base64,") for source in parser.sources)
    assert "I&#39;m sorry &lt;b&gt;no&lt;/b&gt;." in page


def test_a_frame_that_is_missing_is_told(run: Run, tmp_path: Path, world: Path) -> None:
    root = tmp_path / "bare"
    (root / "EgoGen").mkdir(parents=True)
    for name in ("ego4d_train.json", "ego4d_metadata.json"):
        (root / "EgoGen" / name).write_bytes((world / "EgoGen" / name).read_bytes())
    with serve() as server:
        assert run(server, "--data-root", str(root), "--sheet", str(tmp_path / "s.html"), "--limit", "1") == 0
    assert (tmp_path / "s.html").read_text().count("no such frame") == 2


def test_names_of_boxes_find_room() -> None:
    pages = Environment(loader=PackageLoader("llava.curate"), autoescape=True)
    template: Any = pages.get_template("review_sheet.html.j2")
    outline = template.make_module({"head": {}, "shown": []}).outline
    assert 'class="hand"' in outline("left hand", (0.2, 0.5, 0.3, 0.6))
    assert 'class="high far"' in outline("cup <1>", (0.8, 0.0, 0.9, 0.1))
    assert "cup &lt;1&gt;" in outline("cup <1>", (0.8, 0.0, 0.9, 0.1))


def case(number: int, good: bool) -> Case:
    entry = item(image_0=f"c/{number}/a.jpg")._replace(id=str(number))
    return Case(
        "cut it", PairFacts("cut it"), None, [entry], [Attempt("x", {} if good else {"hands": "no hands"})]
    )


@pytest.mark.parametrize(
    ("size", "bad", "good", "shown_bad", "shown_good"),
    [(10, 20, 20, 5, 5), (10, 2, 20, 2, 8), (10, 20, 3, 7, 3), (10, 1, 1, 1, 1), (1, 5, 5, 0, 1)],
)
def test_a_sample_has_both_kinds(size: int, bad: int, good: int, shown_bad: int, shown_good: int) -> None:
    cases = [case(number, number >= bad) for number in range(bad + good)]
    shown = sample(cases, size)
    kinds = [one.case.description is None for one in shown]
    assert kinds == [True] * shown_bad + [False] * shown_good
    assert shown == sample(cases[::-1], size)
