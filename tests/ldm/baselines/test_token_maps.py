"""Token maps of Prompt-to-Prompt: alignment by definition, words and their tokens, replacement."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from egogen.errors import UserError
from ldm.baselines.token_maps import align, replacement, split_prompt, token_ids, token_map, word_places
from ldm.networks.text import make_tokenizer

TOKENIZER = make_tokenizer()
IDS = st.lists(st.integers(1, 4), max_size=10).map(lambda inner: [0, *inner, 9])


def common(one: list[int], other: list[int]) -> int:
    """Length of the longest common subsequence."""
    if not one or not other:
        return 0
    if one[-1] == other[-1]:
        return 1 + common(one[:-1], other[:-1])
    return max(common(one[:-1], other), common(one, other[:-1]))


@given(IDS, IDS)
@settings(max_examples=60, deadline=None)
def test_alignment_is_a_longest_common_subsequence(source: list[int], target: list[int]) -> None:
    origin = align(source, target)
    taken = [(int(i), j) for j, i in enumerate(origin[: len(target)]) if i >= 0]
    assert all(source[i] == target[j] for i, j in taken)
    assert [i for i, _ in taken] == sorted({i for i, _ in taken})
    assert len(taken) == common(source, target)
    assert torch.equal(origin[len(target) :], torch.arange(len(target), 77))


def test_refine_takes_over_old_tokens_and_leaves_new_ones() -> None:
    found = token_map(TOKENIZER, "a red cup", "a big red cup", "refine", {})
    assert found.share[:7].tolist() == [1, 1, 0, 1, 1, 1, 1]
    assert [int(found.matrix[:, j].argmax()) for j in (1, 3, 4, 5)] == [1, 2, 3, 4]
    assert found.factor.tolist() == [1] * 77


def test_from_the_empty_prompt_only_start_and_end_are_taken_over() -> None:
    found = token_map(TOKENIZER, "", "open the box", "refine", {})
    assert found.share[:5].tolist() == [1, 0, 0, 0, 1]


def test_reweighting_finds_the_tokens_of_words() -> None:
    prompt = "scrub the greasy, unwashable cup cup"
    factor = token_map(TOKENIZER, "", prompt, "refine", {"unwashable": 2.0, "cup": 0.5, "spoon": 9.0}).factor
    symbols = TOKENIZER.convert_ids_to_tokens(token_ids(TOKENIZER, prompt))
    of_word = [i for i, places in enumerate(word_places(TOKENIZER, prompt)) for _ in places]
    expected = [{3: 2.0, 4: 0.5, 5: 0.5}.get(word, 1.0) for word in of_word]
    assert len(of_word) == len(symbols) - 2
    assert factor[1 : len(of_word) + 1].tolist() == expected
    assert factor[len(of_word) + 1 :].tolist() == [1.0] * (76 - len(of_word))


@pytest.mark.parametrize(
    "prompt",
    ["", " ", "#C C opens  the box", "na\u00efve caf\u00e9 \u4f60\u597d \U0001f600", "e\u0301t\u00e9",
     "it's 12:30, isn't?", "x" * 500, "the left hand opens the box " * 20, "\u0130stanbul <|endoftext|> cup",
     "\x1e", "open\x1cthe \x1fbox\x85now"],
)  # fmt: skip
def test_every_token_belongs_to_one_word(prompt: str) -> None:
    places = word_places(TOKENIZER, prompt)
    assert len(places) == len(split_prompt(prompt))
    assert [place for word in places for place in word] == list(
        range(1, len(token_ids(TOKENIZER, prompt)) - 1)
    )
    for kind in ("refine", "replace"):
        made = token_map(TOKENIZER, prompt, prompt, kind, {"box": 2.0})
        assert torch.equal(made.matrix, torch.eye(77))
        assert made.share.min() == 1


def test_replacement_spreads_unequal_words_and_leaves_the_tail_in_place() -> None:
    """Behind the last changed word tokens stand for themselves, where they have shifted too (F-BL-05)."""
    source, target = "the cup falls over", "the unwashable falls over"
    (old,), (new,) = (
        [
            places
            for word, places in zip(text.split(), word_places(TOKENIZER, text), strict=True)
            if word in words
        ]
        for text, words in ((source, ["cup"]), (target, ["unwashable"]))
    )
    assert (old, new) == ([2], [2, 3, 4])
    matrix = replacement(TOKENIZER, source, target)
    expected = torch.eye(77)
    expected[:, 2:5] = 0
    expected[2, 2:5] = 1 / 3
    torch.testing.assert_close(matrix, expected)


def test_replacement_needs_equal_numbers_of_words() -> None:
    with pytest.raises(UserError, match=r"source prompt 'a cup' has 2 words, target 'a red cup' 3"):
        replacement(TOKENIZER, "a cup", "a red cup")


def test_replacement_of_long_prompts_stays_within_77_tokens() -> None:
    text = "the left hand opens the box " * 20
    matrix = replacement(TOKENIZER, text, text.replace("left", "unwashable"))
    assert matrix.isfinite().all()
    assert matrix.sum(0).min() > 0
