from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import openai
import pytest

from egogen.errors import UserError
from llava.curate.budget import Budget, Prices
from llava.curate.endpoint import Endpoint, retry_after
from llava.curate.exchange import ChatSampling, Message, NoAnswer, Usage
from llava.curate.pace import Pace
from tests.llava.curate.server import KEY, Answer, Server, completion, in_turn, serve

CHAT = [Message("system", "Describe."), Message("user", "Action: cut it")]
GOOD = completion("The right hand cuts it.")


class Opened:
    """An endpoint whose waits take no time; they are kept in `waits`."""

    def __init__(self, server: Server, retries: int, timeout: float, budget: Budget) -> None:
        self.waits: list[float] = []
        self.clock = 0.0
        self.model = Endpoint(
            client=openai.OpenAI(api_key=KEY, base_url=server.url, timeout=timeout, max_retries=0),
            name="m",
            sampling=ChatSampling(0.5, 99),
            pace=Pace(None, None, lambda: self.clock, self.pause),
            budget=budget,
            retries=retries,
            workers=1,
            pause=self.pause,
            draw=lambda: 1.0,
        )

    def pause(self, seconds: float) -> None:
        self.clock += seconds
        if seconds:
            self.waits.append(seconds)


@contextmanager
def opened(
    answer: Callable[[dict[str, Any]], Answer],
    retries: int = 3,
    timeout: float = 5.0,
    limit: float | None = None,
) -> Iterator[tuple[Opened, Server]]:
    with serve(answer) as server:
        yield Opened(server, retries, timeout, Budget(Prices(1.0, 1.0), limit)), server


def test_a_request_says_what_it_must() -> None:
    with opened(in_turn(GOOD)) as (endpoint, server):
        (reply,) = endpoint.model.ask([CHAT])
    assert reply.text == "The right hand cuts it."
    assert (reply.usage, reply.counted, reply.cut, reply.refused) == (Usage(1000, 50), True, False, False)
    assert server.requests == [
        {
            "messages": [
                {"role": "system", "content": "Describe."},
                {"role": "user", "content": "Action: cut it"},
            ],
            "model": "m",
            "temperature": 0.5,
            "max_tokens": 99,
        }
    ]
    assert server.keys == [f"Bearer {KEY}"]


ERROR = {"error": {"message": "busy", "type": "x", "param": None, "code": None}}


@pytest.mark.parametrize(
    ("bad", "waits"),
    [
        (Answer(429, ERROR), [0.5]),
        (Answer(429, ERROR, {"retry-after": "7"}), [7.5]),
        (Answer(429, ERROR, {"retry-after-ms": "1500", "retry-after": "9"}), [2.0]),
        (Answer(503, ERROR, {"retry-after": "2.5"}), [3.0]),
        (Answer(429, ERROR, {"retry-after": "soon"}), [0.5]),
        (Answer(500, ERROR), [0.5]),
        (Answer(502, b"<html>Bad gateway</html>", {"content-type": "text/html"}), [0.5]),
        (Answer(408, ERROR), [0.5]),
        (Answer(close=True), [0.5]),
        (Answer(body=GOOD.body, length=10_000), [0.5]),
        (Answer(body=b'{"id": "x", "choices": [{"index": 0, "mess'), [0.5]),
        (Answer(body=b""), [0.5]),
        (Answer(body=b"nonsense"), [0.5]),
        (Answer(body=b"\xff\xfe"), [0.5]),
        (Answer(body=b"<html>Hello</html>", headers={"content-type": "text/html"}), [0.5]),
        (Answer(body={"choices": []}), [0.5]),
        (Answer(body={"choices": None}), [0.5]),
        (Answer(body={"choices": [{"message": None}]}), [0.5]),
        (Answer(body=[1, 2]), [0.5]),
        (Answer(body={"error": {"message": "upstream failed"}}), [0.5]),
        (Answer(body=GOOD.body, delay=0.5), [0.5]),
    ],
)
def test_what_may_pass_is_tried_again(bad: Answer, waits: list[float]) -> None:
    with opened(in_turn(bad, GOOD), timeout=0.25 if bad.delay else 5.0) as (endpoint, server):
        assert endpoint.model.ask([CHAT])[0].text == "The right hand cuts it."
    assert endpoint.waits == waits
    assert len(server.requests) == 2


def test_json_of_another_content_type_is_read() -> None:
    answer = Answer(body=GOOD.body, headers={"content-type": "text/plain"})
    with opened(in_turn(answer)) as (endpoint, _):
        assert endpoint.model.ask([CHAT])[0].text == "The right hand cuts it."


def test_waits_grow_and_end() -> None:
    message = "no answer in 10 tries; the last: status 500: busy"
    with (
        opened(in_turn(Answer(500, ERROR)), retries=9) as (endpoint, server),
        pytest.raises(NoAnswer, match=message),
    ):
        endpoint.model.ask([CHAT])
    assert endpoint.waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert len(server.requests) == 10


