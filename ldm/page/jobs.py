"""What one person waits for: a description or a frame, and how it is told what becomes of it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Event

from egogen.errors import UserError
from ldm.page.engine import Plan
from ldm.page.frame_settings import FrameSettings

log = logging.getLogger(__name__)
Told = dict[str, object]
Tell = Callable[[Told], None]
ENDS = ("done", "error", "cancelled")  # events after which nothing follows


@dataclass(eq=False)
class Job:
    """A description, or a frame.

    `photo`: its name on the shelf. `plan`: of a frame; None of a description alone. `tell`: is given the
    events, from any thread. `text`: what the frame is drawn from, once it is known.
    """

    photo: str
    settings: FrameSettings
    plan: Plan | None
    tell: Tell
    number: int = 0
    text: str = ""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    cancelled: Event = field(default_factory=Event)

    @property
    def kind(self) -> Hashable:
        """Of a frame, that of its plan; descriptions are made one by one."""
        return self.plan.kind if self.plan else self.id

    def say(self, event: str, **more: object) -> None:
        """Tells an event."""
        self.tell({"event": event, "frame": self.number, **more})

    def placed(self, line: str, place: int) -> None:
        """Tells the place in a line."""
        self.say("place", line=line, place=place)

    def on_text(self, text: str) -> None:
        """Tells what is written so far."""
        self.say("text", text=text)

    def on_note(self, message: str) -> None:
        """Tells what a person should know, though all goes on."""
        self.say("note", message=message)

    def fail(self, error: Exception) -> None:
        """Tells that it failed; what is no user's to mend is told without its inner words."""
        if self.cancelled.is_set():
            self.say("cancelled")
        elif isinstance(error, UserError):
            self.say("error", message=f"{error}")
        else:
            log.error("a job failed", exc_info=error)
            self.say("error", message=f"this failed by a fault of ours ({type(error).__name__}); try again")
