"""What is sent to a language model and what comes back; the key under which an answer is remembered."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

IMAGE_SIDE = 512  # pixels of an attached frame's longer side, at most
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Message:
    """One turn of a chat, with a picture or without."""

    role: Literal["system", "user", "assistant"]
    text: str
    image: Path | None = None


def well_formed(text: str) -> str:
    """A text that can be sent: halves of surrogate pairs, which JSON may hold, become question marks."""
    return text.encode("utf-8", "replace").decode()


def data_url(path: Path, side: int) -> str:
    """A frame as a JPEG inside a URL, shrunk if its longer side is above `side` pixels.

    Raises:
        UserError: it cannot be read.
    """
    from PIL import Image

    from egogen.frames import read_frame

    image = read_frame(path)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


@dataclass(frozen=True)
class ChatSampling:
    """How answers are drawn."""

    temperature: float  # divides the logits; 0 takes the likeliest token
    max_tokens: int  # where an answer is cut


@dataclass(frozen=True)
class Usage:
    """Tokens that were read and written."""

    prompt: int
    completion: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.prompt + self.completion


@dataclass(frozen=True)
class Reply:
    """An answer."""

    text: str  # as it came
    cut: bool  # at the limit of tokens
    refused: bool  # marked as a refusal
    prompt_tokens: int  # that were charged
    completion_tokens: int  # likewise
    counted: bool  # by who answered; else by our estimate

    @property
    def usage(self) -> Usage:
        """Its tokens."""
        return Usage(self.prompt_tokens, self.completion_tokens)


class NoAnswer(Exception):  # noqa: N818 - it is what came back, for one request; the run goes on
    """A request that got no answer, and why. If rejected, the server understood it and will not answer."""

    def __init__(self, reason: str, *, rejected: bool = False) -> None:
        super().__init__(reason)
        self.rejected = rejected


@runtime_checkable
class LanguageModel(Protocol):
    """A language model."""

    name: str  # by which its answers are remembered
    workers: int  # how many calls of `ask` may run at a time
    batch: int  # how many requests a call takes

    def ask(self, chats: Sequence[Sequence[Message]]) -> list[Reply]:
        """Answers a batch of chats.

        Raises:
            NoAnswer: there is none for these chats.
            UserError: there will be none for any.
        """
        ...


def key_of(chat: Sequence[Message], recipe: Mapping[str, object]) -> str:
    """SHA-256 of all that decides an answer: the messages, a picture by its file's bytes, and the recipe."""
    from egogen.manifest import file_hash

    messages = [
        {
            "role": message.role,
            "text": message.text,
            "image": message.image and {"sha256": file_hash(message.image), "side": IMAGE_SIDE},
        }
        for message in chat
    ]
    content = json.dumps({**recipe, "messages": messages}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
