"""How fast frames are described: the published way against ours, on the same model, in one run.

    python benchmarks/describe.py                 # toy size, on a CPU: minutes
    python benchmarks/describe.py --size 13b      # the shape of LEGO's model, random weights, on a GPU

Published: one frame at a time, the hidden states of all layers of all steps kept until the answer ends. Ours:
`llava.describing.decode.answer` on batches. Both take the likeliest token and write answers of one length.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import LLM_WIDTH, VIT_L, OnDevice, clock, run
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedTokenizerBase, StoppingCriteriaList

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
) -> list[Tensor]:  # fmt: skip
    """Describes frames in batches."""
    sampling, states = Sampling(temperature=0.0, max_new_tokens=tokens), []
    for first in range(0, len(prompts), size):
        part, shown = prompts[first : first + size], features[first : first + size]
        found = answer(model, tokenizer, part, shown, range(len(part)), sampling)
        states += [one.states.float().cpu() for one in found]
    return states


def measure(options: DescribeSpeed, folder: Path) -> dict[str, dict[str, object]]:
    """Measures both ways and prints the figures."""
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
    slow = clock(lambda: published(model, tokenizer, prompts[:few], features[:few], tokens), device)
    fast = clock(lambda: ours(model, tokenizer, prompts, features, tokens, size), device)
    ways = {"published": slow, "ours": fast}
    rates = {way: len(found.result) / found.seconds for way, found in ways.items()}
    # In half precision a near tie may be decided otherwise; after that the texts differ.
    equal = sum(torch.allclose(a, b, atol=1e-3) for a, b in zip(slow.result, fast.result, strict=False))
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
    # Each step reads all of the language model's weights once.
    read = sum(value.numel() * value.element_size() for value in model.model.language_model.parameters())
    steps = {"published": rates["published"] * tokens, "ours": rates["ours"] * tokens / size}
    shares = {way: options.share(rate * read / 1e12, "memory") for way, rate in steps.items()}
    if None not in shares.values():
        figures["share_of_bandwidth"] = shares
    print(json.dumps(figures, indent=2))
    return {"figures": figures}


if __name__ == "__main__":
    run(measure, DescribeSpeed, __doc__)
