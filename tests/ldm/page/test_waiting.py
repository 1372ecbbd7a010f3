"""Lines: order, places, kinds that are served at once, failures that are one's own."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

import pytest

from ldm.page.waiting import Line
from tests.ldm.page.running_page import until


class Person:
    def __init__(self, name: str, kind: str = "a") -> None:
        self.name, self.kind = name, kind
        self.places: list[int] = []
        self.errors: list[Exception] = []

    def placed(self, line: str, place: int) -> None:
        assert line == "test"
        self.places.append(place)

    def fail(self, error: Exception) -> None:
        self.errors.append(error)


class Counter:
    """Serves when it is told to."""

    def __init__(self) -> None:
        self.open, self.served = Event(), list[list[str]]()

    def __call__(self, people: Sequence[Person]) -> None:
        self.served.append([person.name for person in people])
        assert self.open.wait(10)
        if any("bad" in person.name for person in people):
            raise ValueError("bad")


@pytest.fixture
def counter() -> Counter:
    return Counter()


def full_line(counter: Counter, *people: Person, most: int = 2) -> Line[Person]:
    """A line whose counter is busy with the first."""
    line = Line("test", counter, most)
    line.join([people[0]])
    until(lambda: counter.served)
    line.join(people[1:])
    return line


def test_those_of_a_kind_are_served_together_and_places_move_up(counter: Counter) -> None:
    people = [Person("1"), Person("2", "b"), Person("3", "c"), Person("4", "b"), Person("5", "b")]
    line = full_line(counter, *people)
    assert [person.places for person in people] == [[1, 0], [1], [2], [3], [4]]
    counter.open.set()
    until(lambda: len(counter.served) == 4)
    assert counter.served == [["1"], ["2", "4"], ["3"], ["5"]]
    assert people[4].places == [4, 2, 1, 0]
    line.close()


def test_who_leaves_is_not_served(counter: Counter) -> None:
    people = [Person("1"), Person("2"), Person("3")]
    line = full_line(counter, *people, most=1)
    assert line.leave(people[1])
    assert not line.leave(people[1])
    assert not line.leave(people[0])  # is being served
    counter.open.set()
    until(lambda: len(counter.served) == 2)
    assert counter.served == [["1"], ["3"]]
    assert people[2].places == [2, 1, 0]
    line.close()


def test_a_failure_is_told_and_the_line_goes_on(counter: Counter) -> None:
    people = [Person("1"), Person("bad"), Person("3", "c")]
    line = full_line(counter, *people)
    counter.open.set()
    until(lambda: len(counter.served) == 3)
    line.close()
    line.thread.join(5)
    assert [len(person.errors) for person in people] == [0, 1, 0]
