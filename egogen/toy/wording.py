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
# Verbs that end at another object.
TO_PARTNER = {"put in", "put on", "pour"}


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
    return QUESTION.format(action=phrase(story) if dataset == "ego4d" else label(story, dataset))


def phrase(story: Story) -> str:
    """The action as a person would ask for it: `pick up the cup`."""
    verb, rest = words(story)
    return f"{verb} {rest.format('the ', 'the ')}"


def description(story: Story) -> str:
    """Two sentences that say what the label leaves out: hands, colours, places, directions."""
    # Where the acting hand is seen at work: at the goal, at what takes the object in, or at the object.
    place = story.goal or (story.partner if story.verb in TO_PARTNER else story.subject).place
    other = f"holds the {story.subject.kind}" if story.other_holds else "rests"
    return f"At the {place.name}, the {story.hand} hand {happening(story)}. The other hand {other}."


def happening(story: Story) -> str:
    """What the acting hand does, and where the object comes from."""
    subject, partner = story.subject, story.partner
    origin = subject.place.name
    grip = GRIP_NAMES.get(subject.kind, "side")
    towards = OTHER[story.hand]
    return {
        "pick up": f"grips the {subject.name} by the {grip} and lifts it up",
        "put down": f"holds the {subject.name} by the {grip} and puts it down",
        "put in": f"puts the {subject.name} from the {origin} into the {partner.name}",
        "put on": f"puts the {subject.name} from the {origin} onto the {partner.name}",
        "push": f"pushes the {subject.name} to the {towards}, from the {origin}",
        "open": f"opens the {subject.name}",
        "close": f"closes the {subject.name}",
        "cut": f"cuts the {subject.name} into two halves with the {partner.name}",
        "pour": f"tilts the {subject.name} from the {origin} over the {partner.name}",
        "wipe": f"wipes to the {towards} with the {subject.name} from the {origin}",
    }[story.verb]
