"""A language model from a folder: a causal one of transformers with a chat template, asked in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from egogen.errors import UserError, reason
from egogen.manifest import checkpoint_hash, file_hash
from egogen.seeds import item_seed
from llava.curate.exchange import ChatSampling, Message, Reply
from llava.describing import decode
from llava.model import pick_device


class KeyedDraws(LogitsProcessor):
    """Leaves of each row's next tokens the drawn one: draws depend on the row's seed, not on its batch."""

    def __init__(self, seeds: Sequence[int], sampling: decode.Sampling, start: int) -> None:
        self.uniforms = torch.stack([decode.draws(seed, sampling.max_new_tokens) for seed in seeds])  # [b, n]
        self.sampling, self.start = sampling, start

    def __call__(  # type: ignore[override]
        self, input_ids: Int[Tensor, "b t"], scores: Float[Tensor, "b v"]
    ) -> Float[Tensor, "b v"]:
        """Sets all scores but the drawn tokens' to minus infinity."""
        uniforms = self.uniforms[:, input_ids.shape[1] - self.start].to(scores.device)
        chosen = decode.next_tokens(scores, uniforms, self.sampling)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


@dataclass
class LocalModel:
    """A model and its tokenizer."""

    name: str  # with its weights' hash: what its answers are remembered by
    model: PreTrainedModel  # on its device
    tokenizer: PreTrainedTokenizerBase  # pads at the left
    sampling: ChatSampling
    batch: int  # chats at a time
    workers: int = 1

    @torch.no_grad()
    def ask(self, chats: Sequence[Sequence[Message]]) -> list[Reply]:
        """Answers a batch of chats."""
        prompts = [self.render(chat) for chat in chats]
        # The chat template has written the special tokens.
        given = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        given = {name: given[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        start = given["input_ids"].shape[1]
        sampling = decode.Sampling(self.sampling.temperature, max_new_tokens=self.sampling.max_tokens)
        draws = KeyedDraws([item_seed(0, prompt) for prompt in prompts], sampling, start)
        try:
            written = self.model.generate(  # type: ignore[operator]
                **given,
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([draws]),
            )[:, start:]
        except torch.OutOfMemoryError:
            raise UserError(f"--batch-size {self.batch}: out of GPU memory; give a smaller one") from None
        lengths = given["attention_mask"].sum(dim=1).tolist()
        return [self.reply(row, length) for row, length in zip(written.tolist(), lengths, strict=True)]

    def reply(self, row: list[int], prompt_tokens: int) -> Reply:
        """One row's answer, up to its end mark."""
        ends = self.model.generation_config.eos_token_id  # one, several or unknown
        ends = {ends} if isinstance(ends, int) else set(ends or [self.tokenizer.eos_token_id])
        length = next((place + 1 for place, token in enumerate(row) if token in ends), None)
        kept = row[:length]
        return Reply(
            text=str(self.tokenizer.decode(kept, skip_special_tokens=True)),
            cut=length is None,
            refused=False,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(kept),
            counted=True,
        )

    def render(self, chat: Sequence[Message]) -> str:
        """A chat by the model's template; where it knows no system text, that precedes the first question.

        Raises:
            UserError: the template takes no such chat.
        """
        system, *rest = [{"role": message.role, "content": message.text} for message in chat]
        joined = {"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}
        for messages in ([system, *rest], [joined, *rest[1:]]):
            try:
                text = self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
                return str(text)
            except jinja2.TemplateError as error:
                fault = error
        raise UserError(f"{self.name}: its chat template takes no such chat ({fault})")


def local_name(folder: Path) -> str:
    """What a local model's answers are remembered by: a hash of weights, settings and chat template.

    Raises:
        UserError: there is no such folder, or no model in it.
    """
    if not folder.is_dir():
        raise UserError(f"--local {folder}: no such folder; expected one with a model and its tokenizer")
    template = folder / "chat_template.jinja"
    parts = [checkpoint_hash(folder), file_hash(template) if template.is_file() else ""]
    return f"local {hashlib.sha256(''.join(parts).encode()).hexdigest()[:16]}"


def load_local(folder: Path, name: str, sampling: ChatSampling, batch: int) -> LocalModel:
    """Loads a model and its tokenizer, on a GPU in bfloat16, else in 32 bits; `name` is its `local_name`.

    Raises:
        UserError: the folder holds no causal language model, or no chat template.
    """
    device = pick_device("auto")
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        # Without a word on it, transformers asks at the terminal whether to run code of the folder.
        safe = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", **safe)
        loaded: Any = AutoModelForCausalLM.from_pretrained(  # a pair, which its signature does not say
            folder, dtype=dtype, weights_only=True, output_loading_info=True, **safe
        )
    except Exception as error:  # noqa: BLE001 - libraries raise anything over a folder that is no model
        raise UserError(
            f"--local {folder}: not a causal language model of transformers ({reason(error)})"
        ) from None
    model: PreTrainedModel
    model, info = loaded
    # transformers begins what is missing at random, and warns.
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := [str(name) for name in info[kind]]:
            raise UserError(
                f"--local {folder}: {len(names)} weights are {kind.partition('_')[0]}, such as "
                f"{sorted(names)[0]}; expected those of the model that config.json names, whole"
            )
    if not tokenizer.chat_template:
        raise UserError(
            f"--local {folder}: the tokenizer has no chat template; take a model that was tuned on chats, or "
            "add chat_template.jinja"
        )
    nn.Module.to(model, device)  # the method of PreTrainedModel has no usable type
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LocalModel(name, model.eval(), tokenizer, sampling, batch)
