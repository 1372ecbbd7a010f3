"""The page over HTTP: pixels of `ldm.edit`, batches, places, cancelling, uploads, and who may ask."""

from __future__ import annotations

import io
import shlex
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from egogen.errors import UserError
from ldm.edit import main as edit
from ldm.page.engine import PageCancelledError, Wanted
from ldm.page.frame_settings import read_settings
from ldm.sampling.editing import Condition, decode
from tests.ldm.page.running_page import Page, png, running, until
from tests.ldm.page.stand_in import features

TEXT = "the left hand pulls it towards itself"


@pytest.fixture(scope="module")
def photo(page: Page) -> str:
    return str(page.ask("/api/photos", png())["photo"])


def drawn_by_the_command(made: dict[str, Any], photo: bytes, folder: Path, *more: str) -> np.ndarray:
    """Runs the command that stands beside a frame."""
    words = shlex.split(made["command"])[6:]
    place = words.index("--input") + 1
    (folder / words[place]).write_bytes(photo)
    words[place] = str(folder / words[place])
    words[words.index("--output") + 1] = str(folder / "frame.png")
    for flag in ("--vllm", "--description"):
        if more and flag in words:
            place = words.index(flag)
            del words[place : place + 2]
    edit([*words, "--device", "cpu", *more])
    return np.asarray(Image.open(folder / "frame.png"), int)


def test_pixels_are_those_of_the_command(page: Page, photo: str, tmp_path: Path) -> None:
    frame = {"action": "open it", "seed": 5, "steps": 2, "cfg_text": 3.0, "scheduler": "unipc"}
    (made,) = page.draw(photo, {**frame, "method": "ip2p"})["frames"]
    assert np.array_equal(
        page.pixels(made["picture"]), drawn_by_the_command(made["settings"], png(), tmp_path)
    )
    (made,) = page.draw(photo, {**frame, "description": TEXT})["frames"]
    features(TEXT, tmp_path / "features")
    more = [
        "--image-feature", str(tmp_path / "features/image.npy"), "--text-feature",
        str(tmp_path / "features/text.npy"), "--prompt", TEXT,
    ]  # fmt: skip
    assert "--vllm" in made["settings"]["command"]
    assert made["settings"]["drawn"]["text"] == TEXT
    assert np.array_equal(
        page.pixels(made["picture"]), drawn_by_the_command(made["settings"], png(), tmp_path, *more)
    )


def test_a_description_is_written_then_followed_if_it_is_edited(page: Page, photo: str) -> None:
    told = list(page.events("/api/describe", {"photo": photo, "action": "open it", "seed": 1}))
    assert next(each["text"] for each in told if each["event"] == "text") == "the"
    text = told[-1]["text"]
    assert told[-1]["event"] == "done"
    assert text.endswith("open it")
    own, same, other = page.draw(
        photo,
        *(
            {"action": "open it", "seed": 1, "steps": 1, "description": said}
            for said in (None, text, f"{text} with both hands")
        ),
    )["frames"]
    assert np.array_equal(page.pixels(own["picture"]), page.pixels(same["picture"]))
    assert not np.array_equal(page.pixels(own["picture"]), page.pixels(other["picture"]))
    assert "--description" not in shlex.split(own["settings"]["command"])


def test_a_frame_is_seen_as_it_appears(page: Page, photo: str) -> None:
    asked = {"photo": photo, "frames": [{"action": "open it", "steps": 4}]}
    told = list(page.events("/api/draw", asked))
    assert [each["step"] for each in told if each["event"] == "step"] == [1, 2, 3, 4]
    assert any(each.get("preview", "").startswith("data:image/jpeg") for each in told)
    places = [(each["line"], each["place"]) for each in told if each["event"] == "place"]
    assert places == [("describe", 1), ("describe", 0), ("draw", 1), ("draw", 0)]
    assert told[0]["event"] == "job"
    assert told[-1]["event"] == "done"


def test_ones_failure_is_its_own(page: Page, photo: str) -> None:
    frames = page.draw(
        photo,
        {"action": "open it", "steps": 1},
        {"action": "refuse it", "steps": 1},
        {"action": "open it", "steps": 1, "method": "nan"},
    )["frames"]
    assert "picture" in frames[0]
    assert frames[1] == {"error": "action 'refuse it': it is refused"}
    assert "came out as no numbers; lower the guidance" in frames[2]["error"]
    failed = page.draw(photo, {"action": "die", "steps": 1})
    assert failed["code"] == 422
    assert "stage 1 stopped twice" in failed["error"]
    assert page.draw(photo, {"action": "open it", "steps": 1})["code"] == 200


