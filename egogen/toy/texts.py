"""What is said about a story: the label in both styles, the question, and the curated description."""

from __future__ import annotations

from egogen.toy.scene import OTHER
from egogen.toy.staging import Story

QUESTION = "<image>\nHow does the person properly {action} that is displayed in the video frame?"
GRIP_NAMES = {
    "cup": "handle",
    "knife": "handle",
    "pan": "handle",
    "bowl": "rim",
    "plate": "rim",
    "book": "edge",
}
THIRD_PERSON = {"push": "pushes"}


def words(story: Story) -> tuple[str, str]:
    """The verb's first word and what follows it, `{}` before each noun."""
    subject, partner = story.subject.kind, story.partner.kind
    return {
        "pick up": ("pick", f"up {{}}{subject}"),
        "put down": ("put", f"down {{}}{subject}"),
        "put in": ("put", f"{{}}{subject} in {{}}{partner}"),
        "put on": ("put", f"{{}}{subject} on {{}}{partner}"),
        "push": ("push", f"{{}}{subject}"),
        "open": ("open", f"{{}}{subject}"),
        "close": ("close", f"{{}}{subject}"),
        "cut": ("cut", f"{{}}{subject}"),
        "pour": ("pour", f"water into {{}}{partner}"),
        "wipe": ("wipe", "{}table"),
    }[story.verb]


def label(story: Story, dataset: str) -> str:
    """Ego4D: `#C C picks up the cup`. EPIC-KITCHENS: `pick up cup`."""
    verb, rest = words(story)
    if dataset == "ego4d":
        return f"#C C {THIRD_PERSON.get(verb, verb + 's')} {rest.format('the ', 'the ')}"
    return f"{verb} {rest.format('', '')}"


def question(story: Story, dataset: str) -> str:
    """The question to stage 1: Ego4D's action as a base-form phrase, EPIC's label as it is."""
    verb, rest = words(story)
    action = f"{verb} {rest.format('the ', 'the ')}" if dataset == "ego4d" else label(story, dataset)
    return QUESTION.format(action=action)


def description(story: Story) -> str:
    """Two sentences that say what the label leaves out: hands, colours, places, directions."""
    return f"{happening(story)} {other_hand(story)}"


def happening(story: Story) -> str:
    """Where it happens, then what the acting hand does: the place mostly decides which hand that is."""
    subject, partner, hand = story.subject, story.partner, f"the {story.hand} hand"
    at, goal = subject.place.name, story.goal.name if story.goal else ""
    there = f"the {partner.name} at the {partner.place.name}"
    grip = GRIP_NAMES.get(subject.kind, "side")
    towards = OTHER[story.hand]
    return {
        "pick up": f"At the {at}, {hand} grips the {subject.name} by the {grip} and lifts it up.",
        "put down": f"At the {goal}, {hand} holds the {subject.name} by the {grip} and puts it down.",
        "put in": f"From the {at}, {hand} moves the {subject.name} into {there}.",
        "put on": f"From the {at}, {hand} moves the {subject.name} onto {there}.",
        "push": f"From the {at}, {hand} pushes the {subject.name} to the {towards}, to the {goal}.",
        "open": f"At the {at}, {hand} opens the {subject.name}.",
        "close": f"At the {at}, {hand} closes the {subject.name}.",
        "cut": f"At the {at}, {hand} cuts the {subject.name} into two halves with the {partner.name}.",
        "pour": f"From the {at}, {hand} tilts the {subject.name} over {there}.",
        "wipe": f"From the {at}, {hand} wipes with the {subject.name} to the {towards}, to the {goal}.",
    }[story.verb]


def other_hand(story: Story) -> str:
    """What the other hand does."""
    does = f"holds the {story.subject.kind}" if story.other_holds else "rests"
    return f"The {OTHER[story.hand]} hand {does}."
