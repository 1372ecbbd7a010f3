from __future__ import annotations

import pytest

from egogen.seeds import item_seed
from egogen.toy.actions import imagine
from egogen.toy.wording import description, label
from llava.curate.answer_checks import Bounds, clean, faults
from llava.question.labels import action_words

BOUNDS = Bounds(8, 40)
GOOD = "The left hand holds the carrot on the board while the right hand cuts it with the knife."


def failed(text: str, action: str = "cut the carrot") -> list[str]:
    return list(faults(clean(text), action, BOUNDS))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f'"{GOOD}"',
        f"\u201c{GOOD}\u201d\n",
        "Both hands grip the carrots: the left one holds them, the right one is cutting with a knife.",
        "Great care is taken: the right hand slices the carrot into thin, round pieces at the near left.",
        "The right hand's fingers curl \u2014 loosely \u2014 around the carrot and lift it off the board.",
        "The right hand lifts 2 carrots (one orange, one white) from the 1.5 litre bowl at the far left.",
        "At the 'near' left, the left-hand side of the board is held by the right hand, next to the carrot.",
        "The left hand coordinates with the right one: they hold the carrot and, inch by inch, peel it.",
        "The hand that is unable to reach the carrot rests, and here the other one is pulling it closer.",
    ],
)
def test_descriptions_pass(text: str) -> None:
    assert failed(text) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty", " \n "),
        ("empty", '""'),
        ("refusal", "I'm sorry, but I can't help with that request about hands and a carrot."),
        ("refusal", "I\u2019m sorry, but I can\u2019t help with that request about hands and a carrot."),
        ("refusal", "As an AI language model, I have no hands, so the carrot remains as it was."),
        ("refusal", "Unfortunately the hands and the carrot are hard to see here and there in it."),
        ("refusal", "It is not possible to determine which hand cuts the carrot from what was given."),
        ("refusal", "Could you provide more details about the hands that cut the carrot in this scene?"),
        ("refusal", "My apologies. The hands that cut the carrot were not described in the message."),
        ("chatter", f"Sure, here is the description: {GOOD}"),
        ("chatter", f"Sure! {GOOD}"),
        ("chatter", f"Certainly. {GOOD}"),
        ("chatter", f"Of course \u2013 {GOOD}"),
        ("chatter", f"Here's a detailed description. {GOOD}"),
        ("chatter", f"Description: {GOOD}"),
        ("chatter", f"Okay, {GOOD}"),
        ("chatter", f"The following describes it. {GOOD}"),
        ("chatter", f"Based on the provided facts, {GOOD}"),
        ("chatter", f"{GOOD} Let me know if you need more."),
        ("chatter", f"{GOOD} I hope this helps!"),
        ("markdown", f"**Action** {GOOD}"),
        ("markdown", f"# Cutting\n{GOOD}"),
        ("markdown", "- The left hand holds the carrot.\n- The right hand cuts it with the knife."),
        ("markdown", "1. The left hand holds the carrot.\n2. The right hand cuts it with the knife."),
        ("markdown", "1) The left hand holds the carrot. 2) The right hand cuts it with the knife."),
        ("markdown", "\u2022 The left hand holds the carrot while the right hand cuts it with the knife."),
        ("markdown", f"`{GOOD}`"),
        ("markdown", f'{{"description": "{GOOD}"}}'),
        ("markdown", f"<p>{GOOD}</p>"),
        ("markdown", "The *left* hand holds the carrot while the right hand cuts it with the knife."),
        ("paragraphs", f"{GOOD}\n\n{GOOD}"),
        ("paragraphs", f"{GOOD}\n{GOOD}"),
        ("length", "The hand cuts the carrot."),
        ("length", f"{GOOD} {GOOD} {GOOD}"),
        ("hands", "The person cuts the carrot on the board by its handle with a long and sharp knife."),
        ("action", "The left hand turns the wheel while the right hand rests on the gear lever."),
        ("coordinates", "The right hand at 0.35 0.62 holds the carrot while the left one cuts it in two."),
        (
            "coordinates",
            "The right hand's bounding box lies on the carrot while the left one cuts it in two.",
        ),
        ("reserved", f"{GOOD} [/INST] {GOOD}"),
    ],
)
def test_a_fault_is_named(name: str, text: str) -> None:
    assert name in failed(text)


@pytest.mark.parametrize(
    ("action", "text", "named"),
    [
        ("cut the carrot", "Both hands take the carrots from the board.", True),
        ("carry plates", "The right hand carries it.", True),
        ("use knife", "The right hand is using it.", True),
        ("pick up knives", "The right hand takes the knife.", True),
        ("put-down spoon", "The right hand lays the spoon down.", True),
        ("take the left one", "The left one stays.", False),
        ("close door", "The hand turns the key.", False),
        ("with both hands", "Whatever.", True),
        ("123", "Whatever.", True),
    ],
)
def test_the_action_is_found_in_any_form(action: str, text: str, named: bool) -> None:
    assert ("action" not in failed(text, action)) == named


def test_the_toys_descriptions_pass() -> None:
    for number in range(300):
        story = imagine(item_seed(0, "ego4d", "train", str(number)))
        words = action_words(label(story, "ego4d"), "ego4d")
        assert faults(description(story), words, Bounds(15, 70)) == {}
