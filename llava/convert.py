"""Turns a published LLaVA folder into a Hugging Face one, or back. Nothing is lost either way.

Adapters are merged into the checkpoint that they were trained on, and the whole is written in either format.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderFormat:
    """The command line."""

    direction: str = flag("which format to write", positional=True, choices=["llava2hf", "hf2llava"])
    source: Path = flag("checkpoint folder to read", positional=True, type=Path)
    target: Path = flag("folder to write; must not exist", positional=True, type=Path)
    vision_tower: Path | None = flag("CLIP folder, if not the one it names", type=Path)


def main(argv: Sequence[str] | None = None) -> None:
    """Converts one folder."""
    args = cli.options(FolderFormat, argv, "python -m llava.convert", __doc__)
    if args.target.exists():
        raise UserError(f"{args.target}: exists; choose a new folder")
    import torch

    from egogen.files import atomic_folder
    from llava.checkpoints.adapter_folder import is_adapter, whole_of
    from llava.checkpoints.clip_tower import find_clip
    from llava.checkpoints.config_json import is_published, read_config
    from llava.checkpoints.published_folder import write_clip, write_published
    from llava.model import load, save

    adapters = is_adapter(args.source)  # merged into their base, whose format does not matter
    raw = read_config(whole_of(args.source))
    if not adapters and is_published(raw) != (args.direction == "llava2hf"):
        form = "published" if is_published(raw) else "Hugging Face"
        raise UserError(f"{args.source}: is in {form} format already; {args.direction} reads the other one")
    dtype = getattr(torch, str(raw.get("dtype") or raw.get("torch_dtype") or "float32"))
    model, tokenizer, processor = load(args.source, vision_tower=args.vision_tower, dtype=dtype)
    with atomic_folder(args.target) as part:
        if args.direction == "llava2hf":
            save(model, tokenizer, processor, part)
        else:
            name = str(getattr(model.config, "mm_vision_tower", "") or f"openai/{args.target.name}-vision")
            write_published(model, tokenizer, part, name)
            if find_clip(name, args.target) is None:
                with atomic_folder(args.target.parent / name) as clip:
                    write_clip(model, processor, clip)
    log.info("%s: written", args.target)


if __name__ == "__main__":
    cli.run(main)
