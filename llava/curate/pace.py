"""Rate limits: when the next request may go. Requests are spaced evenly, tokens counted over a minute."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from egogen.errors import UserError

MINUTE = 60.0


@dataclass
class Sent:
    """A request's start in seconds, and its tokens: those expected, until it is known what it needed."""

    time: float
    tokens: int


class Pace:
    """Lets requests through at the allowed rates, in the order in which they come; for many threads."""

    def __init__(
        self,
        requests: float | None,  # at most so many a minute, one every minute / requests
        tokens: int | None,  # at most so many in any minute
        now: Callable[[], float],  # a clock, in seconds
        sleep: Callable[[float], None],  # waits so many seconds, or raises to end the wait
    ) -> None:
        self.interval = MINUTE / requests if requests else 0.0
        self.tokens = tokens
        self.now, self.sleep = now, sleep
        self.earliest = self.held_until = now()
        self.sent: deque[Sent] = deque()
        self.lock = threading.Lock()

    def take(self, tokens: int) -> Sent:
        """Waits until a request of so many tokens may go, and counts it.

        Raises:
            UserError: it needs more tokens than a minute allows.
        """
        if self.tokens is not None and tokens > self.tokens:
            raise UserError(
                f"--tokens-per-minute {self.tokens}: a request needs about {tokens} tokens with its answer; "
                "allow more, or give a shorter --prompt or a smaller --max-tokens"
            )
        # Who waits, waits inside the lock: the others queue behind.
        with self.lock:
            while (wait := self.due(tokens) - self.now()) > 0:
                self.sleep(wait)
            sent = Sent(self.now(), tokens)
            self.earliest = sent.time + self.interval
            self.sent.append(sent)
        return sent

    def due(self, tokens: int) -> float:
        """When a request may go, as far as is known now."""
        while self.sent and self.sent[0].time + MINUTE <= self.now():
            self.sent.popleft()
        time = max(self.earliest, self.held_until)
        if self.tokens is not None and sum(sent.tokens for sent in self.sent) + tokens > self.tokens:
            time = max(time, self.sent[0].time + MINUTE)
        return time

    def hold(self, seconds: float) -> None:
        """Lets no request through for so long."""
        self.held_until = max(self.held_until, self.now() + seconds)
