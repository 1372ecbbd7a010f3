"""Describes how an action is done in the frame before it, and writes the features that stage 2 is guided by.

One text and two features an action: the image feature is the projector's output, the text feature one
final-norm state a generated token (`llava.describing.decode`). Resumable: run the same command again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from egogen import cli
from egogen.disk import writing
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
    """Describes one shard of a split."""
    options = cli.options(DescribeOptions, argv, "python -m llava.describe", __doc__)
    import torch

    from egogen.files import clean_parts, write_json
    from egogen.frames import check_frames
    from egogen.locks import hold
    from egogen.manifest import claim
    from llava.describing.describing_job import read_job
    from llava.describing.describing_loop import describe_all
    from llava.describing.saving import Descriptions, NpySaver, ShardSaver
    from llava.model import load

    job = read_job(options)
    kind, _, _, parts = job.part.split("_")
    claim(options.save_path, {**job.settings, "parts": parts, "split_by": kind})
    lines = options.save_path / f"{job.part}.jsonl"
    with hold(lines, "describing"), writing(options.save_path):
        for folder in (options.save_path, options.save_image_feature_path, options.save_text_feature_path):
            clean_parts(folder)
        journal = Descriptions(lines)
        saver = (NpySaver if options.feature_store == "npy" else ShardSaver)(job, journal)
        todo = [item for item in job.items if not saver.has(item)]
        counts = len(job.items), len(job.items) - len(todo), len(todo)
        log.info("%s: %d actions, %d done, %d to do", job.part, *counts)
        if todo:
            check_frames(job.frames, map(job.image, todo))
            how = {"device": job.device, "dtype": getattr(torch, job.dtype)}
            loaded = load(options.model_path, vision_tower=options.vision_tower, **how)
            describe_all(job, todo, loaded, saver)
        write_json(options.save_path / f"{job.part}.json", journal.published(job.items))


if __name__ == "__main__":
    cli.run(main)
