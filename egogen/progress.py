"""How far long work is: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from egogen.logs import PROGRESS, in_json

EVERY = 10.0  # seconds between lines
log = logging.getLogger(__name__)


class Progress(tqdm):  # type: ignore[type-arg]
    """tqdm's bar; where stderr is no terminal or tells in JSON, a log line every ten seconds and at the end.

    With `--quiet` it is nothing; with `leave=False` the last line of short work is left out. `also` is
    called with every number of items that `update` is.
    """

    # Ctrl-C in `__init__`: what was not begun is closed all the same.
    disable, lines, is_brief, began = True, False, True, 0.0
    told: float = 0
    also: Callable[[int], object] | None = None

    def __init__(self, *args: Any, also: Callable[[int], object] | None = None, **how: Any) -> None:  # noqa: ANN401 - as tqdm takes them
        self.also = also
        how.setdefault("file", sys.stderr)
        self.lines = in_json() or not how["file"].isatty()
        self.told, self.began = how.get("initial", 0), time.monotonic()
        self.told_at, self.is_brief = self.began, how.get("leave") is False
        configured = bool(logging.getLogger().handlers)
        how["disable"] = bool(how.get("disable")) or (configured and not log.isEnabledFor(logging.INFO))
        if self.lines:  # tqdm itself writes nothing: nobody sees its file
            how |= {"mininterval": EVERY, "miniters": 1, "leave": False, "file": io.StringIO()}
        super().__init__(*args, **{"dynamic_ncols": True, **how})

    def update(self, n: int | float | None = 1) -> bool | None:
        """Counts items that are done."""
        shown: bool | None = super().update(n)
        if self.also is not None and n is not None:
            self.also(int(n))
        return shown

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # type: ignore[override]  # tqdm gives one too
        """Shows the bar, or a line where the last one is long ago."""
        if not self.lines:
            super().display(msg, pos)
            return True
        if msg is None and self.n != self.told and time.monotonic() - self.told_at >= EVERY:
            self.tell()
        return False

    def close(self) -> None:
        """Ends the bar, or tells the last line."""
        if not hasattr(self, "start_t"):  # Ctrl-C in tqdm's own `__init__`, which sets it last
            self.disable = True
        long = not self.is_brief or time.monotonic() - self.began >= EVERY
        if self.lines and not self.disable and self.n != self.told and long:
            self.tell()
        super().close()

    def tell(self) -> None:
        """Writes a line: `draw: 20/100 (20 %), 3.10 frame/s, 00:26 left, loss=0.2`."""
        facts = self.format_dict
        done, total, elapsed = self.n, self.total, facts["elapsed"]
        rate = (done - self.initial) / elapsed if elapsed else 0.0
        shown = (lambda number: tqdm.format_sizeof(number)) if self.unit_scale else str
        name = self.desc.removesuffix(": ") if self.desc else self.unit
        parts = [f"{name}: {shown(done)}" + (f"/{shown(total)} ({done * 100 // total} %)" if total else "")]
        parts.append(f"{tqdm.format_sizeof(rate) if self.unit_scale else f'{rate:.2f}'} {self.unit}/s")
        if total and done < total and rate:
            parts.append(f"{tqdm.format_interval((total - done) / rate)} left")
        else:
            parts.append(f"in {tqdm.format_interval(elapsed)}")
        if self.postfix:
            parts.append(f"{self.postfix}")
        progress = {
            "name": name,
            "done": done,
            "total": total,
            "unit": self.unit,
            "seconds": round(elapsed, 1),
        }
        self.told, self.told_at = done, time.monotonic()
        log.info("%s", ", ".join(parts), extra={PROGRESS: progress})