def test_cancelling_takes_one_out_and_the_next_goes_on(page: Page, photo: str) -> None:
    slow = {"photo": photo, "frames": [{"action": "slow one", "steps": 1}]}
    events = page.events("/api/draw", slow)
    name = next(events)["job"]
    with ThreadPoolExecutor() as pool:
        other = pool.submit(page.draw, photo, {"action": "open it", "steps": 1})
        until(lambda: page.desk.describing.waiting)
        assert page.ask(f"/api/jobs/{name}", method="DELETE") == {"code": 200, "cancelled": 1}
        assert [each["event"] for each in events][-1] == "cancelled"
        assert other.result()["code"] == 200
    assert page.ask(f"/api/jobs/{name}", method="DELETE")["code"] == 404


def test_features_are_gone_however_their_frame_ends(
    page: Page, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, go_on = {"action": "open it", "steps": 1}, Event()
    monkeypatch.setattr(page.desk.engine, "draw", lambda *_: go_on.wait(20) and [UserError("held")])
    with ThreadPoolExecutor() as pool:
        held = pool.submit(page.draw, photo, {**frame, "method": "ip2p"})
        until(lambda: page.desk.going and not page.desk.waiting)
        events = page.events("/api/draw", {"photo": photo, "frames": [frame]})
        name = next(events)["job"]
        until(lambda: page.desk.drawing.waiting)
        assert list(page.desk.features.iterdir())
        page.ask(f"/api/jobs/{name}", method="DELETE")
        assert not list(page.desk.features.iterdir())
        go_on.set()
        assert held.result()["error"] == "held"
    assert page.desk.worker is not None
    monkeypatch.setattr(page.desk.worker, "ask", dies_after_its_features)
    assert page.draw(photo, frame)["error"] == "it died"
    assert not list(page.desk.features.iterdir())


def test_a_frame_of_a_batch_that_failed_can_be_cancelled(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = page.desk.engine
    plan = engine.plan(read_settings({"action": "open it", "steps": 2, "method": "ip2p"}), Path("photo.png"))
    wanted = [
        Wanted(Image.open(io.BytesIO(png())).convert("RGB"), Condition("open it"), seed) for seed in range(3)
    ]
    monkeypatch.setattr("ldm.page.engine.decode", fails_of_many)
    first, second, third = engine.draw(plan, wanted, second_has_gone)
    assert isinstance(first, Image.Image)
    assert isinstance(second, PageCancelledError)
    assert isinstance(third, Image.Image)


def fails_of_many(pipeline: object, photos: Sequence[object], *more: Any, **named: Any) -> Tensor:
    if len(photos) > 1:
        raise RuntimeError("too many")
    return decode(pipeline, photos, *more, **named)


def second_has_gone(places: Sequence[int]) -> Callable[..., None]:
    return leaves if list(places) == [1] else lambda *_: None


def leaves(*_: object) -> None:
    raise PageCancelledError


def dies_after_its_features(question: dict[str, Any], *_: object) -> str:
    features("open it", Path(question["folder"]))
    raise UserError("it died")


def test_who_goes_away_is_not_drawn_for(page: Page, photo: str) -> None:
    events = page.events("/api/draw", {"photo": photo, "frames": [{"action": "slow two", "steps": 1}]})
    next(events)
    until(lambda: page.desk.going)
    events.close()
    until(lambda: not page.desk.going)
    assert page.draw(photo, {"action": "open it", "steps": 1})["code"] == 200


def test_a_full_line_says_so(page: Page, photo: str) -> None:
    slow = {"photo": photo, "frames": [{"action": f"slow {n}", "steps": 1} for n in range(8)]}
    events = page.events("/api/draw", slow)
    name = next(events)["job"]
    until(lambda: len(page.desk.describing.waiting) == 7)
    full = page.draw(photo, {"action": "open it"}, {"action": "close it"})
    assert full["code"] == 503
    assert full["error"].startswith("7 frames are waiting, of 8 that may; try again in a minute, or ask for")
    mixed = page.draw(photo, {"action": "open it"}, {"action": "open it", "method": "ip2p"})
    assert mixed["code"] == 503  # both lines count
    assert page.draw(photo, {"action": "open it", "steps": 1, "method": "ip2p"})["code"] == 200
    assert page.desk.waiting == 7
    page.ask(f"/api/jobs/{name}", method="DELETE")
    assert [each["event"] for each in events].count("cancelled") == 8


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({"photo": "none", "frames": [{"action": "a"}]}, 404, "this photo is not here any more; upload it"),
        ({"photo": "../x", "frames": [{"action": "a"}]}, 404, "this photo is not here"),
        ({"frames": [{"action": "a"}]}, 400, "photo: missing; upload one"),
        ({"photo": "scene-1"}, 400, "frames: got none, expected a list of 1 to 16"),
        ({"photo": "scene-1", "frames": []}, 400, "frames: got 0"),
        ({"photo": "scene-1", "frames": [{"action": "a"}] * 17}, 400, "frames: got 17"),
        ({"photo": "scene-1", "frames": [{"action": "a", "method": "x"}]}, 400, "allowed: LEGO, ip2p, nan"),
        ({"photo": "scene-1", "frames": [{"action": "a", "steps": 201}]}, 400, "up to 200 on this page"),
        ({"photo": "scene-1", "frames": [{"action": "a", "resolution": 1024}]}, 400, "up to 768 on this"),
        ({"photo": "scene-1", "frames": [{"action": "a </s>"}]}, 400, "action: it holds </s>"),
        (
            {"photo": "scene-1", "frames": [{"action": "a", "description": "<s>"}]},
            400,
            "description: it holds",
        ),
        ({"photo": "scene-1", "frames": [{"action": "a"}], "more": 1}, 400, "'more' is not known"),
        (b"{", 400, "request: not valid JSON"),
        (b"[]", 400, "expected a JSON object"),
        (b" " * 300_001, 413, "larger than 300000 bytes"),
    ],
)
def test_bad_requests(page: Page, body: object, code: int, said: str) -> None:
    answer = page.ask("/api/draw", body)
    assert answer["code"] == code
    assert said in answer["error"]


