"""What an OpenAI-compatible server sends: chat completions, and headers that say how long to wait."""

from __future__ import annotations

import json
import math
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from llava.curate.budget import text_tokens
from llava.curate.exchange import Reply, Usage, well_formed


class Content(BaseModel):
    """An answer's text, or the reason why there is none."""

    content: str | None = None
    refusal: str | None = None


class Choice(BaseModel):
    """One answer of several."""

    message: Content
    finish_reason: str | None = None


class Count(BaseModel):
    """The server's count of tokens."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class Completion(BaseModel):
    """What we read of a chat completion."""

    choices: list[Choice] = Field(min_length=1)
    usage: Any = None


def read_completion(body: bytes, prompt_tokens: int) -> Reply:
    """Reads a chat completion.

    Args:
        body: of the server's answer.
        prompt_tokens: our estimate, for a server that counts none.

    Raises:
        ValueError: it is none; says what it is.
    """
    try:
        completion = Completion.model_validate(json.loads(body))
    except (ValueError, RecursionError) as error:
        what = "no chat completion" if isinstance(error, ValidationError) else "not JSON"
        raise ValueError(f"the answer is {what}: {body[:2000].decode('utf-8', 'replace')}") from None
    choice = completion.choices[0]
    text = well_formed(choice.message.content or choice.message.refusal or "")
    try:
        count = Count.model_validate(completion.usage)
        usage = Usage(count.prompt_tokens, count.completion_tokens)
    except ValidationError:
        count, usage = None, Usage(prompt_tokens, text_tokens(text))
    return Reply(
        text=text,
        cut=choice.finish_reason == "length",
        refused=bool(choice.message.refusal) or choice.finish_reason == "content_filter",
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        counted=count is not None,
    )


def retry_after(headers: Any, now: float) -> float:  # noqa: ANN401 - headers of either HTTP library
    """Seconds that a server asks to wait, by `Retry-After` (seconds or a date) or `retry-after-ms`; else 0.

    Args:
        headers: of its answer.
        now: seconds since 1970.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        seconds = number(headers.get(name)) * unit
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after") or "").timestamp() - now)
    except ValueError:
        return 0.0


def number(text: str | None) -> float:
    """A header's number; not a number where there is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
