"""What no label, question or answer may be: blank, or with a sign in it that a model reads as its own.

One rule for all texts that a tokenizer gets. Published code reads such signs as the tokens that they spell:
an answer ends in its middle, a turn begins, a word is masked out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

IMAGE_TAG = "<image>"  # the place of the frame in a question

# LLaMA's tokens, LLaVA's, and what the template of a conversation is made of.
OF_LLAVA = (
    "<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>",
    IMAGE_TAG, "<im_start>", "<im_end>", "<im_patch>",
)  # fmt: skip
OF_CLIP = ("<|startoftext|>", "<|endoftext|>")
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
INVISIBLE = "\u115f\u1160\u2800\u3164\uffa0"  # letters and signs that show nothing


def text_fault(text: str, more: Iterable[str] = ()) -> str | None:
    """Why the models of stage 1 cannot be given a text, or None.

    Args:
        text: any text.
        more: signs beside LLaVA's, such as a tokenizer's own.
    """
    if is_blank(text):
        return "it is blank; words are needed"
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        return "it holds half of a character (a lone surrogate)"
    held = held_signs(text, (*OF_LLAVA, *more))
    return f"it holds {', '.join(held)}, which the model reads as a sign of its own" if held else None


def held_signs(text: str, signs: Iterable[str]) -> list[str]:
    """Those of some signs that a text holds, as they are written, once each."""
    return [sign for sign in dict.fromkeys(signs) if sign in text]


def unseen(text: str) -> str | None:
    """The first sign of a text that changes how it, or a terminal, is shown and is not seen itself; or None.

    These are control characters but for line breaks and tabs, halves of characters, and what turns the
    direction of writing. Joiners and soft hyphens, which words of several languages need, are none.
    """
    for sign in text:
        if sign in TURNING or (sign not in "\n\t" and unicodedata.category(sign) in ("Cc", "Cs")):
            return sign
    return None


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: no letter, digit or sign, but spaces and controls at most."""
    return not any(unicodedata.category(letter)[0] in "LNPS" and letter not in INVISIBLE for letter in text)
