"""A SentencePiece tokenizer like LLaMA's: BPE, byte fallback, ids 0, 1, 2 for unk, bos, eos."""

from __future__ import annotations

import io
import string
from collections.abc import Sequence

import sentencepiece

VOCABULARY = 640


def train_tokenizer(texts: Sequence[str]) -> bytes:
    """Learns a tokenizer.

    Args:
        texts: what it should write shortly; anything else is spelt out in letters or bytes.

    Returns:
        The content of `tokenizer.model`.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, " ".join(string.printable.split())]),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
