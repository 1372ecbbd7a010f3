"""The whole command in trouble: servers that misbehave, kills, limits of money and pace, the key."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from egogen.conversations import read_conversations
from egogen.errors import UserError
from tests.llava.curate.conftest import ACTIONS, Run, command, report_of
from tests.llava.curate.server import (
    KEY,
    Answer,
    completion,
    describe,
    facts,
    in_turn,
    serve,
)

ROOT = Path(__file__).parents[3]
REFUSAL = completion("I'm sorry, I can't help with that.")


@pytest.mark.slow
def test_a_killed_run_loses_nothing(world: Path, run: Run, tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    def answer(request: dict[str, Any]) -> Answer:
        asked[facts(request)] += 1
        made = describe(request)
        made.delay = 0.3
        return made

    with serve(answer) as server:
        flags = command(world, tmp_path, server, "--concurrency", "2")
        cache = tmp_path / "cache"
        with subprocess.Popen([sys.executable, "-m", "llava.curate", *flags], cwd=ROOT) as process:
            deadline = time.monotonic() + 60
            while sum(path.read_bytes().count(b"\n") for path in cache.glob("*.jsonl")) < 3:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        kept = sum(path.read_bytes().count(b"\n") for path in cache.glob("*.jsonl"))
        assert 3 <= kept < ACTIONS
        before = asked.total()
        assert not (tmp_path / "out.json").exists()
        assert run(server, "--concurrency", "2") == 0
    # Only what was under way, unanswered, is asked again.
    assert asked.total() - before == ACTIONS - kept
    assert len(read_conversations(tmp_path / "out.json")) == ACTIONS


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_is_under_way(world: Path, run: Run, tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> Answer:
        made = describe(request)
        made.delay = 0.5
        return made

    with serve(answer) as server:
        flags = command(world, tmp_path, server, "--concurrency", "3")
        with subprocess.Popen(
            [sys.executable, "-m", "llava.curate", *flags],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            deadline = time.monotonic() + 60
            while len(server.requests) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "interrupted; run the same command again to go on" in said
        assert "Traceback" not in said
        assert len(server.requests) == 3
        assert run(server) == 0
    assert len(server.requests) == ACTIONS


def test_a_server_that_misbehaves_in_all_ways(run: Run, tmp_path: Path) -> None:
    busy = {"error": {"message": "busy"}}
    bad = [
        Answer(429, busy),
        Answer(429, busy, {"retry-after": "0.2"}),
        Answer(500, busy),
        Answer(close=True),
        Answer(body=b'{"choices": [{"mess'),
        Answer(body={"choices": []}),
        Answer(body=b"<html></html>", headers={"content-type": "text/html"}),
        completion("dfgh sdfg sdfg 345 ;;; dfg"),
        REFUSAL,
    ]
    with serve(in_turn(*bad, describe)) as server:
        assert run(server, "--concurrency", "4") == 0
    assert len(server.requests) == ACTIONS + len(bad)
    made = report_of(tmp_path)
    assert made["described"] == ACTIONS
    assert made["tries_of_this_run_that_may_have_been_charged_too"] == 4


def test_one_action_without_an_answer_does_not_stop_the_others(run: Run, tmp_path: Path) -> None:
    stuck: list[str] = []

    def answer(request: dict[str, Any]) -> Answer:
        stuck[:] = stuck or [facts(request)]
        return (
            Answer(500, {"error": {"message": "broken"}}) if facts(request) == stuck[0] else describe(request)
        )

    with serve(answer) as server:
        assert run(server, "--retries", "1") == 3
    made = report_of(tmp_path)
    assert (made["described"], made["left_out_by_check"]) == (ACTIONS - 1, {"no answer": 1})
    assert made["actions_left_out"][0]["reason"] == "no answer in 2 tries; the last: status 500: broken"
    with serve() as server:
        assert run(server) == 0
    assert len(server.requests) == 1


def test_a_server_that_is_down_ends_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava.curate.rounds.MOST_UNANSWERED", 3)
    with serve() as server:
        assert run(server, "--limit", "2") == 0
    with pytest.raises(UserError, match="3 requests in a row got no answer; the last: no answer in 1 tries"):
        run(server, "--retries", "0")
    with serve() as server:
        assert run(server) == 0
    assert len(server.requests) == ACTIONS - 2


def test_rejections_end_a_run_only_while_nothing_works(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava.curate.rounds.MOST_UNANSWERED", 3)
    rejection = Answer(400, {"error": {"message": "content policy"}})
    message = r"3 requests in a row .*rejected, status 400: content policy"
    with serve(in_turn(rejection)) as server, pytest.raises(UserError, match=message):
        run(server, "--concurrency", "1")
    assert len(server.requests) == 3
    with serve(in_turn(describe, rejection)) as server:
        assert run(server, "--concurrency", "1") == 3
    assert len(server.requests) == ACTIONS


@pytest.mark.parametrize("limit", [0.0, 0.003, 0.0095])
def test_the_cost_never_passes_its_limit(run: Run, tmp_path: Path, limit: float) -> None:
    prices = ["--price-in", "1", "--price-out", "2", "--max-tokens", "60"]
    each = (1000 + 2 * 50) / 1e6
    with serve() as server:
        assert run(server, *prices, "--max-cost", str(limit)) == (4 if limit < each * ACTIONS else 0)
        paid = len(server.requests) * each
        made = report_of(tmp_path)
        assert paid == pytest.approx(made["this_run"]["cost"])
        assert paid <= limit
        # The estimate of a request is above its price here: less than two of them stay unspent.
        assert paid > min(limit - 2 * 1600e-6, each * ACTIONS - 1e-9)
        # The sum counts, not the run; more money goes on where it stopped.
        assert run(server, *prices, "--max-cost", str(limit)) in (0, 4)
        assert len(server.requests) * each <= limit
        assert run(server, *prices) == 0
    assert len(server.requests) == ACTIONS


def test_the_key_is_told_to_the_server_alone(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    leak = Answer(500, {"error": {"message": f"internal: Authorization: Bearer {KEY}"}})
    with serve(in_turn(leak, leak, describe)) as server:
        run(server, "--sheet", str(tmp_path / "s.html"), "--concurrency", "1")
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert "Bearer ***" in caplog.text
    assert KEY not in caplog.text
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY not in path.read_text()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u00e9")
    with pytest.raises(UserError, match="OPENAI_API_KEY: holds letters that no key has"):
        run(server, "--cache", str(tmp_path / "bad key"))
    monkeypatch.delenv("OPENAI_API_KEY")
    with serve() as server:
        assert run(server, "--cache", str(tmp_path / "no key")) == 0
    with pytest.raises(
        UserError, match=r"OPENAI_API_KEY is not set, and https://api.openai.com/v1 needs one"
    ):
        run(server, "--base-url", "https://api.openai.com/v1", "--cache", str(tmp_path / "new"))


def test_requests_keep_their_rate(run: Run) -> None:
    with serve() as server:
        assert run(server, "--requests-per-minute", "600", "--concurrency", "8") == 0
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert server.times[-1] - server.times[0] >= 0.1 * (ACTIONS - 1) - 0.05
    assert sorted(gaps)[len(gaps) // 2] > 0.07


def test_several_requests_are_under_way_at_a_time(run: Run) -> None:
    def answer(request: dict[str, Any]) -> Answer:
        made = describe(request)
        made.delay = 0.4
        return made

    with serve(answer) as server:
        run(server, "--concurrency", "4")
    first = [time for time in server.times if time < server.times[0] + 0.39]
    assert len(first) == 4


def test_a_place_that_cannot_be_written_is_found_before_anything_is_paid(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with serve() as server:
        with pytest.raises(UserError, match="cannot be written"):
            run(server, "--cache", str(tmp_path / "file"))
        with pytest.raises(UserError, match="cannot be written; expected a file's path"):
            run(server, "--out", str(tmp_path))
        with pytest.raises(UserError, match="cannot be written"):
            run(server, "--out", str(tmp_path / "file" / "a.json"))
    assert not server.requests
