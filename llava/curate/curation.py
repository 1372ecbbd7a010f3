"""One command's work: which actions, which prompt and model, where the result goes and what it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from egogen.annotations import Annotations, Item, read_metadata
from egogen.layout import Layout
from egogen.manifest import file_hash
from egogen.shards import parse_shard, take_shard
from llava.curate.budget import Prices, chat_tokens
from llava.curate.cases import Case, gather
from llava.curate.exchange import Usage
from llava.curate.flags import CurationOptions
from llava.curate.prompt import OURS, Prompt, read_prompt

TOKENS_PER_WORD = 1.3  # of English, about


@dataclass(frozen=True)
class Curation:
    """What a command is to do."""

    options: CurationOptions
    layout: Layout  # where the data are
    items: Sequence[Item]  # the actions, of all shards
    cases: Sequence[Case]  # the descriptions that are wanted, of this shard
    prompt: Prompt  # what is asked
    model: str  # by which name answers are remembered
    out: Path  # the conversations
    part: Path  # the conversations of this shard; `out` without shards
    settings: dict[str, object]  # what the result depends on

    @property
    def recipe(self) -> dict[str, object]:
        """What decides an answer, beside the messages."""
        return {"prompt": self.prompt.version, "model": self.model, **asdict(self.options.sampling)}

    @cached_property
    def actions(self) -> int:
        """Their number, in this shard."""
        return sum(len(case.items) for case in self.cases)

    @cached_property
    def left_out(self) -> list[tuple[Item, Case]]:
        """Actions without a description; to be asked for after the rounds."""
        return [(item, case) for case in self.cases if case.description is None for item in case.items]

    def plan(self, todo: Sequence[Case]) -> str:
        """What asking about these cases will take, as lines for people."""
        read = sum(chat_tokens(case.chat(self.prompt)) for case in todo)
        words = sum(self.prompt.bounds) / 2
        about = Usage(read, round(len(todo) * words * TOKENS_PER_WORD))
        most = Usage(read, len(todo) * self.options.max_tokens)
        lines = [
            f"actions   {self.actions:>12,}; {len(self.cases):,} that differ in what is known of them",
            f"to ask    {len(todo):>12,}; what is asked again comes on top",
            f"tokens in {read:>12,}, about",
            f"      out {about.completion:>12,}, about; at most {most.completion:,}",
        ]
        prices = self.options.prices
        if prices != Prices(0.0, 0.0):
            lines.append(f"cost      {prices.of(about):>12.4f}, about; at most {prices.of(most):.4f}")
        return "\n".join(lines)


def read_curation(options: CurationOptions) -> Curation:
    """Reads and checks all that a command's flags name.

    Raises:
        UserError: a file is missing or malformed.
    """
    layout = Layout(options.data_root, options.dataset)
    prompt = read_prompt(options.prompt)
    annotations = Annotations.read(layout.annotations(options.split)).of(options.dataset, cut=True)
    metadata = read_metadata(layout.metadata)
    items = annotations.items[: options.limit]
    images = layout.frames(options.split) if options.images else None
    cases = gather(items, options.dataset, metadata, layout.metadata, images)
    out = part = options.out or layout.conversations
    if options.shard is not None:
        index, count = parse_shard(options.shard)
        cases = [*take_shard(cases, index, count)]
        part = out.with_name(f"{out.stem}_shard_{index}_of_{count}{out.suffix}")
    if options.local is None:
        model = f"{options.model}"
    else:
        # Imported late: an endpoint needs no torch.
        from llava.curate.local import local_name

        model = local_name(options.local)
    settings = {
        "dataset": options.dataset,
        "split": options.split,
        "annotations": file_hash(annotations.source),
        "metadata": file_hash(layout.metadata),
        "model": model,
        "prompt": prompt.version,
        "prompt_file": file_hash(options.prompt or OURS),
        "images": options.images,
        **asdict(options.sampling),
    }
    return Curation(options, layout, items, cases, prompt, model, out, part, settings)
