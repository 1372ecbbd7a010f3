"""A language model behind an OpenAI-compatible endpoint: requests, answers, how long one insists."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import cast
from urllib.parse import urlsplit

import openai
import tenacity
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from egogen.errors import UserError
from llava.curate.budget import Budget, chat_tokens, text_tokens
from llava.curate.exchange import (
    IMAGE_SIDE,
    ChatSampling,
    Message,
    NoAnswer,
    Reply,
    Usage,
    data_url,
    well_formed,
)
from llava.curate.flags import OPENAI, CurationOptions
from llava.curate.pace import Pace

log = logging.getLogger(__name__)

GROWING = tenacity.wait_exponential(0.5, max=60.0)  # seconds before the second try, the third ...
LONGEST_HOLD = 3600.0  # seconds that a server may ask us to wait
NO_KEY = "no-key-needed"  # what the client sends to endpoints that need no key
# No request will fare better: wrong key, no money, no such address or model.
HOPELESS = (401, 402, 404)
NO_MONEY = "insufficient_quota"
LIMIT, NEWER_LIMIT = "max_tokens", "max_completion_tokens"
PASSING = (408, 409, 425, 429)  # and all from 500


class Again(Exception):  # noqa: N818 - an event, which is dealt with
    """A try that failed in a way that may pass; the server asks to wait, and may have charged for it."""

    def __init__(self, reason: str, wait: float = 0.0, *, charged: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.charged = wait, charged


def as_sent(message: Message) -> ChatCompletionMessageParam:
    """A message in the chat-completions protocol; a picture becomes a data URL."""
    content: object = message.text
    if message.image is not None:
        picture = {"type": "image_url", "image_url": {"url": data_url(message.image, IMAGE_SIDE)}}
        content = [{"type": "text", "text": message.text}, picture]
    return cast(ChatCompletionMessageParam, {"role": message.role, "content": content})


@dataclass
class Endpoint:
    """A model behind an endpoint. Tries are counted here, not by the client: each is within the budget."""

    client: openai.OpenAI  # without retries of its own
    name: str  # of the model
    sampling: ChatSampling
    pace: Pace
    budget: Budget
    retries: int  # how often a request is sent again after a failure that may pass
    workers: int  # requests at a time
    pause: Callable[[float], None]  # waits so many seconds, or raises to end the wait
    draw: Callable[[], float] = random.random  # from 0 to 1: spreads the waits of several requests
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
        messages = [as_sent(message) for message in chat]
        most = Usage(chat_tokens(chat), self.sampling.max_tokens)
        tries = tenacity.Retrying(
            sleep=self.pause, stop=tenacity.stop_after_attempt(self.retries + 1), wait=self.delay,
            retry=tenacity.retry_if_exception_type(Again),
        )  # fmt: skip
        try:
            return tries(self.attempt, messages, most)
        except tenacity.RetryError as error:
            trouble = error.last_attempt.exception()
            raise NoAnswer(f"no answer in {self.retries + 1} tries; the last: {trouble}") from None

    def delay(self, state: tenacity.RetryCallState) -> float:
        """Seconds until the next try; what the server asks for holds all requests back."""
        trouble = state.outcome and state.outcome.exception()
        asked = trouble.wait if isinstance(trouble, Again) else 0.0
        self.pace.hold(asked)
        if 1 < state.attempt_number <= self.retries:
            log.warning("%s; try %d of %d", trouble, state.attempt_number + 1, self.retries + 1)
        return asked + GROWING(state) * (0.5 + 0.5 * self.draw())

    def attempt(self, messages: Sequence[ChatCompletionMessageParam], most: Usage) -> Reply:
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
        sent.tokens = reply.usage.total
        return reply

    def send(self, messages: Sequence[ChatCompletionMessageParam], most: Usage) -> Reply:
        """One request and its answer."""
        limit = self.limit_name
        try:
            raw = self.client.chat.completions.with_raw_response.create(
                model=self.name,
                messages=messages,
                temperature=self.sampling.temperature,
                extra_body={limit: self.sampling.max_tokens},
            )
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
            return reply_of(raw.parse(), most.prompt)
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
            body = raw.http_response.text[:2000]
            raise Again(self.clean(f"the answer is no chat completion: {body}"), charged=True) from None

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


def connect(options: CurationOptions, name: str, budget: Budget, stop: threading.Event) -> Endpoint:
    """Opens an endpoint by the flags; its key is `OPENAI_API_KEY`. `stop` ends all waiting when it is set.

    Raises:
        UserError: the key is missing where one is needed, or is none.
    """
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and urlsplit(options.base_url).hostname == urlsplit(OPENAI).hostname:
        raise UserError(
            f"OPENAI_API_KEY is not set, and {options.base_url} needs one; set it, or give --base-url for "
            "another endpoint"
        )
    if not (key.isascii() and key.isprintable()):
        raise UserError("OPENAI_API_KEY: holds letters that no key has; set it again")

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise NoAnswer("the run was stopped")

    client = openai.OpenAI(
        api_key=key or NO_KEY, base_url=options.base_url, timeout=options.timeout, max_retries=0
    )
    pace = Pace(options.requests_per_minute, options.tokens_per_minute, time.monotonic, pause)
    retries, workers = options.retries, options.concurrency
    return Endpoint(client, name, options.sampling, pace, budget, retries, workers, pause)


def reply_of(completion: ChatCompletion, prompt_tokens: int) -> Reply:
    """The answer that a chat completion holds; the client does not check what it has parsed.

    For a server that counts no tokens, `prompt_tokens` is our estimate.

    Raises:
        AttributeError, LookupError, TypeError: it is no chat completion.
    """
    choice, usage = completion.choices[0], completion.usage
    text = well_formed(choice.message.content or choice.message.refusal or "")
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    charged = [count for count in counts if isinstance(count, int) and count >= 0]
    counted = len(charged) == len(counts)
    read, written = charged if counted else (prompt_tokens, text_tokens(text))
    return Reply(
        text=text,
        cut=choice.finish_reason == "length",
        refused=bool(choice.message.refusal) or choice.finish_reason == "content_filter",
        prompt_tokens=read,
        completion_tokens=written,
        counted=counted,
    )


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """Seconds to wait from `now` (since 1970), by `Retry-After` (seconds, date) or `retry-after-ms`; or 0."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    except ValueError:
        return 0.0
