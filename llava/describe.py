"""Describes how an action is done in the frame before it, and writes the features that stage 2 is guided by.

One text and two features an action: the image feature is the projector's output, the text feature one
final-norm state a generated token (`llava.describing.decode`). Resumable: run the same command again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache, partial
from typing import TYPE_CHECKING

from egogen import cli
from egogen.later import later
from llava.describing.describe_options import DescribeOptions

if TYPE_CHECKING:
    from llava.describing.describing_loop import describe as describe
    from llava.describing.saving import Description as Description

__getattr__ = later(
    __name__, describe="llava.describing.describing_loop", Description="llava.describing.saving"
)
log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Describes one shard of a split, or with `--shard auto` one after the other."""
    options = cli.options(DescribeOptions, argv, "python -m llava.describe", __doc__)
    import torch

    from egogen.disk import writing
    from egogen.manifest import claim
    from egogen.shard_claims import Claims
    from egogen.shards import parse_auto
    from egogen.unfinished import sweep
    from llava.describing.describing_job import read_job
    from llava.describing.describing_loop import describe_part
    from llava.describing.saving import JOURNALS
    from llava.model import load

    job = read_job(options)
    how = {"device": job.device, "dtype": getattr(torch, job.dtype)}
    loaded = cache(partial(load, options.model_path, vision_tower=options.vision_tower, **how))
    with writing(options.save_path):
        together = parse_auto(options.shard) is not None
        shards = Claims(options.save_path, job.shard.total, together=together)
        claim(options.save_path, {**job.settings, "parts": f"{shards.count}", "split_by": job.kind})
        if together:
            shards.take(lambda work: describe_part(job.of(work.shard), nullcontext(work), loaded))
        else:
            describe_part(job, shards.own(job.shard), loaded)
        sweep((options.save_path, *job.feature_folders), options.save_path / JOURNALS)


if __name__ == "__main__":
    cli.run(main)
