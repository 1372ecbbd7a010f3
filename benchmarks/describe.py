"""How fast frames are described: the published way against ours, on the same model, in one run.

    python benchmarks/describe.py                 # toy size, on a CPU: minutes
    python benchmarks/describe.py --size 13b      # the shape of LEGO's model, random weights, on a GPU

Published: one frame at a time, the hidden states of all layers of all steps kept until the answer ends. Ours:
`llava.describing.decode.answer` on batches. Growing: the same with transformers' cache, which copies all
keys and values at every token. These take the likeliest token and write answers of one length. Given: the
features of those answers by one pass (`--texts`). The ways take turns; figures are medians of the rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from measuring import LLM_WIDTH, VIT_L, OnDevice, SpeedTable, clock, largest_costs, run
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    DynamicCache,
    LlamaConfig,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from egogen.cli import flag
from llava.checkpoints.config_json import llava_config, text_settings
from llava.checkpoints.tokenizer import BOS_TEXT, MODEL, load_tokenizer
from llava.describing import decode
from llava.describing.decode import STOP_WINDOW, Answer, Sampling, answer, follow
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
    rounds: int = flag("in which each way has its turn", type=int, default=3)
    batch_size: int | None = flag("what fits, by default", type=int)


def build(size: str, vocabulary: int, device: str, dtype: torch.dtype) -> Llava:
    """A model with random weights, that never ends an answer by itself."""
    text, vision = toy_text_config(vocabulary), toy_vision_config()
    if size == "13b":
        text = LlamaConfig(
            hidden_size=LLM_WIDTH, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40,
            max_position_embeddings=4096, pad_token_id=0,
        )  # fmt: skip
        vision = CLIPVisionConfig(**VIT_L)
    torch.manual_seed(0)
    with torch.device(device):
        config = llava_config(text, vision, "")
        model = Llava._from_config(config, dtype=dtype, attn_implementation="sdpa").eval()
    with torch.no_grad():
        model.lm_head.weight[:3] = 0  # unknown, begin, end: a logit of 0 is never the highest
    return model


@torch.no_grad()
def published(
    model: Llava, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], features: Tensor, tokens: int
) -> list[Tensor]:
    """Describes frames one by one by `generate`, keeping every layer's states of every step, as published."""
    made = []

    def stops(ids: Tensor, _scores: object, **_more: object) -> bool:
        """The published extra rule: the text `<s>` among the last tokens ends an answer."""
        return BOS_TEXT in tokenizer.batch_decode(ids[:, -STOP_WINDOW:])[0]

    for prompt, feature in zip(prompts, features, strict=True):
        ids = torch.tensor([expand_image(prompt, prompt, model.patches, IMAGE_TOKEN)], device=feature.device)
        embeddings = model.get_input_embeddings()(ids.masked_fill(ids == IMAGE_TOKEN, 0))
        embeddings = embeddings.masked_scatter((ids == IMAGE_TOKEN)[..., None], feature.to(embeddings.dtype))
        out = model.generate(
            inputs_embeds=embeddings, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True,
            max_new_tokens=tokens, output_hidden_states=True, return_dict_in_generate=True,
            stopping_criteria=StoppingCriteriaList([stops]), pad_token_id=0,
        )  # fmt: skip
        made.append(torch.cat([step[-1][:, -1] for step in out.hidden_states]).float().cpu())
    return made


def ours(
    model: Llava, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], features: Tensor, tokens: int,
    size: int,
) -> list[Answer]:  # fmt: skip
    """Describes frames in batches."""
    sampling, made = Sampling(temperature=0.0, max_new_tokens=tokens), []
    for first in range(0, len(prompts), size):
        part, shown = prompts[first : first + size], features[first : first + size]
        found = answer(model, tokenizer, part, shown, range(len(part)), sampling)
        made += [Answer(one.tokens, one.states.float().cpu()) for one in found]
    return made