def test_uploads(page: Page) -> None:
    made = page.ask("/api/photos", png(kind="WEBP"))
    assert (made["code"], made["width"], made["height"]) == (201, 90, 48)
    assert "open the drawer" in made["actions"]
    assert page.get(made["original"]) == png(kind="WEBP")
    assert page.get(made["view"]).startswith(b"\x89PNG")
    assert page.ask(f"/api/photos/{made['photo']}")["width"] == 90
    refused = page.ask("/api/photos", b"GIF99 nothing")
    assert (refused["code"], refused["error"][:25]) == (400, "the upload is no picture ")
    large = page.ask("/api/photos", b"x" * 1_000_001)
    assert large["code"] == 413
    assert large["error"] == "the upload is larger than 1 MB; make the picture smaller"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        page.get("/api/frames/none.png")


def test_only_the_page_itself_may_ask(page: Page) -> None:
    draw = {"photo": "scene-1", "frames": [{"action": "a", "steps": 1}]}
    foreign = page.ask("/api/draw", draw, Origin="https://elsewhere.example")
    assert foreign == {"code": 403, "error": "another site's page may not ask this one"}
    assert page.ask("/api/draw", draw, Origin=page.url)["code"] == 200
    rebound = page.ask("/api", Host="elsewhere.example:80")
    assert rebound["code"] == 403
    assert "under 127.0.0.1, localhost, ::1 alone" in rebound["error"]


def test_nothing_on_the_page_comes_from_elsewhere(page: Page) -> None:
    for name in (
        "",
        "static/page.js",
        "static/talk.js",
        "static/photo.js",
        "static/frames.js",
        "static/page.css",
    ):
        text = page.get(f"/{name}").decode()
        assert "http" not in text.replace("http://www.w3.org", "").replace("https alone", "")
    with urllib.request.urlopen(page.url) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/api/photos/..%2f..%2fx"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            page.get(path)


def test_without_stage_1_words_are_typed_by_hand(checkpoints: Path, tmp_path: Path) -> None:
    with running(tmp_path / "page", checkpoints / "lego.ckpt", described=False, batch=4) as alone:
        assert not alone.ask("/api")["stage_one"]
        refused = alone.ask("/api/describe", {"photo": "scene-1", "action": "open it"})
        assert refused["error"] == "stage 1 is not loaded here; type a description by hand"
        frames = [{"action": "open it", "seed": seed, "steps": 2} for seed in range(4)]
        together = alone.draw("scene-2", *frames, {**frames[0], "description": TEXT})["frames"]
        assert together[4]["settings"]["drawn"]["text"] == TEXT
        for number, frame in enumerate(frames):
            # By itself; a batch of convolutions rounds in another order.
            (single,) = alone.draw("scene-2", frame)["frames"]
            gap = abs(alone.pixels(together[number]["picture"]) - alone.pixels(single["picture"]))
            assert gap.max() <= 1
            assert (gap > 0).mean() < 0.01
        assert len(list((tmp_path / "page/own/frames").iterdir())) == 9
