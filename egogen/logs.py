"""What commands tell on stderr: lines for people, warnings alone (`--quiet`), or JSON (`--log-json`)."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Collection
from datetime import datetime, timezone

QUIET_FLAG, JSON_FLAG = "--quiet", "--log-json"
PROGRESS = "progress"  # of a record: how far the work is (`egogen.progress`)


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, who tells it, and what; how far the work is, and a traceback, where there are any."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if hasattr(record, PROGRESS):
            told[PROGRESS] = getattr(record, PROGRESS)
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def start(words: Collection[str]) -> None:
    """Begins to tell, as the words of a command line say; hides the bars of libraries in files and pipes."""
    as_json, quiet = JSON_FLAG in words, QUIET_FLAG in words
    level = logging.WARNING if quiet else logging.INFO
    if as_json:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(level)
        # Of the handlers that libraries make for themselves.
        logging._defaultFormatter = handler.formatter  # type: ignore[attr-defined]
        logging.captureWarnings(True)
    else:
        logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    if as_json or quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of transformers, too
    # These libraries log every request and font look-up at INFO.
    for noisy in ("httpx", "httpx2", "matplotlib", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def in_json() -> bool:
    """Whether lines are JSON."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)
