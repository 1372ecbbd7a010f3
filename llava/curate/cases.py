"""Cases: a description that is wanted, the actions that it serves, and how far its answers have come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from egogen.annotations import ClipMetadata, Item
from egogen.errors import UserError
from egogen.frames import read_frame
from egogen.reserved import is_blank
from llava.curate.answer_checks import clean, faults
from llava.curate.exchange import Message, Reply
from llava.curate.pair_facts import PairFacts, facts_of
from llava.curate.prompt import Prompt
from llava.question.labels import action_words
from llava.question.prompts import check_words

CUT_FAULT = "it does not come to an end (be brief)"
NOT_ASKED = "not asked"
REFUSED_FAULT = "it declines to describe the action"


@dataclass(frozen=True)
class Attempt:
    """A cleaned answer and what is wrong with it."""

    text: str
    faults: dict[str, str]


@dataclass
class Case:
    """One description that is wanted; one answer serves all actions of equal facts."""

    words: str  # of the label
    facts: PairFacts  # what the language model is told
    image: Path | None  # the frame that it is shown, if any
    items: list[Item]
    attempts: list[Attempt] = field(default_factory=list)  # answers so far; all but the last have faults
    hindrance: str | None = None  # why no further answer can be had

    @property
    def description(self) -> str | None:
        """The text that passed all checks."""
        last = self.attempts[-1] if self.attempts else None
        return last.text if last and not last.faults else None

    @property
    def failures(self) -> dict[str, str]:
        """Names of what failed, each with words on why there is no description."""
        if self.hindrance:
            return {"no answer": self.hindrance}
        return self.attempts[-1].faults if self.attempts else {NOT_ASKED: NOT_ASKED}

    @property
    def reason(self) -> str:
        """Why there is no description."""
        return "; ".join(self.failures.values())

    def is_open(self, most_attempts: int) -> bool:
        """Whether another answer is to be asked for."""
        return not self.hindrance and self.description is None and len(self.attempts) < most_attempts

    def chat(self, prompt: Prompt) -> list[Message]:
        """The next request: the prompt and, after a bad answer, that answer and what to mend."""
        messages = prompt.first(self.facts.text(), self.image)
        for attempt in self.attempts:
            messages.append(Message("assistant", attempt.text or "(nothing)"))
            messages.append(prompt.mend(list(attempt.faults.values())))
        return messages

    def take(self, reply: Reply, prompt: Prompt) -> None:
        """Judges an answer."""
        text = clean(reply.text)
        found = faults(text, self.words, prompt.bounds)
        if reply.cut:
            found["cut"] = CUT_FAULT
        if reply.refused:
            found["refusal"] = REFUSED_FAULT
        self.attempts.append(Attempt(text, found))


def gather(
    items: Sequence[Item],
    dataset: str,
    metadata: dict[str, ClipMetadata],
    source: Path,
    images: Path | None,
) -> list[Case]:
    """The cases of a list of actions; actions of equal facts and frame share one.

    With a folder of `images` the language model is to see the frames. Raises a `UserError` for a malformed
    box, naming `source`, the file of the metadata.
    """
    cases: dict[tuple[str, str | None], Case] = {}
    for item in items:
        words = action_words(item.action.action, dataset)
        facts = facts_of(item, words, metadata.get(item.clip), f"{source}")
        image = images / item.action.image_0 if images else None
        key = facts.text(), item.action.image_0 if images else None
        if key not in cases:
            cases[key] = Case(words, facts, image, [], hindrance=unusable(item, words, image))
        cases[key].items.append(item)
    return list(cases.values())


def unusable(item: Item, words: str, image: Path | None) -> str | None:
    """Why an action cannot be asked about, or None."""
    if is_blank(words):
        return f"the label {item.action.action!r} names no action"
    try:
        check_words(words, label=item.action.action)
        if image is not None:
            read_frame(image, coarse=True)
    except UserError as error:
        return str(error)
    return None
