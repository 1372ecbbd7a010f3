"""What CLIP does not read of a text is said, and counted; the ids stay those of the published code."""

from __future__ import annotations

import pytest

from ldm.networks.text import count_longer, make_tokenizer, say_lost, tokenize

LONG = "cut the apple " * 30


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["cut the apple"], None),
        (["cut " * 75], None),  # 75 words and two marks: just what fits
        (["cut " * 76, LONG, "x"], "pairs: 2 of 3 texts are longer than CLIP's 77 tokens"),
        (["cut", " ", ""], "pairs: 2 of 3 texts are blank"),
        (["cut <|endoftext|> it", "<|startoftext|>", "a"], "pairs: 2 of 3 texts hold"),
    ],
)
def test_what_is_lost_is_counted(
    texts: list[str], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    say_lost(make_tokenizer(), texts, "pairs")
    assert (said in caplog.text) if said else not caplog.text


def test_cut_texts_are_tokenised_as_before() -> None:
    tokenizer = make_tokenizer()
    (ids,) = tokenize(tokenizer, [LONG]).tolist()
    (whole,) = tokenizer([LONG], verbose=False).input_ids
    assert ids == [*whole[:76], whole[-1]]


def test_counting_leaves_out_no_text_that_is_cut() -> None:
    tokenizer = make_tokenizer()
    letters = ["a ", "?!", "\U0001f52a", "\U000103a0", "\u1234", "\u00e9"]
    texts = [letter * count for letter in letters for count in range(10, 90, 6)]
    cut = sum(len(ids) > 77 for ids in tokenizer(texts, verbose=False).input_ids)
    assert 0 < cut < len(texts)
    assert count_longer(tokenizer, texts, 77) == cut
