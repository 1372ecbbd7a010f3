"""Descriptions to CLIP tokens: the tokenizer, without a download."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor
from transformers import CLIPTokenizer

from egogen.blocks import in_blocks
from egogen.reserved import OF_CLIP, held_signs, is_blank

log = logging.getLogger(__name__)
TEXT_TOKENS = 77
MERGES = 49152 - 256 - 2


def byte_symbols() -> list[str]:
    """The 256 printable symbols that stand for bytes, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]


@cache
def make_tokenizer() -> CLIPTokenizer:
    """OpenAI's CLIP tokenizer, from the byte-pair merges that open_clip carries."""
    spec = find_spec("open_clip")
    assert spec is not None, "open_clip_torch is a dependency of the ldm extra"
    assert spec.origin is not None
    packed = Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    symbols = byte_symbols()
    words = [
        *symbols,
        *(f"{symbol}</w>" for symbol in symbols),
        *("".join(line.split()) for line in lines),
        *OF_CLIP,
    ]
    vocabulary = {word: index for index, word in enumerate(words)}
    merges: Any = [tuple(line.split()) for line in lines]  # its type hint forgets pairs
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_TOKENS)


def tokenize(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Int64[Tensor, "b 77"]:
    """Token ids, cut or padded with the end token to 77."""
    padded = tokenizer(
        list(prompts), padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt"
    )
    return padded.input_ids


def say_lost(tokenizer: CLIPTokenizer, texts: Iterable[str], where: str) -> None:
    """Says how many texts CLIP does not read as they stand; published code is silent and reads them alike.

    Longer ones are cut at 77 tokens; CLIP's own signs end or begin a text in its middle.
    """
    total = cut = blank = signs = 0
    for block in in_blocks(texts):
        total += len(block)
        cut += count_longer(tokenizer, block, TEXT_TOKENS)
        blank += sum(map(is_blank, block))
        signs += sum(bool(held_signs(text, OF_CLIP)) for text in block)
    for count, what in (
        (cut, f"are longer than CLIP's {TEXT_TOKENS} tokens; what is behind is not read"),
        (blank, "are blank: nothing is asked for"),
        (signs, f"hold {' or '.join(OF_CLIP)}, which CLIP reads as its own signs; take them out"),
    ):
        if count:
            log.warning("%s: %d of %d texts %s", where, count, total, what)


def unknown_words(table: Float[Tensor, "v d"], tokenizer: CLIPTokenizer, texts: Sequence[str]) -> list[str]:
    """Words, or their parts, that a checkpoint reads as nothing: their rows of its embedding table are zero.

    Small checkpoints keep the rows of the words that they were trained on (`ldm.checkpoints.compact_files`).
    """
    ids = tokenize(tokenizer, texts).unique().to(table.device)
    lost = ids[(table[ids] == 0).all(dim=1)]
    return sorted({f"{tokenizer.decode([index])}".strip() for index in lost.tolist()})


def count_longer(tokenizer: Any, texts: Sequence[str], most: int) -> int:  # noqa: ANN401 - CLIP's or BERT's
    """How many texts have more than so many tokens, with their marks at start and end."""
    # A token is a byte at least: shorter texts need not be tokenised.
    doubtful = [text for text in texts if len(text.encode()) > most - 2]
    return sum(len(ids) > most for ids in tokenizer(doubtful, verbose=False).input_ids) if doubtful else 0
