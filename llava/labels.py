"""Action labels -> the words of the question. Spec: stage1-vllm-protocol, section 6."""

from __future__ import annotations

import re
from pathlib import Path

from egogen.errors import UserError

# "#C C picks up a knife": a tag ("#C", "#O", "#Unsure") and the wearer's letter.
TAG_AND_WEARER = re.compile(r"\A\s*(?:#\w+|C)?(?!\S)\s*(?:C(?!\S))?\s*", re.IGNORECASE)


def action_words(label: str, dataset: str) -> str:
    """The action as words that fit the question: `#C C picks up a knife` -> `pick up a knife`.

    EPIC-KITCHENS labels are words already. Of an Ego4D narration the tag and the wearer's letter go, and the
    first word, its verb, becomes the lemma. The published code drops 2 + 2 characters whatever they are
    (F-S1-07) and lemmatises with WordNet, which shortens some verbs wrongly, "scrapes" to "scrap" (F-S1-08).

    Args:
        label: `action` of an annotation.
        dataset: `ego4d` or `epickitchen`.
    """
    if dataset == "epickitchen":
        return label
    return lemmatize_first(TAG_AND_WEARER.sub("", label, count=1).strip())


def published_action_words(label: str) -> str:
    """An Ego4D label by the published cut: two characters, spaces, two characters, spaces."""
    return lemmatize_first(label[2:].strip()[2:].strip())


def lemmatize_first(text: str) -> str:
    """Replaces the first word by its verb lemma in lower case; anything but a plain word stays."""
    word, space, rest = text.partition(" ")
    return f"{verb_lemma(word.lower())}{space}{rest}"


def verb_lemma(word: str) -> str:
    """`puts` -> `put`; a word with signs in it (`picks-up`, `#unsure`) is returned unchanged."""
    if not word.isalpha():
        return word
    # Imported late: it reads its tables at import.
    from lemminflect import getLemma

    found = getLemma(word, upos="VERB")
    return str(found[0]) if found else word


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
