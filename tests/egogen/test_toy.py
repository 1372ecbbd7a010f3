"""The toy world's scenes, stories and texts."""

import re

import pytest

from egogen.toy.actions import VERBS, imagine
from egogen.toy.palette import COLOURS
from egogen.toy.render import Renderer, frame_width
from egogen.toy.scene import COLUMNS, COUNTS, OTHER, ROWS, hand_for
from egogen.toy.wording import description, label, question

STORIES = [imagine(seed) for seed in range(300)]


def test_every_verb_occurs() -> None:
    assert {story.verb for story in STORIES} == set(VERBS)
    assert len(VERBS) >= 8


def test_scenes_have_three_to_six_different_objects_at_different_places() -> None:
    for story in STORIES:
        things = story.scene.things
        assert len(things) in COUNTS
        for part in ("kind", "colour", "place"):
            assert len({getattr(thing, part) for thing in things}) == len(things)


def test_objects_lie_in_the_central_square() -> None:
    for story in STORIES:
        for thing in story.scene.things:
            assert abs(thing.x) + 0.15 < 0.5
            assert 0.1 < thing.y < 0.75


def test_the_hand_follows_from_the_place_alone() -> None:
    for story in STORIES:
        assert story.hand == hand_for(story.subject.place, story.scene.forward)


def test_hands_and_goals_vary() -> None:
    for verb in VERBS:
        hands = {story.hand for story in STORIES if story.verb == verb}
        assert hands == {"left", "right"}, verb


@pytest.mark.parametrize("dataset", ["ego4d", "epickitchen"])
def test_labels_leave_out_what_the_frame_shows(dataset: str) -> None:
    hidden = re.compile(rf"\b({'|'.join([*COLOURS, *COLUMNS, *ROWS, 'hand'])})\b")
    for story in STORIES:
        assert not hidden.search(label(story, dataset))
        assert not hidden.search(question(story, dataset).replace("the video frame", ""))


def test_descriptions_say_what_labels_leave_out() -> None:
    for story in STORIES:
        text = description(story)
        at = story.partner if story.verb in ("put in", "put on", "pour") else story.subject
        place = story.goal or at.place
        assert text.startswith(f"At the {place.name}, the {story.hand} hand ")
        assert "The other hand " in text
        if story.goal or at is story.partner:
            assert story.verb == "put down" or f"from the {story.subject.place.name}" in text
        assert story.subject.name in text
        if story.verb in ("push", "wipe"):
            assert f"to the {OTHER[story.hand]}" in text


def test_label_styles() -> None:
    said = {(story.verb, story.subject.kind): story for story in STORIES}
    cup = said["pick up", "cup"]
    assert label(cup, "ego4d") == "#C C picks up the cup"
    assert label(cup, "epickitchen") == "pick up cup"
    assert "properly pick up the cup that is" in question(cup, "ego4d")
    assert "properly pick up cup that is" in question(cup, "epickitchen")
    pushed = next(story for story in STORIES if story.verb == "push")
    assert label(pushed, "ego4d") == f"#C C pushes the {pushed.subject.kind}"


@pytest.mark.parametrize("size", [32, 45, 64, 100])
def test_frames_are_wide_and_show_a_change(size: int) -> None:
    story = STORIES[0]
    renderer = Renderer(story.scene, size)
    before, after = renderer.draw(story.before), renderer.draw(story.after)
    assert before.size == after.size == (frame_width(size), size)
    assert before.tobytes() != after.tobytes()


def test_frame_width_is_sixteen_to_nine() -> None:
    assert [frame_width(height) for height in (32, 64, 256)] == [57, 114, 455]
