"""The page in a real browser: an edit end to end, bad uploads, two people, cancelling, narrow screens.

Screenshots go to `PAGE_SCREENSHOTS`, by default a folder of pytest's; look at them.
"""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.chromium import FOUND, WHY_NOT
from tests.ldm.page.running_page import Page, png

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here: bash scripts/setup.sh ldm")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOUND, reason=WHY_NOT),
]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api.expect.set_options(timeout=30_000)
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=FOUND,
            args=["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("PAGE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def visit(browser: Any, page: Page) -> Iterator[Open]:
    """Opens the page as a person does; at the end nothing may have gone wrong or elsewhere."""
    wrong: list[str] = []

    def note(message: Any) -> None:
        if message.type in ("error", "warning") and "status of 4" not in message.text:
            wrong.append(message.text)

    with ExitStack() as ends:

        def visit(hash_: str = "", width: int = 1280, colours: str = "light", **more: Any) -> Any:
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=colours, accept_downloads=True, **more
            )
            ends.callback(context.close)
            tab = context.new_page()
            tab.set_default_timeout(30_000)
            tab.on("console", note)
            tab.on("pageerror", lambda error: wrong.append(f"{error}"))
            tab.on("request", lambda request: check_address(request.url, page.url, wrong))
            tab.goto(f"{page.url}/{hash_}")
            sync_api.expect(tab.get_by_role("status")).not_to_have_text("Loading ...")
            return tab

        yield visit
    assert not wrong


def check_address(url: str, own: str, wrong: list[str]) -> None:
    if not url.startswith((own, "data:", "blob:")):
        wrong.append(f"asked elsewhere: {url}")


def fill(tab: Any, action: str, steps: int = 2) -> None:
    """Picks a scene and says what to draw."""
    tab.get_by_role("button", name="Example scene 1").click()
    tab.get_by_label("What happens next?").fill(action)
    tab.get_by_text("More settings").click()
    tab.get_by_label("Steps").fill(f"{steps}")


def is_drawn(tab: Any, count: int = 1) -> None:
    sync_api.expect(tab.get_by_role("status")).to_have_text(f"Drawn: {count} of {count}.")