def test_waits_are_spread_at_random() -> None:
    with opened(in_turn(Answer(500, ERROR)), retries=3) as (endpoint, _):
        endpoint.model.draw = lambda: 0.0
        with pytest.raises(NoAnswer):
            endpoint.model.ask([CHAT])
    assert endpoint.waits == [0.25, 0.5, 1.0]


def test_others_wait_too_when_the_server_asks_for_it() -> None:
    with opened(in_turn(Answer(429, ERROR, {"retry-after": "20"}), GOOD), retries=1) as (endpoint, _):
        endpoint.model.ask([CHAT])
        assert endpoint.model.pace.held_until == 20.0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}), "status 401: Incorrect"),
        (Answer(402, b"No."), "status 402: No.; check OPENAI_API_KEY, --base-url, --model"),
        (Answer(404, {"error": {"message": "no model 'm'"}}), "model 'm': status 404: no model 'm'"),
        (Answer(429, {"error": {"message": "Quota", "code": "insufficient_quota"}}), "status 429: Quota"),
        (Answer(429, ERROR, {"retry-after": "86400"}), "asks to wait 24.0 hours. Run the same command again"),
    ],
)
def test_what_will_not_pass_ends_the_run_and_tells_no_key(answer: Answer, message: str) -> None:
    with opened(in_turn(answer)) as (endpoint, server), pytest.raises(UserError, match=message) as error:
        endpoint.model.ask([CHAT])
    assert KEY not in str(error.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_a_rejected_request_is_not_sent_again(status: int) -> None:
    message = f"rejected, status {status}: busy"
    with (
        opened(in_turn(Answer(status, ERROR))) as (endpoint, server),
        pytest.raises(NoAnswer, match=message) as error,
    ):
        endpoint.model.ask([CHAT])
    assert error.value.rejected
    assert len(server.requests) == 1


def test_a_model_that_knows_the_limit_by_its_newer_name() -> None:
    def answer(request: dict[str, Any]) -> Answer:
        if "max_tokens" in request:
            return Answer(400, {"error": {"message": "no", "param": "max_tokens", "code": "unsupported"}})
        return GOOD

    with opened(answer) as (endpoint, server):
        endpoint.model.ask([CHAT, CHAT])
    assert [request.get("max_completion_tokens") for request in server.requests] == [None, 99, 99]


@pytest.mark.parametrize(
    ("answer", "text", "cut", "refused"),
    [
        (completion("Half a", finish="length"), "Half a", True, False),
        (completion("Half a pair: \ud83d"), "Half a pair: ?", False, False),
        (completion(None, message={"refusal": "No."}), "No.", False, True),
        (completion("", finish="content_filter"), "", False, True),
        (completion(None), "", False, False),
    ],
)
def test_how_an_answer_ended(answer: Answer, text: str, cut: bool, refused: bool) -> None:
    with opened(in_turn(answer)) as (endpoint, _):
        (reply,) = endpoint.model.ask([CHAT])
    assert (reply.text, reply.cut, reply.refused) == (text, cut, refused)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1, "completion_tokens": 2}, "many"])
def test_a_server_that_counts_no_tokens(usage: Any) -> None:
    with opened(in_turn(Answer(body={**GOOD.body, "usage": usage}))) as (endpoint, _):
        (reply,) = endpoint.model.ask([CHAT])
    assert not reply.counted
    assert reply.usage == Usage(3 + 4 + 5 + 4, 8)


def test_an_answer_that_was_lost_counts_against_the_limit() -> None:
    with opened(in_turn(Answer(body=b"nonsense"), Answer(500, ERROR), GOOD), limit=1.0) as (endpoint, _):
        endpoint.model.ask([CHAT])
    budget = endpoint.model.budget
    assert budget.lost == 1
    assert budget.spent == pytest.approx((16 + 99 + 1050) / 1e6)
    assert budget.held == pytest.approx(0.0)


def test_nothing_listens() -> None:
    with opened(in_turn(GOOD), retries=1) as (endpoint, _):
        pass
    with pytest.raises(NoAnswer, match="no answer in 2 tries; the last: connection failed"):
        endpoint.model.ask([CHAT])
    assert endpoint.model.budget.lost == 0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 0.0),
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "tomorrow"}, 0.0),
        ({"retry-after": ""}, 0.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "4"}, 4.0),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], expected: float) -> None:
    assert retry_after(headers, 0.0) == expected


def test_a_date_to_wait_for() -> None:
    now = time.time()
    assert retry_after({"retry-after": formatdate(now + 30, usegmt=True)}, now) == pytest.approx(30, abs=1)
    assert retry_after({"retry-after": formatdate(now - 30, usegmt=True)}, now) == 0.0
