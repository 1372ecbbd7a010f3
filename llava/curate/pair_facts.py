"""What the language model is told about an action: its words, its narration, the boxes of both frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from egogen.annotations import ClipMetadata, Item
from egogen.boxes import Frame, read_boxes
from llava.curate.exchange import well_formed

# Left, top, right, bottom as shares of the frame.
Shares = Sequence[float]
Boxes = Mapping[str, Shares]


@dataclass(frozen=True)
class PairFacts:
    """One action as the language model sees it."""

    action: str  # the label's words (`llava.question.labels.action_words`)
    narration: str | None = None  # what an annotator said, if that is known beside the label
    before: Boxes = field(default_factory=dict)  # by name, in the frame before the action
    during: Boxes = field(default_factory=dict)  # by name, in the frame of the action

    def text(self) -> str:
        """The lines that stand for `{facts}` in the prompt."""
        lines = [f"Action: {' '.join(self.action.split())}"]
        if self.narration:
            lines.append(f"Narration: {self.narration}")
        for heading, boxes in (("before", self.before), ("during", self.during)):
            if boxes:
                lines.append(f"Boxes {heading} the action (left top right bottom):")
                lines += [
                    f"- {name}: {' '.join(f'{share:.2f}' for share in box)}" for name, box in boxes.items()
                ]
        return well_formed("\n".join(lines))


def facts_of(item: Item, words: str, clip: ClipMetadata | None, source: str) -> PairFacts:
    """The facts of an annotated action: its key `narration`, and boxes, its own before those of its clip.

    Without its clip's size no box is told. Raises a `UserError` for a malformed box, naming `source`.
    """
    narration = " ".join((item.action.text("narration") or "").split()) or None
    if clip is None:
        return PairFacts(words, narration)
    return PairFacts(words, narration, *(visible_boxes(item, clip, frame, source) for frame in (0, 1)))


def visible_boxes(item: Item, clip: ClipMetadata, frame: Frame, source: str) -> dict[str, Shares]:
    """The boxes of one of an action's frames; those that lie outside it are left out."""
    found = read_boxes(clip.facts(item.id), frame, f"{source}: clip {item.clip!r}")
    found |= read_boxes(item.action.entry, frame, f"clip {item.clip!r}, action {item.id!r}")
    placed = {name: box.shares(clip.width, clip.height) for name, box in found.items()}
    return {
        name: shares for name, shares in placed.items() if shares[0] < shares[2] and shares[1] < shares[3]
    }
