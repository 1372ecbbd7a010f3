"""The prompt, a versioned YAML file: instructions, in-context examples, bounds, how to ask again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from egogen.annotations import check_object, validate
from egogen.errors import UserError
from egogen.files import read_yaml
from llava.curate.answer_checks import Bounds, faults
from llava.curate.exchange import Message
from llava.curate.pair_facts import PairFacts

OURS = Path(str(files("llava.curate").joinpath("prompt.yaml")))
SLOT = re.compile(r"\{(\w*)\}")
# Texts of the file -> the slots that they must have, and those that they may have.
SLOTS: dict[str, tuple[set[str], set[str]]] = {
    "system": (set(), {"min_words", "max_words"}),
    "ask": ({"facts"}, {"facts", "min_words", "max_words"}),
    "with_image": (set(), {"min_words", "max_words"}),
    "again": ({"faults"}, {"faults", "min_words", "max_words"}),
}

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
ExampleBox = Annotated[list[Share], Field(min_length=4, max_length=4)]


class PromptExample(BaseModel):
    """An action with its facts and the description that we would like to read."""

    model_config = ConfigDict(strict=True, extra="forbid")

    action: Text
    narration: Text | None = None
    before: dict[str, ExampleBox] = Field(default_factory=dict)
    during: dict[str, ExampleBox] = Field(default_factory=dict)
    description: Text

    def text(self) -> str:
        """Its facts, told as those of an annotated action."""
        return PairFacts(self.action, self.narration, self.before, self.during).text()


class Prompt(BaseModel):
    """A prompt file: its fields, and the messages made of them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    version: Text
    min_words: int = Field(ge=1)
    max_words: int = Field(ge=1)
    system: Text
    ask: Text
    with_image: Text
    again: Text
    examples: list[PromptExample]

    @property
    def bounds(self) -> Bounds:
        """Words that a description may have."""
        return Bounds(self.min_words, self.max_words)

    def first(self, facts: str, image: Path | None) -> list[Message]:
        """The messages that ask about an action: instructions, examples, its facts, its frame if given."""
        question = self.fill(self.ask, facts=facts)
        if image is not None:
            question += "\n\n" + self.fill(self.with_image)
        return [*self.opening, Message("user", question, image)]

    @cached_property
    def opening(self) -> list[Message]:
        """What all requests begin with."""
        messages = [Message("system", self.fill(self.system))]
        for example in self.examples:
            messages.append(Message("user", self.fill(self.ask, facts=example.text())))
            messages.append(Message("assistant", example.description))
        return messages

    def mend(self, found: Sequence[str]) -> Message:
        """What follows an answer with faults."""
        return Message("user", self.fill(self.again, faults="; ".join(found)))

    def fill(self, text: str, **slots: str) -> str:
        """A text of the file with its slots filled, the bounds among them; braces in what fills them stay."""
        values = {"min_words": f"{self.bounds.low}", "max_words": f"{self.bounds.high}", **slots}
        return SLOT.sub(lambda slot: values[slot[1]], text).strip()


def read_prompt(path: Path | None) -> Prompt:
    """Reads and validates a prompt file; without a path, ours.

    Raises:
        UserError: it is missing, not YAML or not as described; names the key, what was found and allowed.
    """
    source = path or OURS
    raw = check_object(read_yaml(source), f"{source}", "the prompt's texts by name")
    unknown = [key for key in raw if key not in Prompt.model_fields]
    if unknown:
        named, allowed = ", ".join(map(repr, unknown)), ", ".join(Prompt.model_fields)
        raise UserError(f"{source}: unknown key {named}; allowed are {allowed}")
    prompt = validate(Prompt, raw, f"{source}")
    check_slots(prompt, source)
    check_examples(prompt, source)
    return prompt


def check_slots(prompt: Prompt, source: Path) -> None:
    """Checks that each text has the slots that it needs and no unknown one."""
    for name, (needed, allowed) in SLOTS.items():
        found = set(SLOT.findall(getattr(prompt, name)))
        for slot in sorted(needed - found):
            raise UserError(f"{source}, field {name!r}: lacks {{{slot}}}; put it where it is to be filled in")
        for slot in sorted(found - allowed):
            known = ", ".join(f"{{{slot}}}" for slot in sorted(allowed))
            raise UserError(f"{source}, field {name!r}: unknown slot {{{slot}}}; allowed are {known}")


def check_examples(prompt: Prompt, source: Path) -> None:
    """Checks the bounds, and that the examples pass the checks that answers must pass."""
    low, high = prompt.bounds
    if low > high:
        raise UserError(f"{source}: min_words is {low}, max_words {high}; expected at most max_words")
    for number, example in enumerate(prompt.examples, start=1):
        found = faults(example.description, example.action, prompt.bounds)
        if found:
            raise UserError(
                f"{source}: example {number} ({example.action!r}): its description fails the checks of "
                f"answers: {'; '.join(found.values())}"
            )
