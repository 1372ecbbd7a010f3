"""What an OpenAI-compatible server sends: chat completions, and headers that say how long to wait."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from openai.types.chat import ChatCompletion

from llava.curate.budget import text_tokens
from llava.curate.exchange import Reply, well_formed


def reply_of(completion: ChatCompletion, prompt_tokens: int) -> Reply:
    """The answer that a chat completion holds; the client does not check what it has parsed.

    Args:
        completion: as the client made it of the server's JSON.
        prompt_tokens: our estimate, for a server that counts none.

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
    """Seconds that a server asks to wait, by `Retry-After` (seconds or a date) or `retry-after-ms`; else 0.

    Args:
        headers: of its answer.
        now: seconds since 1970.
    """
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
