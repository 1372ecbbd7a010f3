"""How fast frames are described: the published way against ours, on the same model, in one run.

    python benchmarks/describe.py                 # toy size, on a CPU: minutes
    python benchmarks/describe.py --size 13b      # the shape of LEGO's model, random weights, on a GPU

Published: one frame at a time, the hidden states of all layers of all steps kept until the answer ends. Ours:
`llava.describing.decode.answer` on batches. Both take the likeliest token and write answers of one length.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from egogen.files import write_json
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
# Bytes a second that a GPU's memory gives, by the vendor's data sheet.
BANDWIDTH = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.0e12, "L40": 0.86e12, "4090": 1.0e12}


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

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:  # noqa: ANN401, D102 - its protocol
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
        out: Any = model.generate(
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


def timed(work: Callable[[], Any], device: str) -> tuple[float, float, Any]:
    """Seconds, peak bytes of GPU memory, result."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    result = work()
    peak = 0.0
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        peak = float(torch.cuda.max_memory_allocated())
    return time.perf_counter() - begin, peak, result


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


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["toy", "13b"], default="toy")
    parser.add_argument("--frames", type=int, default=128, help="frames described our way")
    parser.add_argument("--published-frames", type=int, default=16, help="frames described the published way")
    parser.add_argument("--tokens", type=int, default=96, help="tokens of an answer")
    parser.add_argument("--batch-size", type=int, default=None, help="default: what fits")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the figures")
    return parser.parse_args()


def main() -> None:
    """Measures both ways and prints the figures."""
    logging.basicConfig(level=logging.WARNING)
    args = arguments()
    on_gpu = args.device.startswith("cuda")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(Path(folder))
    model = build(args.size, len(tokenizer), args.device, torch.float16 if on_gpu else torch.float32)
    prompts = [prompt_ids(QUERY, WORDS[index % len(WORDS)], tokenizer) for index in range(args.frames)]
    width = int(text_settings(model.config).hidden_size)
    features = torch.randn(args.frames, model.patches, width, device=args.device, dtype=model.dtype)
    longest = max(map(len, prompts))
    size = args.batch_size or fitting_batch_size(model, longest, Sampling(max_new_tokens=args.tokens))
    few = min(args.published_frames, args.frames)
    published(model, tokenizer, prompts[:1], features[:1], 2)  # warm up
    before, before_peak, slow = timed(
        lambda: published(model, tokenizer, prompts[:few], features[:few], args.tokens), args.device
    )
    after, after_peak, fast = timed(
        lambda: ours(model, tokenizer, prompts, features, args.tokens, size), args.device
    )
    rates = {"published": few / before, "ours": args.frames / after}
    # In half precision a near tie may be decided otherwise; after that the texts differ.
    equal = sum(torch.allclose(a, b, atol=1e-3) for a, b in zip(slow, fast, strict=False))
    report: dict[str, Any] = {
        "size": args.size,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "batch_size": size,
        "tokens": args.tokens,
        "frames_a_second": rates,
        "tokens_a_second": {name: rate * args.tokens for name, rate in rates.items()},
        "ratio": rates["ours"] / rates["published"],
        "equal_features": f"{equal} of {few}",
    }
    if on_gpu:
        report["peak_gib"] = {"published": before_peak / 2**30, "ours": after_peak / 2**30}
        steps = {"published": rates["published"] * args.tokens, "ours": rates["ours"] * args.tokens / size}
        report["share_of_bandwidth"] = shares(model, report["device"], steps)
    print(json.dumps(report, indent=2))
    if args.out:
        write_json(args.out, report)


def shares(model: Llava, device: str, steps: dict[str, float]) -> dict[str, float] | None:
    """Steps a second as shares of what memory allows: each reads all of the language model's weights once."""
    bandwidth = next((value for name, value in BANDWIDTH.items() if name in device), None)
    if bandwidth is None:
        return None
    read = sum(value.numel() * value.element_size() for value in model.model.language_model.parameters())
    return {way: rate * read / bandwidth for way, rate in steps.items()}


if __name__ == "__main__":
    main()