def growing(*args: object) -> list[Answer]:
    """The same with a cache that grows by a copy at every token."""
    with patch.object(decode, "roomy_cache", lambda *_: DynamicCache()):
        return ours(*args)  # type: ignore[arg-type]


def given(
    model: Llava, prompts: list[list[int]], features: Tensor, answers: list[list[int]], size: int
) -> list[Tensor]:
    """The features of answers that are there, in batches."""
    states = []
    for first in range(0, len(prompts), size):
        part = slice(first, first + size)
        states += [one.float().cpu() for one in follow(model, prompts[part], features[part], answers[part])]
    return states


def measure(options: DescribeSpeed, folder: Path) -> dict[str, SpeedTable]:
    """Measures all ways."""
    device, tokens = options.device, options.tokens
    texts = [
        f"{QUERY.format(words)} The left hand does it. {index}" for index, words in enumerate(WORDS * 20)
    ]
    (folder / MODEL).write_bytes(train_tokenizer(texts))  # its words do not matter here
    tokenizer = load_tokenizer(folder)
    model = build(options.size, len(tokenizer), device, torch.float16 if options.on_gpu else torch.float32)
    prompts = [prompt_ids(QUERY, WORDS[index % len(WORDS)], tokenizer) for index in range(options.frames)]
    width = text_settings(model.config).hidden_size
    features = torch.randn(options.frames, model.patches, width, device=device, dtype=model.dtype)
    longest = max(map(len, prompts))
    size = options.batch_size or fitting_batch_size(model, longest, Sampling(max_new_tokens=tokens))
    few = min(options.published_frames, options.frames)
    published(model, tokenizer, prompts[:1], features[:1], 2)  # warm up
    batches = (model, tokenizer, prompts, features, tokens, size)
    answers = [one.tokens for one in ours(*batches)]
    ways: dict[str, Callable[[], list[Tensor]]] = {
        "published": lambda: published(model, tokenizer, prompts[:few], features[:few], tokens),
        "growing": lambda: [one.states for one in growing(*batches)],
        "ours": lambda: [one.states for one in ours(*batches)],
        "given": lambda: given(model, prompts, features, answers, size),
    }
    clocked = [{way: clock(work, device) for way, work in ways.items()} for _ in range(options.rounds)]
    last = clocked[-1]
    seconds = {way: [each[way].seconds for each in clocked] for way in ways}
    rates = {way: len(last[way].result) / median(seconds[way]) for way in ways}
    # In half precision a near tie may be decided otherwise; after that the texts differ.
    equal = {
        way: sum(
            torch.allclose(a, b, atol=1e-3)
            for a, b in zip(last["published"].result, last[way].result, strict=False)
        )
        for way in ("growing", "ours", "given")
    }
    # Each step reads all of the language model's weights once; a given answer's one pass reads them once.
    read = sum(value.numel() * value.element_size() for value in model.model.language_model.parameters())
    steps = {"published": rates["published"] * tokens, "growing": rates["growing"] * tokens / size,
             "ours": rates["ours"] * tokens / size, "given": rates["given"] / size}  # fmt: skip
    print(f"{options.size}, batches of {size}, {options.machine}, torch {torch.__version__}")
    table = SpeedTable("frames_per_second")
    for way, each in seconds.items():
        table.add(
            way=way, frames_per_second=rates[way], tokens_per_second=rates[way] * tokens,
            slowest_to_fastest=max(each) / min(each), peak_memory_gib=last[way].gib,
            share_of_bandwidth=options.share(steps[way] * read / 1e12, "memory"),
            equal_features=f"{equal[way]} of {few}" if way in equal else None,
        )  # fmt: skip
    some = (model, tokenizer, prompts[:size], features[:size], tokens, size)
    path = f"describing {min(size, len(prompts))} frames at once"
    return {
        "ways": table,
        "costs": largest_costs(path, lambda: ours(*some), device),
    }


if __name__ == "__main__":
    run(measure, DescribeSpeed, __doc__)
