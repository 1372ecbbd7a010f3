"""Which token of a target prompt takes over the attention of which token of its source prompt.

The three edits of Prompt-to-Prompt (Hertz et al. 2023): refine, replace, reweight.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import CLIPTokenizer

from egogen.errors import UserError
from ldm.networks.text import TEXT_TOKENS

WORD_END = "</w>"
BLANKS = re.compile(r"[^\S\x1c-\x1f]+")  # what the tokenizer takes for white space


class TokenMap(NamedTuple):
    """What happens to the attention to target tokens.

    `matrix` [77, 77]: weight of source token i in target token j. `share` [77]: how much of a target token's
    attention is taken over, the rest is its own. `factor` [77]: what the result is multiplied with.
    """

    matrix: Float[Tensor, "*b s t"]
    share: Float[Tensor, "*b t"]
    factor: Float[Tensor, "*b t"]


def token_map(
    tokenizer: CLIPTokenizer, source: str, target: str, kind: str, factors: Mapping[str, float]
) -> TokenMap:
    """The map between two prompts: `refine` aligns their tokens, `replace` their words.

    The attention to words of the target grows by their factors.

    Raises:
        UserError: `replace`, and the prompts have different numbers of words.
    """
    share = torch.ones(TEXT_TOKENS)
    if kind == "refine":
        origin = align(token_ids(tokenizer, source), token_ids(tokenizer, target))
        share = (origin >= 0).float()
        matrix = torch.zeros(TEXT_TOKENS, TEXT_TOKENS)
        matrix[origin, torch.arange(TEXT_TOKENS)] = share
    else:
        matrix = replacement(tokenizer, source, target)
    factor = torch.ones(TEXT_TOKENS)
    places = word_places(tokenizer, target)
    for word, place in zip(split_prompt(target), places, strict=True):
        factor[place] = factors.get(word, 1.0)
    return TokenMap(matrix, share, factor)


def split_prompt(prompt: str) -> list[str]:
    """The words of a prompt, as the tokenizer tells them apart."""
    return [word for word in BLANKS.split(prompt) if word]


def token_ids(tokenizer: CLIPTokenizer, prompt: str) -> list[int]:
    """Token ids with their start and end, cut to 77, without padding."""
    ids: list[int] = tokenizer(prompt, truncation=True, max_length=TEXT_TOKENS).input_ids
    return ids


def align(source: Sequence[int], target: Sequence[int]) -> Int64[Tensor, "77"]:
    """For each target token the place of the source token it is, -1 for a new one.

    The longest common subsequence (Needleman and Wunsch 1970; match 1, gap 0); of equally long ones that
    which takes new tokens last. Places behind the target's end stand for themselves.
    """
    length = np.zeros((len(source) + 1, len(target) + 1), int)
    for i, one in enumerate(source, 1):
        for j, other in enumerate(target, 1):
            through = length[i - 1, j - 1] + 1 if one == other else 0
            length[i, j] = max(length[i, j - 1], length[i - 1, j], through)
    origin = torch.arange(TEXT_TOKENS)
    i, j = len(source), len(target)
    while j > 0:
        if length[i, j] == length[i, j - 1]:
            j -= 1
            origin[j] = -1
        elif length[i, j] == length[i - 1, j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            origin[j] = i
    return origin


def word_places(tokenizer: CLIPTokenizer, prompt: str) -> list[list[int]]:
    """For each blank-separated word of a prompt the places of its tokens; none behind the 77th."""
    words = split_prompt(normalize("NFC", prompt).lower())  # as the tokenizer does
    places: list[list[int]] = [[] for _ in words]
    word, begun = 0, 0
    symbols = tokenizer.convert_ids_to_tokens(token_ids(tokenizer, prompt)[1:-1])
    for place, symbol in enumerate(symbols, 1):
        places[word].append(place)
        begun += len(symbol.removesuffix(WORD_END))  # one symbol stands for one byte
        if begun >= len(words[word].encode()) and word + 1 < len(words):
            word, begun = word + 1, 0
    return places


def replacement(tokenizer: CLIPTokenizer, source: str, target: str) -> Float[Tensor, "77 77"]:
    """The matrix of `replace`: words that differ take each other's place.

    Behind the last of them tokens stand for themselves, also where the places have shifted by then (F-BL-05).

    Raises:
        UserError: the prompts have different numbers of words.
    """
    old_words, new_words = split_prompt(source), split_prompt(target)
    if len(old_words) != len(new_words):
        raise UserError(
            f"proxnpi.controller=replace: source prompt {source!r} has {len(old_words)} words, target "
            f"{target!r} {len(new_words)}; it needs equally many, controller=refine does not"
        )
    matrix = torch.zeros(TEXT_TOKENS, TEXT_TOKENS)
    i = j = 0
    for old, new in changed_places(tokenizer, source, target):
        while i < old[0]:
            matrix[i, j] = 1
            i, j = i + 1, j + 1
        if len(old) == len(new):
            matrix[old, new] = 1
        else:
            matrix[np.ix_(old, new)] = 1 / len(new)
        i, j = i + len(old), j + len(new)
    rest = torch.arange(j, TEXT_TOKENS)[: TEXT_TOKENS - i]
    matrix[rest, rest] = 1
    return matrix


def changed_places(
    tokenizer: CLIPTokenizer, source: str, target: str
) -> Iterator[tuple[list[int], list[int]]]:
    """Places of the words that differ, in both prompts; words behind the 77th token are left out."""
    pairs = zip(word_places(tokenizer, source), word_places(tokenizer, target), strict=True)
    for old_word, new_word, (old, new) in zip(split_prompt(source), split_prompt(target), pairs, strict=True):
        if old_word != new_word and old and new:
            yield old, new
