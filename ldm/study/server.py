"""Serves a study's page, its pictures and its answers, to this machine alone unless asked otherwise."""

from __future__ import annotations

import json
import logging
import secrets
import socket
import unicodedata
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, urlsplit

from egogen.errors import UserError, reason
from egogen.listening import FAULTS, cannot_listen
from egogen.pages import render
from ldm.study.answers import Answer, AnswerBook
from ldm.study.survey import Exhibit, Picture, Survey

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST = 4096  # bytes of an answer
MOST_DIGITS = 9  # of their number
LONGEST_NAME = 40  # letters of a rater's name
LONGEST = 24 * 3600 * 1000  # milliseconds that an answer may take; a longer pause is told as that
log = logging.getLogger(__name__)


class RefusalError(Exception):
    """What is answered in place of what was asked for: a status and a sentence."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Reply(NamedTuple):
    """What goes back."""

    mime: str
    content: bytes
    policy: str = "default-src 'none'"


class Study:
    """What the page asks for, and what it says; knows nothing of HTTP."""

    def __init__(self, survey: Survey, book: AnswerBook, title: str) -> None:
        self.survey, self.book, self.title = survey, book, title
        self.exhibits = {each.key: each for each in survey.exhibits}

    def page(self) -> Reply:
        """The page: one file, whose scripts and styles are its own."""
        nonce = secrets.token_urlsafe(16)
        words = {"title": self.title, "nonce": nonce, "systems": len(self.survey.systems)}
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "img-src 'self' data:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
            "frame-ancestors 'none'"
        )
        html = render("ldm.study", "study_page.html.j2", words)
        return Reply("text/html; charset=utf-8", html.encode(), policy)

    def items(self, rater: str) -> list[dict[str, object]]:
        """The exhibits in a rater's order, and which place was picked where one was."""
        answers = self.book.of(rater)
        return [
            {
                "key": each.key,
                "action": each.action,
                "place": answers[each.key].place if each.key in answers else None,
            }
            for each in self.survey.sequence(rater)
        ]

    def picture(self, rater: str, key: str, place: int) -> Picture:
        """The source (place 0) or the frame at a place of a rater's order."""
        shown = self.exhibit(key)
        return shown.source if place == 0 else shown.frames[self.at(rater, shown, place)]

    def answer(self, rater: str, key: str, place: int, milliseconds: int) -> None:
        """Keeps an answer: the frame at a place, or 0 for no difference."""
        shown = self.exhibit(key)
        choice = None if place == 0 else self.at(rater, shown, place)
        order = tuple(self.survey.order(rater, shown))
        try:
            self.book.add(Answer(rater, key, choice, order, min(max(milliseconds, 0), LONGEST)))
        except OSError as error:
            log.error("%s: an answer was not kept (%s)", self.book.path, reason(error))
            why = "the disk is full, perhaps"
            raise RefusalError(HTTPStatus.INSUFFICIENT_STORAGE, why) from None

    def exhibit(self, key: str) -> Exhibit:
        """The exhibit of a key."""
        if key not in self.exhibits:
            raise RefusalError(HTTPStatus.NOT_FOUND, "no such item; load the page again")
        return self.exhibits[key]

    def at(self, rater: str, shown: Exhibit, place: int) -> str:
        """The system at a place, from 1."""
        order = self.survey.order(rater, shown)
        if not 1 <= place <= len(order):
            raise RefusalError(HTTPStatus.BAD_REQUEST, f"place {place}: expected 0 to {len(order)}")
        return order[place - 1]


def rater_name(text: object) -> str:
    """A rater's name without outer blanks; `RefusalError` of one that is none."""
    name = " ".join(text.split()) if isinstance(text, str) else ""
    if not 1 <= len(name) <= LONGEST_NAME or any(unicodedata.category(sign)[0] == "C" for sign in name):
        raise RefusalError(HTTPStatus.BAD_REQUEST, f"a name of 1 to {LONGEST_NAME} letters is needed")
    return name


def content_of(shown: Picture) -> bytes:
    """A picture's file; `RefusalError` of one that is not there any more."""
    try:
        return shown.path.read_bytes()
    except OSError as error:
        log.error("%s: cannot be read (%s)", shown.path, reason(error))
        raise RefusalError(HTTPStatus.NOT_FOUND, "a picture is gone") from None


