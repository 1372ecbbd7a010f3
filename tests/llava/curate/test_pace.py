"""Rates are measured on a clock that moves only while someone sleeps."""

from __future__ import annotations

import threading

import pytest

from egogen.errors import UserError
from llava.curate.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.time += seconds


def pace(clock: Clock, requests: float | None = None, tokens: int | None = None) -> Pace:
    return Pace(None if requests is None else float(requests), tokens, clock.now, clock.sleep)


def most_within_a_minute(times: list[float], weights: list[int]) -> int:
    return max(
        sum(weight for time, weight in zip(times, weights, strict=True) if start <= time < start + 60 - 1e-6)
        for start in times
    )


@pytest.mark.parametrize("rate", [1, 7, 60, 500])
def test_requests_are_spaced_evenly(rate: int) -> None:
    clock = Clock()
    limited = pace(clock, requests=rate)
    times = [limited.take(10).time for _ in range(2 * rate + 3)]
    assert times[0] == 1000.0
    assert most_within_a_minute(times, [1] * len(times)) == rate
    assert times[-1] - times[0] == pytest.approx(60 / rate * (len(times) - 1))


def test_tokens_of_any_minute_stay_below_the_limit_and_use_it() -> None:
    clock = Clock()
    limited = pace(clock, tokens=1000)
    weights = [300, 300, 300, 300, 1000, 1, 999, 400, 700] * 3
    times = [limited.take(weight).time for weight in weights]
    assert times[:4] == [1000.0, 1000.0, 1000.0, 1060.0]
    assert most_within_a_minute(times, weights) == 1000
    assert times == sorted(times)


def test_what_a_request_did_need_counts() -> None:
    clock = Clock()
    limited = pace(clock, tokens=1000)
    limited.take(900).tokens = 100
    assert limited.take(900).time == 1000.0
    limited.take(0).tokens = 500
    assert limited.take(1).time == 1060.0


def test_both_rates_hold_together() -> None:
    clock = Clock()
    limited = pace(clock, requests=60, tokens=1000)
    times = [limited.take(100).time for _ in range(25)]
    assert times[:11] == [*(1000.0 + second for second in range(10)), 1060.0]
    assert times[20] == 1120.0


def test_without_rates_nobody_waits() -> None:
    clock = Clock()
    limited = pace(clock)
    assert {limited.take(10**9).time for _ in range(100)} == {1000.0}
    assert clock.slept == []


def test_all_wait_while_the_server_asks_for_it() -> None:
    clock = Clock()
    limited = pace(clock, requests=600)
    limited.take(1)
    limited.hold(30.0)
    limited.hold(5.0)
    assert limited.take(1).time == 1030.0
    assert limited.take(1).time == pytest.approx(1030.1)


def test_a_request_that_never_fits_is_named() -> None:
    with pytest.raises(UserError, match="--tokens-per-minute 1000: a request needs about 1001 tokens"):
        pace(Clock(), tokens=1000).take(1001)


def test_threads_share_the_rate() -> None:
    clock = Clock()
    limited = pace(clock, requests=60)
    times: list[float] = []
    threads = [
        threading.Thread(target=lambda: times.extend(limited.take(1).time for _ in range(20)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(times) == [1000.0 + second for second in range(80)]
