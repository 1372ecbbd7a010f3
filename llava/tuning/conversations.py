"""Curated conversations -> what the model trains on: ids, labels, pixels, batches.

Spec: stage1-vllm-protocol, section 3. Only answers are supervised: their tokens, the lone space before
`</s>`, and `</s>`. A record that the published code would silently ignore is named instead.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.conversations import Conversation
from egogen.errors import UserError, shorten
from egogen.frames import FrameStore
from egogen.reserved import IMAGE_TAG, text_fault
from llava.checkpoints.clip_tower import no_pixels, pixels
from llava.checkpoints.tokenizer import PAD
from llava.question.prompts import (
    IGNORED,
    IMAGE_TOKEN,
    LLAVA_LLAMA_2,
    expand_image,
    own_signs,
    render,
    tokenize,
)

log = logging.getLogger(__name__)

INSTRUCTION_END = LLAVA_LLAMA_2.ask[1].strip() + " "  # "[/INST] "


@dataclass(frozen=True)
class Example:
    """A record as tokens: image places not yet expanded, label -100 where nothing is learnt."""

    ids: list[int]
    labels: list[int]
    image: str | None
    cut: bool = False  # longer than what is kept

    @property
    def supervised(self) -> int:
        """Number of tokens that count in the loss."""
        return sum(label != IGNORED for label in self.labels)

    def length(self, patches: int) -> int:
        """Places that it takes, its image expanded to so many patches."""
        return len(self.ids) + (patches - 1) * self.ids.count(IMAGE_TOKEN)


class TuningBatch(TypedDict):
    """What the model takes."""

    input_ids: Int[Tensor, "b t"]
    labels: Int[Tensor, "b t"]
    attention_mask: Int[Tensor, "b t"]
    pixel_values: Float[Tensor, "b 3 h w"]


def messages(record: Conversation) -> list[str]:
    """The record's turns as the template takes them; a leading turn of the model is left out.

    With an image, a turn that holds the image tag gets it once, in front.
    """
    turns = record.conversations
    if turns and turns[0].speaker == "gpt":
        turns = turns[1:]
    return [put_tag_first(turn.value) if record.image else turn.value for turn in turns]


def put_tag_first(text: str) -> str:
    """Moves the image tag to a line of its own in front; a text without it is returned unchanged."""
    if IMAGE_TAG not in text:
        return text
    return f"{IMAGE_TAG}\n{text.replace(IMAGE_TAG, '').strip()}".strip()


def encode(record: Conversation, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Example:
    """Tokenises a record and masks what is not an answer.

    At most `max_length` tokens are kept, counted before image places are expanded. All labels are -100 if the
    mask does not fit the text.
    """
    text = render(messages(record))

    def to_ids(piece: str) -> list[int]:
        return tokenize(piece, tokenizer) if record.image else list(tokenizer(piece).input_ids)

    ids = to_ids(text)
    labels = list(ids)
    labels[0] = IGNORED
    done = 1
    for turn in text.split(LLAVA_LLAMA_2.end):
        asked, *answered = turn.split(INSTRUCTION_END)
        if len(answered) != 1:
            break
        # Tokenised alone, the question ends in a lone space token that in the whole text belongs to the
        # answer, and has a BOS that `done` counts already: 2 tokens too many.
        question_length = len(to_ids(asked + INSTRUCTION_END)) - 2
        labels[done : done + question_length] = [IGNORED] * len(labels[done : done + question_length])
        done += len(to_ids(turn))
    labels[done:] = [IGNORED] * len(labels[done:])
    # The published code counts the tokens that are not padding, so a literal <unk> is a mismatch as well.
    if done != sum(token != PAD for token in ids) and done < max_length:
        labels = [IGNORED] * len(ids)
    return Example(ids[:max_length], labels[:max_length], record.image, len(ids) > max_length)


def fault(record: Conversation, example: Example, signs: Sequence[str] = ()) -> str | None:
    """Why a record cannot be learnt from, or None; `signs` are the tokenizer's own.

    The published code ignores such records silently, or gives one record's image to another (F-S1-09).
    """
    speakers = [turn.speaker for turn in record.conversations]
    if unknown := set(speakers) - {"human", "gpt"}:
        return f"speaker {sorted(unknown)[0]!r}; allowed are human and gpt"
    asked = speakers[1:] if speakers[:1] == ["gpt"] else speakers
    if len(asked) < 2 or asked != ["human", "gpt"] * (len(asked) // 2) + ["human"] * (len(asked) % 2):
        return "turns must alternate human, gpt, ... and hold an answer"
    for turn in record.conversations:
        # Of a record with an image, its tags are counted below.
        words = turn.value.replace(IMAGE_TAG, "") if record.image else turn.value
        if reason := text_fault(words, signs):
            return f"{'answer' if turn.speaker == 'gpt' else 'question'} {shorten(turn.value)}: {reason}"
    tags = example.ids.count(IMAGE_TOKEN)
    if example.cut and tags < sum(turn.value.count(IMAGE_TAG) for turn in record.conversations):
        return f"its {IMAGE_TAG!r} is behind the first {len(example.ids)} tokens; raise --model_max_length"
    if record.image and tags != 1:
        return f"an image and {tags} times {IMAGE_TAG!r} in the text; one tag is needed"
    if not example.supervised:
        return "no token of the answer within --model_max_length, or a text that cannot be masked"
    return None


def encode_all(
    records: Sequence[Conversation],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    source: Path,
    *,
    skip_bad: bool = False,
) -> list[Example]:
    """Tokenises all records of the file `source`; with `skip_bad`, bad ones are left out with a warning each.

    Raises:
        UserError: a record is bad; names it and how many there are. Or none is left.
    """
    examples: list[Example] = []
    problems: list[str] = []
    signs = own_signs(tokenizer)
    for index, record in enumerate(records):
        example = encode(record, tokenizer, max_length)
        reason = fault(record, example, signs)
        if reason is None:
            examples.append(example)
        else:
            problems.append(f"{source}: record {index} (id {record.id!r}): {reason}")
    if problems and not skip_bad:
        raise UserError(
            f"{problems[0]} ({len(problems)} bad records of {len(records)}); mend the file or add "
            "--on_bad_record skip"
        )
    for problem in problems:
        log.warning("%s; skipped", problem)
    if not examples:
        raise UserError(f"{source}: no record to train on")
    if cut := sum(example.cut for example in examples):
        log.warning(
            "%s: %d of %d records are longer than --model_max_length %d; their ends are not learnt",
            source, cut, len(examples), max_length,
        )  # fmt: skip
    return examples


def say_longer(examples: Sequence[Example], patches: int, places: int) -> None:
    """Says how many examples are longer than the places that the model was made for, images expanded."""
    lengths = [example.length(patches) for example in examples]
    if longer := sum(length > places for length in lengths):
        log.warning(
            "%d of %d records take more than the model's %d places (max_position_embeddings), up to %d; "
            "what is behind is learnt badly: lower --model_max_length",
            longer, len(examples), places, max(lengths),
        )  # fmt: skip


class ConversationDataset(Dataset[tuple[Example, Tensor]]):
    """Examples with their pixels, read when they are asked for."""

    def __init__(
        self, examples: Sequence[Example], frames: FrameStore, processor: CLIPImageProcessorPil
    ) -> None:
        self.examples, self.frames, self.processor = examples, frames, processor

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Example, Tensor]:
        example = self.examples[index]
        if example.image is None:
            return example, no_pixels(self.processor)
        return example, pixels([self.frames.read(example.image)], self.processor)[0]


@dataclass(frozen=True)
class Collate:
    """Joins examples into a batch: image places expanded, padded at the right with id 0 and label -100."""

    patches: int  # places one image takes

    def __call__(self, items: Sequence[tuple[Example, Float[Tensor, "3 h w"]]]) -> TuningBatch:
        """Makes a batch."""
        examples = [example for example, _ in items]
        ids = [torch.tensor(expand_image(one.ids, one.ids, self.patches, IMAGE_TOKEN)) for one in examples]
        labels = [torch.tensor(expand_image(one.labels, one.ids, self.patches, IGNORED)) for one in examples]
        input_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=PAD)
        return {
            "input_ids": input_ids,
            "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "attention_mask": (input_ids != PAD).long(),
            "pixel_values": torch.stack([image for _, image in items]),
        }