def test_an_edit_end_to_end(visit: Open, page: Page, shots: Path) -> None:
    tab = visit()
    tab.locator("#file").set_input_files(
        {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": png(kind="JPEG")}
    )
    tab.get_by_role("button", name="open the drawer").click()
    sync_api.expect(tab.get_by_label("What happens next?")).to_have_value("open the drawer")
    tab.get_by_role("button", name="Describe it").click()
    description = tab.get_by_label("How is it done?")
    sync_api.expect(description).to_have_value("the right hand reaches out and does it: open the drawer")
    tab.get_by_label("Seed").fill("4")
    tab.get_by_role("button", name="Draw", exact=True).click()
    is_drawn(tab)
    first = tab.locator("#after").get_attribute("src")
    description.fill("the left hand pulls the handle")
    tab.get_by_role("button", name="Draw", exact=True).click()
    sync_api.expect(tab.locator("#said")).to_contain_text("the left hand pulls the handle")
    second = tab.locator("#after").get_attribute("src")
    assert not np.array_equal(page.pixels(first), page.pixels(second))
    tab.locator("#compare").fill("20")
    assert "20%" in tab.locator("#after").get_attribute("style")
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Download picture").click()
    assert np.array_equal(np.asarray(Image.open(download.value.path()), int), page.pixels(second))
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Download settings").click()
    settings = json.loads(Path(download.value.path()).read_text())
    assert (settings["action"], settings["seed"]) == ("open the drawer", 4)
    assert settings["description"] == "the left hand pulls the handle"
    assert tab.locator("#history .card").count() == 2
    tab.screenshot(path=shots / "wide.png", full_page=True)
    tab.reload()
    sync_api.expect(tab.locator("#history .card")).to_have_count(2)
    tab.locator("#history .card").last.click()
    assert tab.locator("#after").get_attribute("src") == first


def test_several_actions_and_seeds_and_methods(visit: Open, shots: Path) -> None:
    tab = visit(width=1440)
    fill(tab, "pick up cup\nopen box\n\npush plate")
    tab.get_by_role("button", name="Draw", exact=True).click()
    is_drawn(tab, 3)
    assert [card.inner_text().split("\n")[0] for card in tab.locator("#grid button.card").all()] == [
        "pick up cup", "open box", "push plate",
    ]  # fmt: skip
    tab.screenshot(path=shots / "actions.png", full_page=True)
    tab.get_by_label("What happens next?").fill("pick up cup")
    tab.get_by_role("spinbutton", name="Frames").fill("2")
    tab.get_by_label("ip2p").check()
    tab.get_by_role("button", name="Draw", exact=True).click()
    is_drawn(tab, 4)
    assert tab.locator("#grid .card").last.inner_text().startswith("pick up cup, ip2p, seed 1")
    tab.get_by_role("spinbutton", name="Frames").fill("8")
    tab.get_by_label("What happens next?").fill("a\nb\nc")
    tab.get_by_role("button", name="Draw", exact=True).click()
    sync_api.expect(tab.get_by_role("alert")).to_contain_text("That makes 48 frames; 16 at once are allowed")


def test_a_link_restores_the_settings(visit: Open, page: Page) -> None:
    tab = visit()
    fill(tab, "open box & more", 3)
    tab.get_by_role("combobox", name="Passes").select_option("balanced")
    tab.get_by_label("Guidance by the text").fill("3.5")
    tab.get_by_role("button", name="Draw", exact=True).click()
    is_drawn(tab)
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.get_by_role("button", name="Copy link").click()
    link = tab.evaluate("navigator.clipboard.readText()")
    other = visit(f"#{link.partition('#')[2]}")
    sync_api.expect(other.get_by_role("status")).to_contain_text("Settings of the link")
    assert other.get_by_label("What happens next?").input_value() == "open box & more"
    assert other.get_by_label("Steps").input_value() == "3"
    assert other.get_by_role("combobox", name="Passes").input_value() == "balanced"
    assert other.locator("#cfg_text").input_value() == "3.5"
    other.get_by_role("button", name="Draw", exact=True).click()
    is_drawn(other)
    pictures = [page.pixels(each.locator("#after").get_attribute("src")) for each in (tab, other)]
    assert np.array_equal(*pictures)
    words = urllib.parse.urlencode({"photo": "gone", "action": "open it"})
    lost = visit(f"#{words}")
    sync_api.expect(lost.get_by_role("alert")).to_contain_text("The photo of this link is not kept any more")
    assert lost.get_by_label("What happens next?").input_value() == "open it"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<svg/>", "the upload is no picture that is read here"),
        (png()[:999], "the picture cannot be read"),
        (b"\0" * 1_000_001, "This photo has 1.0 MB; up to 1 MB are taken"),
    ],
)
def test_bad_uploads_are_explained(visit: Open, content: bytes, said: str) -> None:
    tab = visit()
    tab.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": content})
    sync_api.expect(tab.get_by_role("alert")).to_contain_text(said)
    tab.get_by_role("button", name="Example scene 2").click()
    sync_api.expect(tab.get_by_role("alert")).to_be_hidden()


def test_what_is_missing_is_said(visit: Open) -> None:
    tab = visit()
    tab.get_by_role("button", name="Draw", exact=True).click()
    sync_api.expect(tab.get_by_role("alert")).to_have_text("First choose a photo, or pick one of the scenes.")
    tab.get_by_role("button", name="Example scene 1").click()
    tab.get_by_role("button", name="Draw", exact=True).click()
    sync_api.expect(tab.get_by_role("alert")).to_contain_text("First write an action")
    fill(tab, "refuse it")
    tab.get_by_label("Seed").fill("-1")
    tab.get_by_role("button", name="Draw", exact=True).click()
    sync_api.expect(tab.get_by_role("alert")).to_contain_text("Seed: ")
    tab.get_by_label("Seed").fill("1")
    tab.get_by_role("button", name="Draw", exact=True).click()
    sync_api.expect(tab.get_by_role("alert")).to_have_text("action 'refuse it': it is refused")


