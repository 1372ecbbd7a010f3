"""Verb lemmas: lemminflect's, or those that WordNet gave the published code."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.resources import files
from typing import Literal, NamedTuple, get_args

Lemmas = Literal["lemminflect", "wordnet"]
LEMMAS: tuple[Lemmas, ...] = get_args(Lemmas)

# WordNet's endings of verbs, tried in this order.
ENDINGS = (
    ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
)  # fmt: skip


@lru_cache(100_000)
def verb_lemma(word: str, lemmas: Lemmas = "lemminflect") -> str:
    """The base form of a verb in lower case: `puts` -> `put`; a word that is unknown stays.

    Args:
        word: in lower case.
        lemmas: whose tables. WordNet's shortest candidate turns "scrapes" into "scrap" (F-S1-08).
    """
    if lemmas == "wordnet":
        return min(wordnet_candidates(word), key=len, default=word)
    if not word.isalpha():  # lemminflect guesses at "picks-up" and "#unsure"
        return word
    # Imported late: it reads its tables at import.
    from lemminflect import getLemma

    found = getLemma(word, upos="VERB")
    return str(found[0]) if found else word


class VerbTables(NamedTuple):
    """WordNet 3.0's verbs, and the base forms of irregular ones."""

    verbs: frozenset[str]
    irregular: dict[str, list[str]]


@cache
def wordnet() -> VerbTables:
    """Reads the tables: a verb a line, or an irregular form and its base forms."""
    lines = files("llava.question").joinpath("wordnet_verbs.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.split(" ") for line in lines]
    irregular = {form: bases for form, *bases in entries if bases}
    return VerbTables(frozenset(form for form, *bases in entries if not bases), irregular)


def wordnet_candidates(word: str) -> list[str]:
    """WordNet's base forms of a word ("morphy"): of an irregular form, else by endings, else none."""
    irregular = wordnet().irregular
    if word in irregular:
        return verbs_among([word, *irregular[word]])
    forms = without_ending([word])
    found = verbs_among([word, *forms])
    while forms and not found:
        forms = without_ending(forms)
        found = verbs_among(forms)
    return found


def verbs_among(forms: list[str]) -> list[str]:
    """Those of the forms that WordNet knows, each once."""
    return [form for form in dict.fromkeys(forms) if form in wordnet().verbs]


def without_ending(forms: list[str]) -> list[str]:
    """Each form with each ending that it has replaced by a base form's."""
    return [
        form.removesuffix(ending) + instead
        for form in forms
        for ending, instead in ENDINGS
        if form.endswith(ending)
    ]
