"""Answers questions that come as lines of JSON, one after the other; what each line holds is said here.

In: `id`, `photo` (a file), `action` (words for the question), `seed`, `item` (clip and action id, which the
draws are keyed by), and if wanted `text` (a description that is there: it is followed, not written) and
`folder` (where `image.npy` and `text.npy` go). Or `id` and `cancel`.

Out: `{"ready": true}`; then of each `id` what is written so far (`text`), and at its end `done` with the
whole `text`, `error` with a message, or `cancelled`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from io import TextIOBase
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from egogen.errors import UserError, reason
from egogen.features import write_feature
from egogen.frames import read_frame
from egogen.seeds import item_seed
from llava.checkpoints.config_json import places
from llava.describing.decode import Sampling
from llava.describing.describing_loop import Loaded, describe
from llava.describing.saving import Description
from llava.question.labels import QUESTION
from llava.question.prompts import check_length

log = logging.getLogger(__name__)


class CancelledError(Exception):
    """Nobody waits for the answer any more."""


class Asked(BaseModel):
    """A question about one photo."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    photo: Path
    action: str
    seed: int
    item: tuple[str, str]
    text: str | None = None
    folder: Path | None = None


class Inbox:
    """Lines that come in while others are worked on; iterating gives the questions that still wait."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.waiting: SimpleQueue[Asked | None] = SimpleQueue()
        self.cancelled: set[str] = set()
        self.ended = False
        Thread(target=self.read, args=(lines,), daemon=True).start()

    def read(self, lines: Iterable[str]) -> None:
        """Sorts what comes in; a line that is none of ours is told and passed over."""
        for line in lines:
            try:
                said: Any = json.loads(line)
                if "cancel" in said:
                    self.cancelled.add(said["id"])
                else:
                    self.waiting.put(Asked.model_validate(said))
            except (ValueError, TypeError, LookupError, ValidationError) as error:
                log.warning("a line that is no question: %s", reason(error))
        self.ended = True
        self.waiting.put(None)

    def __iter__(self) -> Iterator[Asked]:
        while (asked := self.waiting.get()) is not None:
            yield asked

    def check(self, asked: Asked) -> None:
        """Raises `CancelledError` if nobody waits for an answer."""
        if self.ended or asked.id in self.cancelled:
            raise CancelledError


def serve(loaded: Loaded, lines: Iterable[str], out: TextIOBase, sampling: Sampling) -> None:
    """Answers until the lines end; `sampling` says how descriptions are drawn."""
    inbox = Inbox(lines)
    tell(out, {"ready": True})
    for asked in inbox:
        try:
            inbox.check(asked)
            tell(out, {"id": asked.id, "done": True, "text": respond(loaded, asked, inbox, out, sampling)})
        except CancelledError:
            inbox.cancelled.discard(asked.id)
            tell(out, {"id": asked.id, "cancelled": True})
        except UserError as error:
            tell(out, {"id": asked.id, "error": f"{error}"})
        except (ValueError, OSError, RuntimeError) as error:  # such as memory of a GPU: the next may fit
            log.exception("a question failed")
            tell(out, {"id": asked.id, "error": f"stage 1 failed: {reason(error)}"})


def respond(loaded: Loaded, asked: Asked, inbox: Inbox, out: TextIOBase, sampling: Sampling) -> str:
    """Describes one photo, or follows a text that is there; returns the text and writes the features.

    Raises:
        UserError: the photo or a text is none that the model takes.
        CancelledError: nobody waits any more.
    """
    model, tokenizer, _ = loaded
    check_length(asked.action, QUESTION, tokenizer, places(model.config) - model.patches + 1)
    (made,) = describe(
        *loaded,
        [read_frame(asked.photo)],
        [asked.action],
        seeds=[item_seed(asked.seed, *asked.item)],
        sampling=sampling,
        texts=None if asked.text is None else [asked.text.strip()],
        on_texts=partial(tell_text, asked, inbox, out),
    )
    if asked.folder is not None:
        write_features(made, asked.folder)
    return made.text


def write_features(made: Description, folder: Path) -> None:
    """Writes both features as `llava.describe` does."""
    try:
        write_feature(folder / "image.npy", made.image_features.numpy())
        write_feature(folder / "text.npy", made.text_features.numpy())
    except UserError:  # a full disk
        raise
    except ValueError as error:
        raise UserError(f"stage 1's features are no numbers ({error}); is its checkpoint whole?") from None


def tell_text(asked: Asked, inbox: Inbox, out: TextIOBase, texts: list[str]) -> None:
    """Says what is written so far."""
    inbox.check(asked)
    tell(out, {"id": asked.id, "text": texts[0]})


def tell(out: TextIOBase, said: dict[str, object]) -> None:
    """Writes a line."""
    out.write(json.dumps(said) + "\n")
    out.flush()