def test_two_people_at_once_and_a_place_in_the_line(visit: Open) -> None:
    first, second = visit(), visit()
    fill(first, "slow one", 1)
    fill(second, "open it", 1)
    first.get_by_role("button", name="Draw", exact=True).click()
    sync_api.expect(first.get_by_role("status")).to_have_text("Stage 1 is writing ...")
    second.get_by_role("button", name="Draw", exact=True).click()
    sync_api.expect(second.get_by_role("status")).to_have_text("Waiting to be described: place 1.")
    is_drawn(first)
    is_drawn(second)
    sync_api.expect(second.locator("#said")).to_contain_text("open it")
    sync_api.expect(first.locator("#said")).to_contain_text("slow one")


def test_cancel_by_key_and_button(visit: Open) -> None:
    tab = visit()
    fill(tab, "slow one", 1)
    for how in (lambda: tab.keyboard.press("Escape"), tab.get_by_role("button", name="Cancel").click):
        tab.get_by_role("button", name="Draw", exact=True).click()
        sync_api.expect(tab.get_by_role("status")).to_have_text("Stage 1 is writing ...")
        how()
        sync_api.expect(tab.get_by_role("status")).to_have_text("Cancelled.")
        sync_api.expect(tab.get_by_role("button", name="Draw", exact=True)).to_be_enabled()
    sync_api.expect(tab.locator("#history .card")).to_have_count(0)


def test_a_description_is_of_its_photo_and_action(visit: Open) -> None:
    tab = visit()
    fill(tab, "slow one", 1)
    description, status = tab.get_by_label("How is it done?"), tab.get_by_role("status")
    description.fill("by hand")
    tab.get_by_role("button", name="Describe it").click()
    sync_api.expect(description).to_have_value(re.compile("^the right"))
    tab.get_by_role("button", name="Example scene 2").click()
    sync_api.expect(status).to_contain_text("The photo or the action is another now")
    sync_api.expect(description).to_have_value("by hand")
    description.fill("")
    tab.get_by_role("button", name="Draw", exact=True).click()
    sync_api.expect(description).to_have_value(re.compile("^the right"))
    tab.get_by_label("What happens next?").fill("open it")
    sync_api.expect(status).to_contain_text("The photo or the action is another now")
    sync_api.expect(description).to_have_value("")
    tab.get_by_role("button", name="Draw", exact=True).click()
    is_drawn(tab)
    sync_api.expect(tab.locator("#said")).to_contain_text("does it: open it")


def test_a_pasted_link_and_scales_that_nobody_moved(visit: Open, page: Page) -> None:
    tab = visit()
    fill(tab, "open it", 1)
    with tab.expect_request("**/api/draw") as asked:
        tab.get_by_role("button", name="Draw", exact=True).click()
    assert "cfg_text" not in asked.value.post_data_json["frames"][0]
    is_drawn(tab)
    words = {
        "photo": "scene-2", "action": "close it", "description": "as it was", "cfg_text": 3.25, "steps": 1,
    }  # fmt: skip
    tab.goto(f"{page.url}/#{urllib.parse.urlencode(words)}")
    sync_api.expect(tab.get_by_role("status")).to_have_text("Settings of the link are filled in.")
    sync_api.expect(tab.get_by_label("How is it done?")).to_have_value("as it was")
    with tab.expect_request("**/api/draw") as asked:
        tab.get_by_role("button", name="Draw", exact=True).click()
    (frame,) = asked.value.post_data_json["frames"]
    assert (frame["action"], frame["cfg_text"], "cfg_image" in frame) == ("close it", 3.25, False)
    is_drawn(tab)
    tab.get_by_role("button", name="Example scene 1").click()
    sync_api.expect(tab.get_by_label("How is it done?")).to_have_value("")


