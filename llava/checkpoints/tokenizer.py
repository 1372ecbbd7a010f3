"""The SentencePiece tokenizer of LLaMA as transformers 5 reads it, with `<unk>` as padding."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import LlamaTokenizer, PreTrainedTokenizerBase

from egogen.errors import UserError, reason
from egogen.files import read_json, write_json
from egogen.unfetched import check_stands
from llava.question.prompts import chat_template

MODEL = "tokenizer.model"
SETTINGS = "tokenizer_config.json"
BOS, EOS, PAD = 1, 2, 0
BOS_TEXT, EOS_TEXT, UNK_TEXT = "<s>", "</s>", "<unk>"  # `<unk>` pads
SIGNS = {BOS_TEXT: BOS, EOS_TEXT: EOS, UNK_TEXT: PAD}


def load_tokenizer(folder: Path, vocabulary: int | None = None) -> PreTrainedTokenizerBase:
    """Loads a folder's tokenizer, for a model that knows so many tokens.

    `LlamaTokenizer`, not `AutoTokenizer`: from `tokenizer.model` alone the latter leaves out the space before
    a text and so gives other ids.

    Raises:
        UserError: there is no tokenizer, it cannot be read, or it is not the model's.
    """
    if not any((folder / name).is_file() for name in (MODEL, "tokenizer.json")):
        raise UserError(f"{folder}: no tokenizer here; expected {MODEL} or tokenizer.json")
    try:
        # Whatever the folder's settings say, or do not: the published trainer pads with <unk>, id 0, and
        # begins with BOS.
        tokenizer = LlamaTokenizer.from_pretrained(
            folder,
            pad_token=UNK_TEXT,
            add_bos_token=True,
            add_eos_token=False,
            chat_template=chat_template(),
        )
    except Exception as error:  # noqa: BLE001 - its parsers raise bare Exception
        for name in (MODEL, "tokenizer.json"):
            check_stands(folder / name)
        raise UserError(
            f"{folder}: the tokenizer cannot be read ({reason(error)}); copy {MODEL} again"
        ) from None
    # Of another kind of tokenizer transformers only says that it is "not the same type".
    signs = {text: tokenizer.convert_tokens_to_ids(text) for text in SIGNS}
    if signs != SIGNS:
        raise UserError(f"{folder}: the tokenizer has {signs}, expected {SIGNS}; copy LLaMA's {MODEL} here")
    if vocabulary is not None and len(tokenizer) > vocabulary:
        raise UserError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, config.json says {vocabulary}; "
            "are both from the same model?"
        )
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes Hugging Face's files and the SentencePiece model they came from, where it is known."""
    tokenizer.save_pretrained(folder)
    source = getattr(tokenizer, "vocab_file", None)
    if source and Path(source).is_file() and Path(source).resolve() != (folder / MODEL).resolve():
        shutil.copyfile(source, folder / MODEL)
    settings = read_json(folder / SETTINGS)
    # save_pretrained drops it, and several turns are tokenised otherwise without it.
    settings["legacy"] = bool(getattr(tokenizer, "legacy", False))
    write_json(folder / SETTINGS, settings)
