"""`python -m ldm.study`: orders that are keyed, answers that are kept, requests that are none of ours."""

from __future__ import annotations

import http.client
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from egogen.errors import UserError
from ldm.study.__main__ import main
from ldm.study.answers import COLUMNS, Answer, AnswerBook, read_answers
from ldm.study.server import LARGEST, Study, StudyServer
from ldm.study.survey import spoken
from tests.ldm.study_world import COLOURS, SOURCE, survey, words, write_study

ORDER = ("b", "a")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_study(tmp_path)
    return tmp_path


@pytest.fixture
def server(root: Path) -> Iterator[StudyServer]:
    with StudyServer(Study(survey(root), AnswerBook(root / "answers.csv"), "Best?"), "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: StudyServer, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    kind = {} if content is None else {"Content-Type": "application/json"}
    connection.request("GET" if content is None else "POST", path, content, kind | named)
    reply = connection.getresponse()
    return reply.status, reply.read()


def said(rater: str, item: str, place: object = 1) -> dict[str, object]:
    return {"rater": rater, "item": item, "place": place, "milliseconds": 1200}


def test_items_and_orders_follow_from_the_seed_the_rater_and_the_item(root: Path) -> None:
    made = survey(root)
    assert made.settings == survey(root).settings
    assert {each.key for each in survey(root, 3).exhibits} < {each.key for each in made.exhibits}
    raters = [f"r{number}" for number in range(300)]
    first = made.exhibits[0]
    firsts = Counter(made.order(rater, first)[0] for rater in raters)
    assert set(firsts) == {*COLOURS}
    assert all(70 < count < 130 for count in firsts.values())  # 100 each, give or take 3.7 deviations
    assert len({tuple(made.order("Ann", each)) for each in survey(root, 5).exhibits}) > 1
    assert len({tuple(each.key for each in made.sequence(rater)) for rater in raters}) == 24
    assert survey(root, 4, seed=1).settings["items"] != made.settings["items"]


@pytest.mark.parametrize(
    ("label", "shown"),
    [("#C C opens the box", "opens the box"), ("open drawer", "open drawer"), ("#unsure", "#unsure")],
)
def test_labels_are_shown_as_people_read_them(label: str, shown: str) -> None:
    assert spoken(label) == shown


def test_a_system_that_lacks_an_item_is_named(root: Path) -> None:
    for index in range(5):
        (root / f"copy/images/clip{index}/0/b.png").unlink()
    with pytest.raises(UserError, match=r"the system 'copy' has no frame of clip\d/0.*ldm\.sample --out"):
        survey(root)


def test_answers_are_kept_and_the_last_of_a_person_counts(tmp_path: Path) -> None:
    book = AnswerBook(tmp_path / "new" / "answers.csv")
    for choice in ("a", None, "b"):
        book.add(Answer('An, "n"', "c/0", choice, ORDER, 10))
    book.add(Answer("Bo", "c/0", None, ORDER, 20))
    read = read_answers(book.path)
    assert read == book.latest == AnswerBook(book.path).latest
    assert read['An, "n"', "c/0"].choice == "b"
    assert [answer.place for answer in read.values()] == [1, 0]
    assert len(book.path.read_bytes().splitlines()) == 5  # nothing is lost
    assert book.of("Bo").keys() == {"c/0"}


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_a_cut_last_line_is_dropped_and_the_others_stay(
    tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "answers.csv"
    book = AnswerBook(path)
    for item in ("c/0", "d/0"):
        book.add(Answer("Ann", item, "a", ORDER, 10))
    os.truncate(path, path.stat().st_size - cut)
    assert read_answers(path).keys() == {("Ann", "c/0")}
    again = AnswerBook(path)
    assert "dropped an unfinished last line" in caplog.text
    again.add(Answer("Ann", "e/0", None, ORDER, 10))
    assert read_answers(path).keys() == {("Ann", "c/0"), ("Ann", "e/0")}


def test_an_answer_is_on_disk_before_it_is_told_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book, synced = AnswerBook(tmp_path / "answers.csv"), []

    def sync(_: int) -> None:
        synced.append(book.path.read_bytes().count(b"\n"))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", sync)
    with pytest.raises(OSError, match="No space"):
        book.add(Answer("Ann", "c/0", "a", ORDER, 10))
    assert synced == [2]
    assert not book.latest


@pytest.mark.parametrize(
    "line",
    [
        't,Ann,c/0,z,"[""b"", ""a""]",10', 't,Ann,c/0,a,"[""b"", ""a""]"', "t,,c/0,,[],10",
        "t,Ann,c/0,,[1],10", "t,Ann,c/0,,{,10", "t,Ann,c/0,,[],x", "t,Ann,c/0,,[],1,2",
    ],
)  # fmt: skip
def test_lines_that_are_no_answers_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{line}\n")
    with pytest.raises(UserError, match=r"answers\.csv: line 2 is no answer"):
        read_answers(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: no such file; python -m ldm\.study writes it"):
        read_answers(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_text("time,rater\n")
    with pytest.raises(UserError, match="its columns are 'time', 'rater', expected 'time', 'rater', 'item'"):
        read_answers(tmp_path / "a.csv")


def test_the_page_and_pictures_name_no_system(server: StudyServer) -> None:
    status, page = ask(server, "/")
    assert status == 200
    assert page.count(b'class="choice"') == 3
    items = json.loads(ask(server, "/items?rater=Ann")[1])
    assert [each["action"][:9] for each in items] == ["opens box"] * 4
    assert not any(name.encode() in page + json.dumps(items).encode() for name in COLOURS)
    study = server.study
    shown = {place: study.picture("Ann", items[0]["key"], place).path for place in range(4)}
    assert shown[0].parts[-4] == "val"
    assert [shown[place].parts[-5] for place in (1, 2, 3)] == study.survey.order(
        "Ann", study.exhibit(items[0]["key"])
    )
    assert ask(server, f"/picture?rater=Ann&item={items[0]['key']}&place=2")[1] == shown[2].read_bytes()
    assert SOURCE not in COLOURS.values()


def test_two_people_answer_at_once_and_none_is_lost(server: StudyServer) -> None:
    keys = [each.key for each in server.study.survey.exhibits]
    asked = [(rater, key, place) for rater in ("Ann", "Bo", "Cy") for key in keys for place in (1, 2, 3, 0)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda one: ask(server, "/answers", said(*one)), asked))
    assert {status for status, _ in replies} == {200}
    assert len(server.study.book.path.read_bytes().splitlines()) == 1 + len(asked)
    assert len(read_answers(server.study.book.path)) == 3 * len(keys)


def test_a_restart_goes_on(server: StudyServer) -> None:
    key = server.study.survey.exhibits[1].key
    assert ask(server, "/answers", said("Ann", key, 2)) == (200, b'{"kept": true}')
    study = Study(server.study.survey, AnswerBook(server.study.book.path), "")
    assert {each["key"]: each["place"] for each in study.items("Ann")}[key] == 2
    assert all(each["place"] is None for each in study.items("Bo"))


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/none", None, {}, 404),
        ("/items?rater=", None, {}, 400),
        ("/items?rater=" + "x" * 41, None, {}, 400),
        ("/items?rater=a%00b", None, {}, 400),
        ("/picture?rater=A&item=clip9/0&place=1", None, {}, 404),
        ("/picture?rater=A&item={key}&place=4", None, {}, 400),
        ("/picture?rater=A&item={key}&place=-1", None, {}, 400),
        ("/picture?rater=A&item=../../etc/passwd&place=0", None, {}, 404),
        ("/", None, {"Host": "evil.example"}, 403),
        ("/", None, {"Host": "["}, 400),
        ("/answers", b"{}", {"Content_Length": "9" * 5000}, 413),
        ("/answers", said("A", "clip9/0"), {}, 404),
        ("/answers", said("A", "{key}", 4), {}, 400),
        ("/answers", said("A", "{key}", True), {}, 400),
        ("/answers", {"rater": "A"}, {}, 400),
        ("/answers", [], {}, 400),
        ("/answers", b"{", {}, 400),
        ("/answers", said("A", "{key}"), {"Content_Type": "text/plain"}, 415),
        ("/other", said("A", "{key}"), {}, 404),
        ("/answers", b"x" * (LARGEST + 1), {}, 413),
    ],
)
def test_requests_that_are_none_of_ours(
    server: StudyServer, path: str, body: object, headers: dict[str, str], status: int
) -> None:
    key = server.study.survey.exhibits[0].key
    sent = (
        {**body, "item": body["item"].format(key=key)} if isinstance(body, dict) and "item" in body else body
    )
    found, told = ask(server, path.format(key=key), sent, **headers)
    assert found == status
    assert json.loads(told)["error"]
    assert len(server.study.book.path.read_bytes().splitlines()) == 1


def test_a_full_disk_and_a_lost_picture_are_told(
    server: StudyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = server.study.survey.exhibits[0]
    shown.source.path.unlink()
    assert ask(server, f"/picture?rater=A&item={shown.key}&place=0")[0] == 404

    def full(_: Answer) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(server.study.book, "add", full)
    assert ask(server, "/answers", said("A", shown.key))[0] == 507


@pytest.mark.parametrize("fault", [UserError("/runs/a/x.tar: cut off"), ValueError("x"), KeyError(1)])
def test_a_fault_of_ours_is_no_wrong_address(
    server: StudyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    """A person who judges is not told which files there are: their names may tell the system."""

    def fail(_: str) -> None:
        raise fault

    monkeypatch.setattr(server.study, "items", fail)
    status, told = ask(server, "/items?rater=Ann")
    assert status == 500
    assert json.loads(told) == {"error": "the study's server failed; where it was started, it says why"}
    assert f"/items?rater=Ann: failed ({type(fault).__name__}: {fault})" in caplog.text
    assert ("Traceback" in caplog.text) is not isinstance(fault, UserError)
    assert ask(server, "/")[0] == 200


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--items", "6"], "--items: got 6, allowed: 1 to 5"),
        (["--items", "0"], "--items: got 0"),
        (["--name", "a"], "found 1 names for 3 runs"),
        (["--name", "a", "b", "a"], "the name 'a' is that of two systems"),
        (["--name", "a", "b", "c\nd"], "expected letters that can be read"),
        (
            ["--host", "192.0.2.1"],
            r"--host 192\.0\.2\.1 --port 8417: cannot be listened on \(.*\); --host is an address of this",
        ),
    ],
)
def test_wrong_arguments(root: Path, more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(words(root, "--items", "4", *more))


def test_a_study_of_other_systems_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StudyServer, "serve_forever", lambda _: None)
    main(words(root, "--items", "4", "--port", "0"))
    assert read_answers(root / "out/answers.csv") == {}
    main(words(root, "--items", "4", "--port", "0"))
    with pytest.raises(UserError, match="was made with items"):
        main(words(root, "--items", "3", "--port", "0"))
    with pytest.raises(UserError, match="2 to 9 systems"):
        main(words(root, "--items", "4")[2:])


def test_a_title_is_no_html_and_labels_are_put_in_as_text(server: StudyServer) -> None:
    server.study.title = "<script>alert(7)</script><img src=x onerror=alert(7)>\"'{{7*7}}"
    page = ask(server, "/")[1].decode()
    assert page.count("alert(7)") == 4  # in the head and in the heading
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "{{7*7}}" in page
    script = page[page.index("<script nonce=") :]
    assert "textContent" in script
    assert not re.search("innerHTML|outerHTML|insertAdjacentHTML|document.write", script)