def test_a_glimpse_is_taken_away_where_no_frame_comes(visit: Open) -> None:
    tab = visit()
    fill(tab, "open it", 200)
    draw, caption = tab.get_by_role("button", name="Draw", exact=True), tab.locator("#caption")
    for shown in (False, True):
        if shown:
            tab.get_by_label("Steps").fill("1")
            draw.click()
            is_drawn(tab)
            tab.get_by_label("What happens next?").fill("close it")
            tab.get_by_label("Steps").fill("200")
        draw.click()
        sync_api.expect(tab.locator("#after")).to_have_attribute("alt", "The frame as it appears")
        sync_api.expect(tab.get_by_role("link", name="Download picture")).to_be_hidden()
        tab.keyboard.press("Escape")
        sync_api.expect(tab.get_by_role("status")).to_have_text("Cancelled.")
        sync_api.expect(tab.locator("#viewer")).to_be_visible(visible=shown)
    sync_api.expect(caption).to_have_text("open it")
    sync_api.expect(tab.get_by_role("link", name="Download picture")).to_be_visible()


def test_the_photo_that_was_chosen_last_counts(visit: Open) -> None:
    tab = visit()
    waiting: list[Any] = []
    tab.route("**/api/photos", lambda route: waiting.append(route))
    tab.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": png()})
    sync_api.expect(tab.get_by_role("status")).to_have_text("Uploading the photo ...")
    tab.get_by_role("button", name="Example scene 2").click()
    with tab.expect_response("**/api/photos"):
        waiting[0].continue_()
    sync_api.expect(tab.get_by_role("button", name="Example scene 2")).to_have_attribute(
        "aria-pressed", "true"
    )
    assert "scene-2" in tab.locator("#photo-view").get_attribute("src")


def test_by_keyboard_alone(visit: Open) -> None:
    tab = visit()
    for key in ("Tab", "Enter"):
        tab.keyboard.press(key)
    for _ in range(40):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.dataset.photo") == "scene-1":
            break
    tab.keyboard.press("Shift+Tab")
    tab.evaluate("document.querySelector('[data-photo=scene-1]').focus()")
    tab.keyboard.press("Enter")
    for _ in range(12):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.id") == "action":
            break
    tab.keyboard.type("open it")
    tab.keyboard.press("Control+Enter")
    is_drawn(tab)
    tab.locator("#compare").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#compare").input_value() == "51"


def test_every_control_has_a_name(visit: Open) -> None:
    tab = visit()
    fill(tab, "open it", 1)
    tab.get_by_role("button", name="Draw", exact=True).click()
    is_drawn(tab)
    nameless = tab.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button, a, video")].filter((each) =>
            !(each.labels?.length || each.ariaLabel || each.textContent.trim()
                || each.querySelector("img[alt]")))
            .map((each) => each.outerHTML)"""
    )
    assert nameless == []
    assert tab.evaluate("[...document.images].every((image) => image.hasAttribute('alt'))")


@pytest.mark.parametrize(("width", "colours"), [(360, "light"), (360, "dark"), (1280, "dark")])
def test_narrow_and_dark(visit: Open, shots: Path, width: int, colours: str) -> None:
    tab = visit(width=width, colours=colours, has_touch=width == 360)
    fill(tab, "pick up cup\nopen box", 2)
    tab.get_by_role("button", name="Draw", exact=True).click()
    is_drawn(tab, 2)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.screenshot(path=shots / f"{width}_{colours}.png", full_page=True)
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(14, 21, 20)") == (colours == "dark")
    tab.get_by_label("Colours").select_option("light" if colours == "dark" else "dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != ground


def test_paste_and_camera(visit: Open) -> None:
    tab = visit()
    tab.evaluate(
        """async (view) => {
            const blob = await (await fetch(view)).blob();
            const data = new DataTransfer();
            data.items.add(new File([blob], "a.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
        }""",
        "/api/photos/scene-3/original",
    )
    sync_api.expect(tab.get_by_role("button", name="open the drawer")).to_be_visible()
    tab.get_by_role("button", name="Use the camera").click()
    sync_api.expect(tab.locator("#camera")).to_be_visible()
    while not tab.evaluate("document.getElementById('camera').videoWidth"):
        tab.wait_for_timeout(50)
    before = tab.locator("#photo-view").get_attribute("src")
    tab.get_by_role("button", name="Take the photo").click()
    sync_api.expect(tab.locator("#photo-view")).not_to_have_attribute("src", before)
