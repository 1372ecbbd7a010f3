"""The study's page in Chromium: keys and touch, two people at once, a restart, a server that is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ldm.study.answers import AnswerBook, read_answers
from ldm.study.server import Study, StudyServer
from tests.ldm.study_world import COLOURS, survey, write_study

pytestmark = pytest.mark.browser
ITEMS = 3
LOADED = "[...document.querySelectorAll('#task img')].every((image) => image.complete && image.naturalWidth)"


class Hall:
    """A study that is open: pages of several people, and what went wrong on them."""

    def __init__(self, chromium: Any, root: Path) -> None:
        self.chromium, self.root, self.faults = chromium, root, []
        self.answers = root / "answers.csv"
        self.port = 0
        self.open()

    def open(self) -> None:
        study = Study(survey(self.root, ITEMS), AnswerBook(self.answers), "Which is best?")
        self.server = StudyServer(study, "127.0.0.1", self.port)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def visit(self, rater: str, width: int = 1280, **how: Any) -> Any:
        page = self.chromium.new_context(viewport={"width": width, "height": 800}, **how).new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: self.faults.append(f"{error}"))
        page.on("console", lambda told: self.faults.append(told.text) if told.type == "error" else None)
        page.on("request", lambda asked: self.watch(asked.url))
        page.goto(self.server.address)
        page.get_by_label("Your name or initials").fill(rater)
        page.get_by_role("button", name="Begin").click()
        until_loaded(page)
        return page

    def watch(self, url: str) -> None:
        if not url.startswith((self.server.address, "data:")):
            self.faults.append(f"fetched {url}")


@pytest.fixture
def hall(chromium: Any, tmp_path: Path) -> Iterator[Hall]:
    write_study(tmp_path)
    made = Hall(chromium, tmp_path)
    yield made
    made.close()
    for context in chromium.contexts:
        context.close()


def keep(page: Any, name: str, tmp_path: Path) -> None:
    page.screenshot(path=tmp_path / f"study_{name}.png", full_page=True)


def until_loaded(page: Any) -> None:
    """Waits for the frames; by questions from outside, since the page lets nothing be evaluated in it."""
    deadline = time.monotonic() + 10
    while not page.evaluate(LOADED):
        assert time.monotonic() < deadline, "the frames are not loaded"
        page.wait_for_timeout(20)


def wait_for(page: Any, place: int, answered: int) -> None:
    page.get_by_text(f"{place} of {ITEMS}, {answered} answered").wait_for()
    until_loaded(page)


def test_by_keys_to_the_end_and_back(hall: Hall, tmp_path: Path) -> None:
    page = hall.visit("Ann")
    order = [each.key for each in hall.server.study.survey.sequence("Ann")]
    wait_for(page, 1, 0)
    assert not any(name in page.content() for name in COLOURS)
    keep(page, "wide", tmp_path)
    page.keyboard.press("ArrowRight")  # nothing is answered yet
    page.keyboard.press("9")  # nor is there such a picture
    page.keyboard.press("2")
    wait_for(page, 2, 1)
    page.keyboard.press("0")
    wait_for(page, 3, 2)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    wait_for(page, 1, 2)
    assert page.locator('[aria-pressed="true"]').get_attribute("data-place") == "2"
    page.keyboard.press("3")  # another answer in its place
    wait_for(page, 2, 2)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("1")
    page.get_by_role("heading", name="Thank you").wait_for()
    kept = read_answers(hall.answers)
    assert [kept["Ann", key].place for key in order] == [3, 0, 1]
    study = hall.server.study
    assert kept["Ann", order[0]].choice == study.survey.order("Ann", study.exhibit(order[0]))[2]
    assert all(answer.milliseconds > 0 for answer in kept.values())
    assert hall.faults == []


def test_two_people_at_once_on_a_phone_and_in_the_dark(hall: Hall, tmp_path: Path) -> None:
    phone = hall.visit("Ann", 360, has_touch=True)
    dark = hall.visit("Bo", color_scheme="dark")
    for page, name in ((phone, "phone"), (dark, "dark")):
        keep(page, name, tmp_path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    grounds = [page.evaluate("getComputedStyle(document.body).backgroundColor") for page in (phone, dark)]
    assert grounds == ["rgb(251, 251, 250)", "rgb(20, 21, 23)"]
    for number in range(1, ITEMS + 1):
        phone.get_by_role("button", name="Picture 1").tap()
        dark.get_by_role("button", name="No difference").click()
        if number < ITEMS:
            wait_for(phone, number + 1, number)
            wait_for(dark, number + 1, number)
    for page in (phone, dark):
        page.get_by_role("heading", name="Thank you").wait_for()
    kept = read_answers(hall.answers)
    assert (
        sorted((rater, answer.place) for (rater, _), answer in kept.items())
        == [("Ann", 1)] * 3 + [("Bo", 0)] * 3
    )
    assert hall.faults == []


def test_nothing_goes_on_while_the_study_is_gone_and_a_restart_goes_on(hall: Hall) -> None:
    page = hall.visit("Ann")
    page.keyboard.press("1")
    wait_for(page, 2, 1)
    hall.close()
    page.keyboard.press("1")
    page.get_by_text("This answer is not kept. The study cannot be reached.").wait_for()
    assert len(read_answers(hall.answers)) == 1
    hall.open()
    page.keyboard.press("1")
    wait_for(page, 3, 2)
    again = hall.visit("Ann")
    wait_for(again, 3, 2)
    assert all("ERR_CONNECTION" in fault for fault in hall.faults)
