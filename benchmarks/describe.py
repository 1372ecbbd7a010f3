"""How fast frames are described: the published way against ours, on the same model, in one run.

    python benchmarks/describe.py                 # toy size, on a CPU: minutes
    python benchmarks/describe.py --size 13b      # the shape of LEGO's model, random weights, on a GPU

Published: one frame at a time, the hidden states of all layers of all steps kept until the answer ends. Ours:
`llava.describing.decode.answer` on batches. Both take the likeliest token and write answers of one length.
"""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import OnDevice, clock, read_flags, report
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from egogen.cli import flag
from llava.checkpoints.config_json import llava_config, text_settings
from llava.checkpoints.tokenizer import BOS_TEXT, MODEL, load_tokenizer
from llava.describing.decode import STOP_WINDOW, Sampling, answer
from llava.describing.describing_loop import fitting_batch_size
from llava.model import Llava
from llava.question.prompts import IMAGE_TOKEN, expand_image, prompt_ids
from llava.toy.language import toy_text_config, train_tokenizer
from llava.toy.toy_tower import toy_vision_config

QUERY = "How does the person properly {} that is displayed in the video frame?"
WORDS = ("open the drawer", "cut the onion", "pick up the red cup", "wash the pan with a sponge")


@dataclass(frozen=True)
class DescribeSpeed(OnDevice):
    """The flags."""

    json: Path | None = flag("write the figures here", type=Path, spelled=("--json", "--out"))
    size: str = flag("of the model", choices=["toy", "13b"], default="toy")
    frames: int = flag("described our way", type=int, default=128)
    published_frames: int = flag("described the published way", type=int, default=16)
    tokens: int = flag("of an answer", type=int, default=96)
    batch_size: int | None = flag("what fits, by default", type=int)


def shapes(size: str, vocabulary: int) -> tuple[LlamaConfig, CLIPVisionConfig]:
    """Sizes of language model and vision tower."""
    if size == "toy":
        return toy_text_config(vocabulary), toy_vision_config()
    text = LlamaConfig(
        vocab_size=32000, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40,
        num_attention_heads=40, num_key_value_heads=40, max_position_embeddings=4096,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=224, patch_size=14,
    )  # fmt: skip
    return text, vision


def build(size: str, vocabulary: int, device: str, dtype: torch.dtype) -> Llava:
    """A model with random weights, that never ends an answer by itself."""
    torch.manual_seed(0)
    config = llava_config(*shapes(size, vocabulary), "")
    config._attn_implementation = "sdpa"
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = Llava(config).eval()
    torch.set_default_dtype(default)
    with torch.no_grad():
        model.lm_head.weight[:3] = 0  # unknown, begin, end: a logit of 0 is never the highest
    return model


def make_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A small SentencePiece tokenizer; its words do not matter here."""
    text = [f"{QUERY.format(words)} The left hand does it. {index}" for index, words in enumerate(WORDS * 20)]
    (folder / MODEL).write_bytes(train_tokenizer(text))
    return load_tokenizer(folder)


class StopAtText(StoppingCriteria):
    """The published extra rule: the text `<s>` among the last tokens ends an answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> bool:  # noqa: D102 - its protocol
        del scores, kwargs
        return BOS_TEXT in self.tokenizer.batch_decode(input_ids[:, -STOP_WINDOW:])[0]


@torch.no_grad()
def published(
    model: Llava, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], features: Tensor, tokens: int
) -> list[Tensor]:
    """Describes frames one by one by `generate`, keeping every layer's states of every step, as published."""
    made = []
    for prompt, feature in zip(prompts, features, strict=True):
        ids = torch.tensor([expand_image(prompt, prompt, model.patches, IMAGE_TOKEN)], device=feature.device)
        embeddings = model.get_input_embeddings()(ids.masked_fill(ids == IMAGE_TOKEN, 0))
        embeddings = embeddings.masked_scatter((ids == IMAGE_TOKEN)[..., None], feature.to(embeddings.dtype))
        out = model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            use_cache=True,
            output_hidden_states=True,
            return_dict_in_generate=True,
            stopping_criteria=StoppingCriteriaList([StopAtText(tokenizer)]),
            pad_token_id=0,
        )
        made.append(torch.cat([step[-1][:, -1] for step in out.hidden_states]).float().cpu())
    return made


def ours(
    model: Llava, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], features: Tensor, tokens: int,
    size: int,
) -> list[Tensor]:  # fmt: skip
    """Describes frames in batches."""
    sampling, states = Sampling(temperature=0.0, max_new_tokens=tokens), []
    for first in range(0, len(prompts), size):
        rows = slice(first, first + size)
        part = prompts[rows]
        found = answer(model, tokenizer, part, features[rows], list(range(len(part))), sampling)
        states += [one.states.float().cpu() for one in found]
    return states


def main() -> None:
    """Measures both ways and prints the figures."""
    logging.basicConfig(level=logging.WARNING)
    options = read_flags(DescribeSpeed, "describe", __doc__)
    device, tokens = options.device, options.tokens
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(Path(folder))
    model = build(options.size, len(tokenizer), device, torch.float16 if options.on_gpu else torch.float32)
    prompts = [prompt_ids(QUERY, WORDS[index % len(WORDS)], tokenizer) for index in range(options.frames)]
    width = int(text_settings(model.config).hidden_size)
    features = torch.randn(options.frames, model.patches, width, device=device, dtype=model.dtype)
    longest = max(map(len, prompts))
    size = options.batch_size or fitting_batch_size(model, longest, Sampling(max_new_tokens=tokens))
    few = min(options.published_frames, options.frames)
    published(model, tokenizer, prompts[:1], features[:1], 2)  # warm up
    ways = {
        "published": clock(
            lambda: published(model, tokenizer, prompts[:few], features[:few], tokens), device
        ),
        "ours": clock(lambda: ours(model, tokenizer, prompts, features, tokens, size), device),
    }
    slow, fast = (found.result for found in ways.values())
    rates = {way: len(found.result) / found.seconds for way, found in ways.items()}
    # In half precision a near tie may be decided otherwise; after that the texts differ.
    equal = sum(torch.allclose(a, b, atol=1e-3) for a, b in zip(slow, fast, strict=False))
    figures: dict[str, object] = {
        "machine": options.machine,
        "batch_size": size,
        "frames_a_second": rates,
        "tokens_a_second": {name: rate * tokens for name, rate in rates.items()},
        "ratio": rates["ours"] / rates["published"],
        "equal_features": f"{equal} of {few}",
    }
    if options.on_gpu:
        figures["peak_gib"] = {way: found.gib for way, found in ways.items()}
    if options.peak:
        # Each step reads all of the language model's weights once.
        read = sum(value.numel() * value.element_size() for value in model.model.language_model.parameters())
        steps = {"published": rates["published"] * tokens, "ours": rates["ours"] * tokens / size}
        figures["share_of_bandwidth"] = {
            way: rate * read / (options.peak.memory * 1e12) for way, rate in steps.items()
        }
    print(json.dumps(figures, indent=2))
    report(options, figures=figures)


if __name__ == "__main__":
    main()
