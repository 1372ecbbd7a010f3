"""One command's work: which actions, which prompt and model, where the result goes and what it depends on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from egogen.annotations import Annotations, Item, read_metadata
from egogen.layout import Layout
from egogen.manifest import file_hash
from egogen.shards import parse_shard, take_shard
from llava.curate.budget import Prices, chat_tokens
from llava.curate.cases import Case, gather
from llava.curate.exchange import Sampling, Usage
from llava.curate.prompt import OURS, Prompt, read_prompt

TOKENS_PER_WORD = 1.3  # of English, about


@dataclass(frozen=True)
class Job:
    """What a command is to do.

    Args:
        layout: where the data are.
        items: the actions, of all shards.
        cases: the descriptions that are wanted, of this shard.
        prompt: what is asked.
        model: by which name answers are remembered.
        sampling: of answers.
        prices: of tokens.
        out: the conversations.
        part: the conversations of this shard; `out` without shards.
        settings: what the result depends on.
    """

    layout: Layout
    items: Sequence[Item]
    cases: Sequence[Case]
    prompt: Prompt
    model: str
    sampling: Sampling
    prices: Prices
    out: Path
    part: Path
    settings: dict[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides an answer, beside the messages."""
        return {"prompt": self.prompt.version, "model": self.model, **asdict(self.sampling)}

    def plan(self, todo: Sequence[Case]) -> str:
        """What asking about these cases will take, as lines for people."""
        read = sum(chat_tokens(case.chat(self.prompt)) for case in todo)
        words = sum(self.prompt.bounds) / 2
        about = Usage(read, round(len(todo) * words * TOKENS_PER_WORD))
        most = Usage(read, len(todo) * self.sampling.max_tokens)
        actions = sum(len(case.items) for case in self.cases)
        lines = [
            f"actions   {actions:>12,}; {len(self.cases):,} that differ in what is known of them",
            f"to ask    {len(todo):>12,}; what is asked again comes on top",
            f"tokens in {read:>12,}, about",
            f"      out {about.completion:>12,}, about; at most {most.completion:,}",
        ]
        if self.prices != Prices(0.0, 0.0):
            lines.append(
                f"cost      {self.prices.of(about):>12.4f}, about; at most {self.prices.of(most):.4f}"
            )
        return "\n".join(lines)


def read_job(args: argparse.Namespace) -> Job:
    """Reads and checks all that a command's flags name.

    Raises:
        UserError: a file is missing or malformed.
    """
    layout = Layout(args.data_root, args.dataset)
    prompt, sampling = read_prompt(args.prompt), Sampling(args.temperature, args.max_tokens)
    annotations, metadata = Annotations.read(layout.annotations(args.split)), read_metadata(layout.metadata)
    items = annotations.items[: args.limit]
    images = layout.frames(args.split) if args.images else None
    cases = gather(items, args.dataset, metadata, layout.metadata, images)
    out = part = args.out or layout.conversations
    if args.shard is not None:
        index, count = parse_shard(args.shard)
        cases = take_shard(cases, index, count)
        part = out.with_name(f"{out.stem}_shard_{index}_of_{count}{out.suffix}")
    model = args.model or local_model_name(args.local)
    settings = {
        "dataset": args.dataset,
        "split": args.split,
        "annotations": file_hash(annotations.source),
        "metadata": file_hash(layout.metadata),
        "model": model,
        "prompt": prompt.version,
        "prompt_file": file_hash(args.prompt or OURS),
        "images": args.images,
        **asdict(sampling),
    }
    prices = Prices(args.price_in or 0.0, args.price_out or 0.0)
    return Job(layout, items, cases, prompt, model, sampling, prices, out, part, settings)


def local_model_name(folder: Path) -> str:
    """What the answers of a model in a folder are remembered by."""
    # Imported late: an endpoint needs no torch.
    from llava.curate.local import local_name

    return local_name(folder)
