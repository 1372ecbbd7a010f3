"""A language model behind an OpenAI-compatible endpoint: a request, and how long one insists on an answer."""

from __future__ import annotations

import argparse
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai

from egogen.errors import UserError
from llava.curate.budget import Budget, chat_tokens
from llava.curate.completion import read_completion, retry_after
from llava.curate.exchange import Message, NoAnswer, Reply, Sampling, Usage
from llava.curate.flags import OPENAI
from llava.curate.pace import Pace

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.5, 60.0  # seconds before the second try, and before a late one
LONGEST_HOLD = 3600.0  # seconds that a server may ask us to wait
NO_KEY = "no-key-needed"  # what the client sends to endpoints that need no key
# No request will fare better: wrong key, no money, no such address or model.
HOPELESS = (401, 402, 404)
NO_MONEY = "insufficient_quota"
LIMIT, NEWER_LIMIT = "max_tokens", "max_completion_tokens"
PASSING = (408, 409, 425, 429)  # and all from 500


class Again(Exception):  # noqa: N818 - an event, which is dealt with
    """A try that failed in a way that may pass.

    Args:
        reason: what happened.
        wait: seconds that the server asks for.
        charged: the server may have worked on it.
    """

    def __init__(self, reason: str, wait: float = 0.0, *, charged: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.charged = wait, charged


@dataclass
class Endpoint:
    """A model behind an endpoint.

    Args:
        client: of the `openai` package, without retries of its own.
        name: of the model.
        sampling: of answers.
        pace: rate limits.
        budget: of money.
        retries: how often a request is sent again after a failure that may pass.
        workers: requests at a time.
        pause: waits so many seconds, or raises to end the wait.
        draw: random numbers, 0 to 1, that spread the waits of several requests.
    """

    client: openai.OpenAI
    name: str
    sampling: Sampling
    pace: Pace
    budget: Budget
    retries: int
    workers: int
    pause: Callable[[float], None]
    draw: Callable[[], float] = random.random
    batch: int = 1
    limit_name: str = LIMIT

    def ask(self, chats: Sequence[Sequence[Message]]) -> list[Reply]:
        """Answers chats, one after the other."""
        return [self.insist(chat) for chat in chats]

    def insist(self, chat: Sequence[Message]) -> Reply:
        """Sends a request until it is answered, at ever longer intervals.

        Raises:
            NoAnswer: the server rejects it, or every try failed.
            UserError: the server rejects us.
            OverBudget: another try might pass the limit.
        """
        messages = [{"role": message.role, "content": message.content()} for message in chat]
        most = Usage(chat_tokens(chat), self.sampling.max_tokens)
        for tries in range(1, self.retries + 2):
            try:
                return self.attempt(messages, most)
            except Again as trouble:
                reason = str(trouble)
                if tries > self.retries:
                    break
                delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (tries - 1)) * (0.5 + 0.5 * self.draw())
                if tries > 1:
                    log.warning("%s; try %d of %d", reason, tries + 1, self.retries + 1)
                self.pace.hold(trouble.wait)
                self.pause(trouble.wait + delay)
        raise NoAnswer(f"no answer in {self.retries + 1} tries; the last: {reason}")

    def attempt(self, messages: list[dict[str, Any]], most: Usage) -> Reply:
        """Sends a request once, within rates and budget.

        Raises:
            Again: it failed in a way that may pass.
        """
        price = self.budget.reserve(most)
        try:
            self.pause(0.0)  # ends here if the run was stopped meanwhile
            sent = self.pace.take(most.total)
            reply = self.send(messages, most)
        except BaseException as error:
            self.budget.release(price, lost=isinstance(error, Again) and error.charged)
            raise
        self.budget.settle(price, most, reply.usage)
        self.pace.correct(sent, reply.usage.total)
        return reply

    def send(self, messages: list[dict[str, Any]], most: Usage) -> Reply:
        """One request and its answer."""
        create: Any = self.client.chat.completions.with_raw_response.create
        limit = self.limit_name
        settings = {"temperature": self.sampling.temperature, limit: self.sampling.max_tokens}
        try:
            raw = create(model=self.name, messages=messages, **settings)
        except openai.APITimeoutError:
            raise Again(f"no answer within {self.client.timeout} s", charged=True) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            before = type(cause).__name__.startswith("Connect")
            raise Again(self.clean(f"connection failed ({cause})"), charged=not before) from None
        except openai.APIStatusError as error:
            if error.param == limit != NEWER_LIMIT:
                # OpenAI's reasoning models know the limit by its newer name alone.
                self.limit_name = NEWER_LIMIT
                return self.send(messages, most)
            raise self.sorted_out(error) from None
        try:
            return read_completion(raw.http_response.content, most.prompt)
        except ValueError as error:
            raise Again(self.clean(f"{error}"), charged=True) from None

    def sorted_out(self, error: openai.APIStatusError) -> Exception:
        """What a status means: for this request, or for all."""
        status, body = error.status_code, error.body
        said = body.get("message") if isinstance(body, dict) else None
        reason = self.clean(f"status {status}: {said or error.response.text}")
        if status in HOPELESS or NO_MONEY in (error.code, error.type):
            place = f"{self.client.base_url}, model {self.name!r}"
            return UserError(
                f"{place}: {reason}; check OPENAI_API_KEY, --base-url, --model and your account. Answers so "
                "far are kept"
            )
        if status not in PASSING and status < 500:
            return NoAnswer(f"rejected, {reason}", rejected=True)
        wait = retry_after(error.response.headers, time.time())
        if wait > LONGEST_HOLD:
            return UserError(
                f"{self.client.base_url}: {reason}; the server asks to wait {wait / 3600:.1f} hours. Run the "
                "same command again then"
            )
        return Again(reason, wait)

    def clean(self, text: str) -> str:
        """What a server said, short, in one line, without the key."""
        line = " ".join(text.replace(self.client.api_key, "***").split())
        return line if len(line) <= 200 else f"{line[:200]}..."


def connect(
    name: str, sampling: Sampling, budget: Budget, stop: threading.Event, args: argparse.Namespace
) -> Endpoint:
    """Opens an endpoint by the flags; its key is `OPENAI_API_KEY`.

    Args:
        name: of the model.
        sampling: of answers.
        budget: of money.
        stop: ends all waiting when it is set.
        args: `base_url`, `timeout`, `retries`, `concurrency` and the rates.

    Raises:
        UserError: the key is missing where one is needed, or is none.
    """
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and urlsplit(args.base_url).hostname == urlsplit(OPENAI).hostname:
        raise UserError(
            f"OPENAI_API_KEY is not set, and {args.base_url} needs one; set it, or give --base-url for "
            "another endpoint"
        )
    if not (key.isascii() and key.isprintable()):
        raise UserError("OPENAI_API_KEY: holds letters that no key has; set it again")

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise NoAnswer("the run was stopped")

    return Endpoint(
        client=openai.OpenAI(
            api_key=key or NO_KEY, base_url=args.base_url, timeout=args.timeout, max_retries=0
        ),
        name=name,
        sampling=sampling,
        pace=Pace(args.requests_per_minute, args.tokens_per_minute, time.monotonic, pause),
        budget=budget,
        retries=args.retries,
        workers=args.concurrency,
        pause=pause,
    )
