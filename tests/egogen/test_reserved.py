"""One rule says which texts stage 1 cannot be given; ordinary words of any script pass."""

from __future__ import annotations

import pytest

from egogen.reserved import OF_CLIP, OF_LLAVA, is_blank, text_fault, unseen


@pytest.mark.parametrize("sign", OF_LLAVA)
def test_signs_of_the_model_are_named(sign: str) -> None:
    assert text_fault(f"cut {sign} carrot") == f"it holds {sign}, which the model reads as a sign of its own"
    assert text_fault(f"cut{sign}carrot")


def test_signs_of_a_tokenizer_are_named_too() -> None:
    assert text_fault("cut <action> carrot") is None
    assert "<action>" in (text_fault("cut <action> carrot", ["<action>"]) or "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\t\n",
        "\u00a0\u3000",
        "\u200b\u200d\ufeff",
        "\x00\x07",
        "\u2800",
        "\u3164",
        "\ufe0f",
        "\u0301",
    ],
)
def test_what_shows_nothing_is_blank(text: str) -> None:
    assert is_blank(text)
    assert text_fault(text) == "it is blank; words are needed"


@pytest.mark.parametrize(
    "text", ["cut", "#unsure", "...", "1", "切る", "сырник", "🍳", "e\u0301", "a\u200b", "a < s > b", "inst"]
)
def test_words_pass(text: str) -> None:
    assert text_fault(text) is None


def test_half_characters_are_refused() -> None:
    assert "lone surrogate" in (text_fault("cut \ud83d it") or "")


def test_signs_of_clip_are_no_signs_of_llava() -> None:
    assert not set(OF_CLIP) & set(OF_LLAVA)


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("open the box\n\tnow", None), ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", None),
        ("\U0001f469\u200d\U0001f373 a\u00a0b", None), ("a\x1b[2J", "\x1b"), ("a\rb", "\r"),
        ("a \u202e b", "\u202e"),
        ("\ud800", "\ud800"), ("a\0", "\0"),
    ],
)  # fmt: skip
def test_what_changes_how_a_text_is_shown(text: str, sign: str | None) -> None:
    assert unseen(text) == sign
