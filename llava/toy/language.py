"""Makes the toy LLaMA's tokenizer; pre-trains it with its projector on what is where. Actions come later."""

from __future__ import annotations

import io
import logging
import string
from collections.abc import Sequence

import sentencepiece
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig

from llava.checkpoints.config_json import llava_config
from llava.model import Llava, freeze_vision
from llava.toy.pointing import Pointers, begin_as_copying, marks, pointing_loss
from llava.toy.toy_tower import PatchReader, schedule
from llava.tuning.conversations import Collate, Example

log = logging.getLogger(__name__)

VOCABULARY = 640
WIDTH = 128
BATCH = 8
PEAK_RATE = 2e-3
POINTING_WEIGHT = 2.0


def toy_text_config(vocabulary: int) -> LlamaConfig:
    """Width 128, 3 layers."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=344,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )


def train_tokenizer(texts: Sequence[str]) -> bytes:
    """Learns a SentencePiece tokenizer like LLaMA's: BPE, byte fallback, ids 0, 1, 2 for unk, bos, eos.

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


def build_toy(reader: PatchReader, vision_tower: str) -> Llava:
    """A LLaVA with the trained vision tower, projector and embeddings, and untrained LLaMA layers."""
    text = toy_text_config(reader.embeddings.num_embeddings)
    model = Llava(llava_config(text, reader.vision.config, vision_tower))
    model.model.vision_tower.load_state_dict(reader.vision.state_dict())
    model.model.multi_modal_projector.load_state_dict(reader.projector.state_dict())
    with torch.no_grad():
        # A patch's feature then is a sum of words, and the head reads words.
        model.model.language_model.embed_tokens.weight.copy_(reader.embeddings.weight)
        model.lm_head.weight.copy_(reader.embeddings.weight)
    begin_as_copying(model)
    return model


def train_language(
    model: Llava,
    examples: Sequence[tuple[Example, Pointers]],
    pixels: Float[Tensor, "n 3 h w"],
    seconds: float,
    steps: int,
) -> None:
    """Trains projector and language model in place, for so long or so many batches at most.

    Examples, with where their answers should look, and CLIP's input are one a frame, in the same order.
    """
    freeze_vision(model)
    model.train()
    collate = Collate(model.patches)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=PEAK_RATE, weight_decay=0.0)
    for step, rate in enumerate(schedule(seconds, steps)):
        optimizer.param_groups[0]["lr"] = PEAK_RATE * rate
        chosen = torch.randint(len(examples), (BATCH,)).tolist()
        batch = collate([(examples[place][0], pixels[place]) for place in chosen])
        made = model(**batch, output_hidden_states=True)
        looked = marks([examples[place] for place in chosen], batch["input_ids"].shape[1], model.patches)
        pointed = pointing_loss(model, made.hidden_states, looked)
        loss = made.loss + POINTING_WEIGHT * pointed
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % 25 == 0:
            log.info("toy LLaMA: step %d, loss %.3f, pointing %.3f", step, made.loss.item(), pointed.item())
    model.eval()
