"""Statistics: words by the documented rule, counts that add up, a page that stands alone."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egogen.errors import UserError
from egogen.layout import Layout
from egogen.pack import main as pack_main
from egogen.stats.__main__ import main
from egogen.stats.measure import measure, spread_of
from egogen.stats.words import nouns, verb


@pytest.mark.parametrize(
    ("label", "base", "named"),
    [
        ("#C C cuts the carrot", "cut", ["carrot"]),
        ("#C C picks up the red cup from a shelf", "pick", ["cup", "shelf"]),
        ("#C C carries the plate with both hands", "carry", ["plate", "hands"]),
        ("#C C washes his left hand, then dries it", "wash", ["hand", "it"]),
        ("#C C presses the button on the screw-driver", "press", ["button", "screw-driver"]),
        ("#C C ties the rope", "tie", ["rope"]),
        ("#C C closes the box and opens the drawer", "close", ["box", "drawer"]),
        ("#C C fixes the tap", "fix", ["tap"]),
        ("#C C goes to the door", "go", ["door"]),
        ("#C C has a spoon", "have", ["spoon"]),
        ("#unsure C walks", "walk", []),
        ("#O man X passes the glass", "man", ["glass"]),
        ("cut carrot", "cut", ["carrot"]),
        ("press button", "press", ["button"]),
        ("put down pan lid", "put", ["lid"]),
        ("turn on tap", "turn", ["tap"]),
        ("still stirring", "still", ["stirring"]),
        ("the hand cuts the carrot", "hand", ["carrot"]),
        ("#C C the", None, []),
        ("take plate and cup from cupboard", "take", ["plate", "cup", "cupboard"]),
        ("...", None, []),
    ],
)
def test_verbs_and_nouns(label: str, base: str | None, named: list[str]) -> None:
    assert verb(label) == base
    assert nouns(label) == named


@given(st.text())
def test_any_label_has_words_or_none(label: str) -> None:
    assert verb(label) != ""
    assert "" not in nouns(label)


def describe(root: Path) -> None:
    path = Layout(root, "ego4d").annotations("val")
    value = json.loads(path.read_text())
    value["toy_val_000001"]["0"]["llava_forecast_finetune"] = "Two words <b>& more</b>."
    path.write_text(json.dumps(value))


def test_figures(root: Path) -> None:
    describe(root)
    frames = Layout(root, "ego4d").frames("val")
    sizes = sum(path.stat().st_size for path in frames.rglob("*.jpg"))
    (frames / "toy_val_000002/0/frame_0000000045.jpg").write_bytes(b"no image")
    measured = measure(Layout(root, "ego4d"), "val", workers=1)
    assert (measured.clips, len(measured.items), measured.frames, measured.missing) == (3, 3, 6, 1)
    assert measured.sizes == {(71, 40): 5}
    assert measured.described == "1 of 3"
    assert measured.counters["verbs"].total() == 3
    assert abs(measured.size - sizes) < 4000
    assert spread_of(measured.descriptions) == "4 / 4 / 4"
    assert spread_of([]) == "-"


def test_tables(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    describe(root)
    main([str(root), "--top", "1"])
    shown = capsys.readouterr().out
    assert re.search(r"^ego4d/val +3 +3 +6 +0 +1 of 3 ", shown, re.MULTILINE)
    assert re.search(r"^image sizes +1 +71 x 40 10$", shown, re.MULTILINE)
    assert shown.count("\nverbs ") == 4


class Page(HTMLParser):
    """What a page shows, and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    describe(root)
    (Layout(root, "ego4d").frames("val") / "toy_val_000000/0/frame_0000000045.jpg").unlink()
    main([str(root), "--out", str(root / "page.html"), "--examples", "3"])
    capsys.readouterr()
    text = (root / "page.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.sources) == 4 * 3 * 2 - 1
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "prefers-color-scheme: dark" in text
    assert "&lt;b&gt;&amp; more&lt;/b&gt;" in text
    assert "missing or broken: toy_val_000000" in text
    assert "<dt>frames missing</dt><dd>1</dd>" in text
    assert "url(" not in text
    assert re.search(r"<strong>[^<]+</strong>\n(<p>[^<]+</p>\n)?<p class=\"id\">toy_val_0", text)
    again = root / "again.html"
    main([str(root), "--out", str(again), "--examples", "3", "--workers", "1"])
    assert again.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no data set of ours here"),
        (["{root}", "--top", "0"], "--top 0: expected 1 or more"),
        (["{root}", "--examples", "-1"], "--examples -1: expected 0 or more"),
        (["{root}", "--out", "{root}/a.html"], "is a folder"),
    ],
)
def test_wrong_arguments(root: Path, arguments: list[str], message: str) -> None:
    (root / "a.html").mkdir()
    with pytest.raises(UserError, match=message):
        main([word.format(root=root) for word in arguments])


def test_nothing_to_measure_is_said(root: Path) -> None:
    shutil.rmtree(Layout(root, "ego4d").frames("val"))
    with pytest.raises(UserError, match=r"val: none of the 6 frames that the annotations name can be opened"):
        measure(Layout(root, "ego4d"), "val", workers=1)
    Layout(root, "ego4d").annotations("val").write_text("{}")
    for command in (lambda: measure(Layout(root, "ego4d"), "val", workers=1), lambda: pack(root)):
        with pytest.raises(UserError, match=r"ego4d_val\.json: holds no action"):
            command()


def pack(root: Path) -> None:
    """Packs the val split."""
    pack_main(["--dataset", "ego4d", "--split", "val", "--data-root", str(root), "--out", str(root / "tars")])


def test_frames_behind_links_are_measured(root: Path) -> None:
    frames = Layout(root, "ego4d").frames("val")
    before = measure(Layout(root, "ego4d"), "val", workers=1)
    for clip in [*frames.iterdir()]:
        (frames / clip.name).symlink_to(clip.rename(root / clip.name))
    assert measure(Layout(root, "ego4d"), "val", workers=1) == before
