"""The question, and action labels -> its words. Spec: stage1-vllm-protocol, section 6."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from egogen.errors import UserError
from egogen.reserved import IMAGE_TAG
from llava.question.lemmas import Lemmas, verb_lemma

QUESTION = "How does the person properly {} that is displayed in the video frame?"
SLOT = "{}"  # the place of the words

Cut = Literal["published", "tag"]
CUTS: tuple[Cut, ...] = get_args(Cut)

# "#C C picks up a knife": a tag ("#C", "#O", "#Unsure") and the wearer's letter.
TAG_AND_WEARER = re.compile(r"\A\s*(?:#\w+|C)?(?!\S)\s*(?:C(?!\S))?\s*", re.IGNORECASE)


def check_query(query: str) -> None:
    """Checks the question about an action.

    Raises:
        UserError: it has an image tag, several `{}`, or none (F-S1-05: published, the action is ignored).
    """
    if query.count(SLOT) != 1:
        raise UserError(
            f"query {query!r}: found {query.count(SLOT)} times '{SLOT}', expected it once, for the action"
        )
    if IMAGE_TAG in query:
        raise UserError(f"query {query!r}: {IMAGE_TAG} is put in front by itself; leave it out")


def action_words(label: str, dataset: str, *, cut: Cut = "published", lemmas: Lemmas = "lemminflect") -> str:
    """The action as words that fit the question: `#C C picks up a knife` -> `pick up a knife`.

    EPIC-KITCHENS labels are words already. Of an Ego4D narration "#C C" goes, and the first word, its verb,
    becomes the lemma.

    Args:
        label: `action` of an annotation.
        dataset: `ego4d` or `epickitchen`.
        cut: what goes: `published` drops two characters, spaces, two characters, spaces, whatever they are;
            `tag` drops a tag and the wearer's letter where they are (F-S1-07).
        lemmas: whose tables name the lemma (F-S1-08).
    """
    if dataset == "epickitchen":
        return label
    if cut == "published":
        text = label[2:].strip()[2:].strip()
    else:
        text = TAG_AND_WEARER.sub("", label, count=1).strip()
    verb, space, rest = text.partition(" ")
    return f"{verb_lemma(verb.lower(), lemmas)}{space}{rest}"


def guess_dataset(label_file: Path) -> str:
    """The data set by the label file's name, as the published code guesses it.

    Raises:
        UserError: the name contains neither `ego4d` nor `epickitchen`.
    """
    found = [dataset for dataset in ("ego4d", "epickitchen") if dataset in label_file.name]
    if len(found) != 1:
        raise UserError(
            f"{label_file}: its name does not tell the style of its labels; add --dataset ego4d or "
            "--dataset epickitchen"
        )
    return found[0]