def parts_of(address: str) -> SplitResult:
    """An address in its parts; `RefusalError` of one that is none, such as with half a bracket."""
    try:
        return urlsplit(address)
    except ValueError:
        raise RefusalError(HTTPStatus.BAD_REQUEST, "no such address") from None


class Handler(BaseHTTPRequestHandler):
    """One request: a connection ends with it, so that none outlives the study."""

    timeout = 60
    server: StudyServer

    def do_GET(self) -> None:
        """The page, a rater's items, a picture."""
        self.respond(self.asked)

    def do_POST(self) -> None:
        """An answer."""
        self.respond(self.answered)

    def asked(self) -> Reply:
        """What a GET asks for."""
        url = parts_of(self.path)
        words = {name: values[-1] for name, values in parse_qs(url.query).items()}
        study = self.server.study
        if url.path == "/":
            return study.page()
        if url.path == "/items":
            return as_json(study.items(rater_name(words.get("rater"))))
        if url.path == "/picture":
            place = words.get("place", "")
            if not place.isdecimal():
                raise RefusalError(HTTPStatus.BAD_REQUEST, "place: expected a number")
            shown = study.picture(rater_name(words.get("rater")), words.get("item", ""), int(place[:3]))
            return Reply(shown.mime, content_of(shown))
        raise RefusalError(HTTPStatus.NOT_FOUND, "no such page")

    def answered(self) -> Reply:
        """Keeps what a POST says."""
        length = self.headers.get("Content-Length", "")
        length = length if length.isdecimal() and len(length) <= MOST_DIGITS else ""
        if not length or int(length) > LARGEST:
            self.rfile.read(min(int(length or 0), 1 << 20))  # else no reply arrives
            raise RefusalError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"an answer has at most {LARGEST} bytes")
        content = self.rfile.read(int(length))
        if parts_of(self.path).path != "/answers":
            raise RefusalError(HTTPStatus.NOT_FOUND, "no such page")
        # Other sites' pages can send forms here, and no JSON.
        if self.headers.get_content_type() != "application/json":
            raise RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "an answer is JSON")
        try:
            said = json.loads(content)
            rater, key, place, taken = (said[name] for name in ("rater", "item", "place", "milliseconds"))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RefusalError(HTTPStatus.BAD_REQUEST, "not an answer") from None
        if not isinstance(key, str) or type(place) is not int or type(taken) is not int:
            raise RefusalError(HTTPStatus.BAD_REQUEST, "not an answer")
        self.server.study.answer(rater_name(rater), key, place, taken)
        return as_json({"kept": True})

    def respond(self, work: Callable[[], Reply]) -> None:
        """Sends what `work` makes, or why it does not."""
        status = HTTPStatus.OK
        try:
            self.check_host()
            reply = work()
        except RefusalError as refusal:
            status, reply = refusal.status, as_json({"error": f"{refusal}"})
        except (ConnectionError, TimeoutError):  # nobody is there to be told
            self.close_connection = True
            return
        except Exception as error:
            is_ours = not isinstance(error, (UserError, OSError))
            why = f"{type(error).__name__}: {reason(error)}"
            log.error("%s: failed (%s)", self.path, why, exc_info=is_ours)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            reply = as_json({"error": "the study's server failed; where it was started, it says why"})
        self.send_response(status)
        for name, value in (
            ("Content-Type", reply.mime), ("Content-Length", f"{len(reply.content)}"),
            ("Content-Security-Policy", reply.policy), ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-store"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.content)

    def check_host(self) -> None:
        """Refuses names that lead here from elsewhere, where this machine alone is served."""
        named = parts_of(f"//{self.headers.get('Host', '')}").hostname
        if self.server.is_local and named not in LOOPBACK:
            raise RefusalError(HTTPStatus.FORBIDDEN, "open the page by http://127.0.0.1")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Requests are told with --debug alone."""
        log.debug(format, *args)


class StudyServer(ThreadingHTTPServer):
    """The server of one study.

    Raises:
        UserError: it cannot listen there.
    """

    daemon_threads = True

    def __init__(self, study: Study, host: str, port: int) -> None:
        self.study, self.is_local = study, host in LOOPBACK
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except FAULTS as error:
            raise cannot_listen(host, port, error) from None

    @property
    def address(self) -> str:
        """What to open."""
        host, port = f"{self.server_address[0]!s}", self.server_address[1]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def as_json(value: object) -> Reply:
    """A JSON reply."""
    return Reply("application/json", json.dumps(value).encode())
