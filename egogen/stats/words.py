"""The verb and the nouns of a label, by a rule of thumb: no language model, no dictionary.

1. Ego4D's tag and wearer ("#C C") go; what is left are lower-case words.
2. The first word that is no article is the verb. After a tag it is a third person, whose ending goes: -ies
   becomes -y; -es goes after sh, ch, ss, x, zz and o; else -s goes.
3. Prepositions, particles, "and" and commas end a phrase. The last word of each phrase is a noun, as written.

"#C C picks up the red cup from a shelf": pick; cup, shelf. The rule is for counting; it errs where a label is
more than a verb and its objects.
"""

from __future__ import annotations

import re

TAG = re.compile(r"#\w+\s+(?:[A-Z]\s+)?")
WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*|,")
ARTICLES = {
    "a", "an", "the", "his", "her", "their", "its", "some", "both", "one", "two", "another", "each",
}  # fmt: skip
BREAKS = {
    ",", "about", "across", "against", "along", "and", "around", "at", "away", "back", "behind", "between",
    "by", "down", "for", "from", "in", "inside", "into", "near", "of", "off", "on", "onto", "or", "out",
    "over", "through", "to", "together", "towards", "under", "up", "using", "while", "with",
}  # fmt: skip
IRREGULAR = {"does": "do", "goes": "go", "has": "have", "is": "be"}


def words(label: str) -> list[str]:
    """The words of a label in lower case, without the tag; commas are words too."""
    return WORD.findall(TAG.sub("", label, count=1).lower())


def verb(label: str) -> str | None:
    """The verb in its base form, or None for a label without words."""
    first = next((word for word in words(label) if word != "," and word not in ARTICLES), None)
    return base_form(first) if first and TAG.match(label) else first


def base_form(third_person: str) -> str:
    """`carries` -> `carry`, `washes` -> `wash`, `cuts` -> `cut`."""
    if third_person in IRREGULAR:
        return IRREGULAR[third_person]
    if third_person.endswith("ies") and len(third_person) > 4:
        return f"{third_person[:-3]}y"
    if re.search("(sh|ch|ss|x|zz|o)es$", third_person):
        return third_person[:-2]
    return third_person.removesuffix("s") if not third_person.endswith("ss") else third_person


def nouns(label: str) -> list[str]:
    """The nouns of a label, in order."""
    found: list[str] = []
    phrase: list[str] = []
    for word in [*words(label)[1:], ","]:
        if word not in BREAKS:
            phrase.append(word)
            continue
        named = [each for each in phrase if each not in ARTICLES]
        found += named[-1:]
        phrase = []
    return found
