"""Beam search against all continuations there are, and its rules one by one."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from ldm.metrics.networks.beams import Hypotheses, continue_item, search

END = 3


def chances(ids: Tensor) -> Tensor:
    """Logits of the next of four tokens, which follow from all before."""
    rows = []
    for row in ids.tolist():
        seed = sum((token + 1) * 7**place for place, token in enumerate(row))
        rows.append(torch.randn(4, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(rows)


def best_of_all(prompt: list[int], shortest: int, longest: int) -> list[int]:
    """The continuation of the largest log probability a token, prompt's and but for the end all counted."""
    found: list[tuple[float, list[int]]] = []
    for length in range(len(prompt), longest + 1):
        for more in product(range(3), repeat=length - len(prompt)):
            ids, total = list(prompt), 0.0
            for token in [*more, *([END] if length < longest else [])]:
                logits = chances(torch.tensor([ids])).log_softmax(-1)[0]
                if len(ids) < shortest and token == END:
                    total = -torch.inf
                total += float(logits[token])
                ids += [token] if token != END else []
            found.append((total / length, ids))
    return max(found)[1]


@pytest.mark.parametrize("shortest", [1, 4])
def test_with_beams_enough_it_finds_the_best_of_all(shortest: int) -> None:
    prompts = [[0, 1], [2, 2], [1, 0]]
    calls: list[tuple[Tensor, Tensor]] = []

    def step(ids: Tensor, origin: Tensor) -> Tensor:
        calls.append((ids, origin))
        return chances(ids)

    found = search(step, torch.tensor(prompts), beams=30, shortest=shortest, longest=5, end=END)
    assert found == [best_of_all(prompt, shortest, 5) for prompt in prompts]
    # Each beam goes on with what the beam that it came from had; at first each is its own.
    assert calls[0][1].tolist() == list(range(90))
    for (before, _), (after, origin) in pairwise(calls):
        assert torch.equal(after[:, :-1], before[origin])


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_an_item_is_found_alone_as_among_others(beams: int) -> None:
    prompts = [[a, b] for a in range(3) for b in range(3)]
    how = {"beams": beams, "shortest": 3, "longest": 7, "end": END}
    alone = [search(lambda ids, _: chances(ids), torch.tensor([prompt]), **how)[0] for prompt in prompts]
    assert search(lambda ids, _: chances(ids), torch.tensor(prompts), **how) == alone
    assert all(row[:2] == prompt for row, prompt in zip(alone, prompts, strict=True))
    assert len({len(row) for row in alone}) > 1


def test_one_beam_takes_the_likeliest_until_it_ends() -> None:
    """An end that is among the best ends the search: nothing that goes on is kept beside it."""
    table = torch.tensor([[0.0, 2.0, 0.0, 1.0], [0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 0.0, 9.0]])
    (found,) = search(
        lambda ids, _: table[ids[:, -1]], torch.tensor([[0]]), beams=1, shortest=1, longest=9, end=END
    )
    assert found == [0, 1, 2]
    (longer,) = search(
        lambda ids, _: table[ids[:, -1]], torch.tensor([[0]]), beams=1, shortest=4, longest=9, end=END
    )
    assert longer == [0, 1, 2, 0, 1, 2]


def test_an_end_counts_from_the_smallest_length_on() -> None:
    """Where the end is always likeliest."""
    logits = torch.tensor([[0.0, 1.0, 0.0, 9.0]])
    for shortest, expected in ((1, [0]), (3, [0, 1, 1]), (4, [0, 1, 1, 1])):
        (found,) = search(
            lambda ids, _: logits.expand(len(ids), -1), torch.tensor([[0]]), beams=1, shortest=shortest,
            longest=9, end=END,
        )  # fmt: skip
        assert found == expected


def test_two_beams_begin_with_different_words() -> None:
    """The likelier first word has no likely second one: .6 x .3 against .4 x 1."""
    table = torch.tensor([[0.0, 0.6, 0.4, 0.0], [0.3, 0.25, 0.25, 0.2], [0.0, 0.0, 1.0, 0.0]]).log()
    for beams, expected in ((1, [0, 1, 0]), (2, [0, 2, 2])):
        (found,) = search(
            lambda ids, _: table[ids[:, -1]], torch.tensor([[0]]), beams=beams, shortest=3, longest=3, end=END
        )
        assert found == expected


def test_the_best_are_kept_by_what_they_score_a_token() -> None:
    found = Hypotheses(2)
    assert not found.done
    found.add(-4.0, (1, 2))
    found.add(-3.0, (3,))
    assert found.best == [(-2.0, [1, 2]), (-3.0, [3])]
    found.add(-6.0, (4, 5, 6))  # as good as the first, so behind it
    assert found.best == [(-2.0, [1, 2]), (-2.0, [4, 5, 6])]
    found.add(-9.0, (7,))
    assert found.best == [(-2.0, [1, 2]), (-2.0, [4, 5, 6])]


@pytest.mark.parametrize(
    ("kept", "log_probability", "length", "done"),
    [(2, -6.0, 2, True), (2, -6.5, 2, True), (2, -5.5, 2, False), (1, -9.0, 2, False)],
)
def test_it_ends_where_nothing_that_runs_can_win(
    kept: int, log_probability: float, length: int, done: bool
) -> None:
    """Of as many ended beams as are kept the worst, -3, is at least as good."""
    found = Hypotheses(2)
    for value in (-1.0, -3.0)[:kept]:
        found.add(value, [0])
    found.close(log_probability, length)
    assert found.done == done
    found.close(0.0, 1)
    assert found.done == done  # for good


def test_a_step_of_an_item() -> None:
    """Two beams: ended ones count where they rank among the first two; two that go on are kept."""
    ids = [[5, 0], [5, 1]]
    candidates = [(-1.0, 0, END), (-2.0, 1, 2), (-3.0, 1, END), (-4.0, 0, 1)]
    found = Hypotheses(2)
    assert continue_item(found, ids, 2, END, candidates) == [(-2.0, 1, 2), (-4.0, 0, 1)]
    assert found.best == [(-0.5, [5, 0])]
    assert not found.done
    found = Hypotheses(2)
    candidates = [(-1.0, 0, END), (-1.5, 1, END), (-2.0, 1, 2), (-4.0, 0, 1)]
    assert continue_item(found, ids, 2, END, candidates) == [(-2.0, 1, 2), (-4.0, 0, 1)]
    assert found.best == [(-0.5, [5, 0]), (-0.75, [5, 1])]
    assert not found.done  # the best, -1 / 2, could be reached by another yet
    candidates = [(-1.5, 0, 2), (-1.6, 0, END), (-1.7, 1, 2), (-1.8, 0, 1)]
    assert continue_item(found, ids, 2, END, candidates) == [(-1.5, 0, 2), (-1.7, 1, 2)]
    assert found.done
    continue_item(found, ids, 2, END, [(-0.1, 0, END), (-0.2, 1, 2), (-0.3, 1, 1)])
    assert found.best == [(-0.5, [5, 0]), (-0.75, [5, 1])]  # what ends behind is not looked at
