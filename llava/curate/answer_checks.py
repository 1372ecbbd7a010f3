"""Whether an answer is a description: no refusal, no chatter, plain words on hands and action."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from egogen.reserved import OF_LLAVA, held_signs

# Curved apostrophes and long dashes, as the patterns below know them.
PLAIN = str.maketrans("\u2018\u2019\u2013\u2014", "''--")
QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019"}

REFUSAL = re.compile(
    r"\b(?:I'?m|I am) (?:\w+ )?(?:sorry|afraid|unable|not able)\b"
    r"|\bI (?:can ?not|can't|could not|couldn't|will not|won't|do not|don't|am not)\b"
    r"|\b(?:sorry|unfortunately|regrettably|apology|apologies|apologi[sz]e)\b"
    r"|\bas an? (?:AI|artificial|(?:large )?language|text-based|virtual|assistant)\b"
    r"|\b(?:can ?not|can't|unable to|not able to) (?:provide|describe|assist|help|generate|comply|view)\b"
    r"|\b(?:not |im)possible to (?:determine|describe|say|tell|know)\b"
    r"|\b(?:not enough|insufficient|without (?:more|further|additional)) (?:information|context|details?)\b"
    r"|\b(?:please|could you|can you) (?:provide|share|give|clarify)\b",
    re.IGNORECASE,
)
# "Sure, here is ...", "Description: ...", "Let me know if ...": words to the person who asks.
CHATTER = re.compile(
    r"\A(?:sure|sure thing|certainly|of course|absolutely|ok|okay|all ?right|great|got it|understood|yes)"
    r"(?:[,.!:;]|\s+-)"
    r"|\A(?:\w+[,.!]?\s+){0,3}here(?:'s|\s+is|\s+are)\b"
    r"|\A(?:below is|the following)\b"
    r"|\A(?:based on|according to|given) the (?:provided|given|above|facts|narration|picture|image)\b"
    r"|\A[^.!?]{0,80}\b(?:descri\w+|answer|action|response|paragraph|sentences?|caption|text|output)\b[^.!?]{0,60}:\s"
    r"|\A(?:description|answer)\s*-"
    r"|\b(?:let me know|feel free|hope (?:this|that|it) helps|anything else|I(?:'d| would) be happy)\b",
    re.IGNORECASE,
)
MARKDOWN = re.compile(
    r"^\s*(?:[-*+\u2022]|\(?\d+[.)]|\(?[a-z]\))\s"  # items of a list
    r"|(?:\A|\s)\(?1[.)]\s.*\s\(?2[.)]\s"  # a list within the line
    r"|^\s*(?:#{1,6}\s|>\s?|\|)"  # headings, quotations, tables
    r"|\*\*|__|`|~~|\*\w[^*\n]*\*"  # bold, code, struck out, italic
    r"|\[[^\]]*\]\([^)]*\)|</?\w+[^>]*>|https?://"  # links, tags
    r"|\A\s*[\[{]",  # JSON
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
HANDS = re.compile(r"\bhands?\b", re.IGNORECASE)
COORDINATES = re.compile(r"\bbounding box|(?<![\d.])(?:0?\.\d|1\.0)", re.IGNORECASE)
WORD = re.compile(r"[^\W\d_]+")
# Words of a label that any description may hold, whatever its action.
NO_CONTENT = frozenset(
    WORD.findall(
        "a an the and or then of to in into on onto at from with by for up down off out over under away back "
        "around his her its it them this that person someone hand hands left right both one other object"
    )
)


class Bounds(NamedTuple):
    """Fewest and most words."""

    low: int
    high: int


def clean(answer: str) -> str:
    """An answer without outer spaces and without quotation marks around the whole of it."""
    text = answer.strip()
    if len(text) > 1 and QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def faults(text: str, action: str, bounds: Bounds) -> dict[str, str]:
    """What is wrong with a cleaned answer about a label's words.

    Returns:
        Names of the checks that failed, each with a phrase that tells the language model what to mend.
    """
    if not text:
        return {"empty": "it is empty"}
    plain = text.translate(PLAIN)
    if REFUSAL.search(plain):
        return {"refusal": "it declines, or asks back, instead of describing the action"}
    count = len(text.split())
    length = f"its number of words is {count} ({bounds.low} to {bounds.high} are allowed)"
    reserved = held_signs(text, OF_LLAVA)
    checks = [
        ("chatter", CHATTER.search(plain), "it speaks to the reader (no introduction, no closing remark)"),
        ("markdown", MARKDOWN.search(plain), "it holds a list, markup or code (plain sentences alone)"),
        ("paragraphs", len(text.splitlines()) > 1, "it has several lines (one paragraph alone)"),
        ("length", not bounds.low <= count <= bounds.high, length),
        ("hands", not HANDS.search(text), "it does not say what the hands do"),
        ("action", not names_action(text, action), f"it names nothing of the action {action!r}"),
        ("coordinates", COORDINATES.search(text), "it gives coordinates (say places in words)"),
        ("reserved", reserved, f"it holds {', '.join(reserved)}"),
    ]
    return {name: phrase for name, failed, phrase in checks if failed}


def names_action(text: str, action: str) -> bool:
    """Whether a text has a verb or a noun of the action, in any form; true for a label without any."""
    wanted = [word for word in words_of(action) if word not in NO_CONTENT]
    present = {form for word in words_of(text) for form in forms(word)}
    return not wanted or any(form in present for word in wanted for form in forms(word))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without digits and signs."""
    return [word.lower() for word in WORD.findall(text)]


@cache
def forms(word: str) -> frozenset[str]:
    """A word and the base forms that it may have as a verb, a noun or an adjective."""
    # Imported late: it reads its tables at import.
    from lemminflect import getAllLemmas

    return frozenset({word, *(base for bases in getAllLemmas(word).values() for base in bases)})
