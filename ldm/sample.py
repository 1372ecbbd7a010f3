"""Draws the val split's action frames: config and checkpoint in, `<out>/images/<clip>/<action>/<frame>` out.

A second run continues; a run with another checkpoint or other settings refuses the folder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.hints import hint
from egogen.layout import OUT_FORMATS, OutFormat, run_root
from egogen.shards import SHARD, Shard, parse_auto, parse_shard, process
from ldm.baselines.hub_name import hub_name
from ldm.networks.devices import HELP, find_device
from ldm.sampling.method_names import COPY, METHODS, PIPELINE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleOptions:
    """The reference's flags, and ours."""

    config: list[str] = flag(
        "a configs/generate_*.yaml, and files to lay over it, such as configs/methods/*.yaml",
        nargs="+", required=True, metavar="YAML",
    )  # fmt: skip
    ckpt: Path | None = flag(
        "checkpoint of the model, a file or a diffusers folder (not for --method copy); of --method pipeline "
        "a diffusers folder, or its id on the hub", type=Path,
    )  # fmt: skip
    method: str = flag("what draws; copy is the source frame itself", choices=METHODS, default=METHODS[0])
    pipeline_args: str | None = flag(
        "of --method pipeline: what its call is given besides frame and text, as YAML or a file of it",
        metavar="YAML",
    )
    out: Path | None = flag("folder of the run [RUN_ROOT/samples/<config>[_<method>]]", type=Path)
    out_format: OutFormat = flag(
        "files: a file a frame; webdataset: tar files of up to 1,000, for file systems that are slow "
        "with many small files", choices=OUT_FORMATS, default="files",
    )  # fmt: skip
    n_chunk: int = flag("published split: how many chunks", spelled=("--n_chunk",), type=int, default=1)
    chunk_idx: int = flag(
        "published split: which chunk, from 1", spelled=("--chunk_idx",), type=int, default=1
    )
    shard: str | None = flag(SHARD, metavar="I/N|auto")
    batch_size: int | None = flag("frames at a time [sampling.batch_size]", type=int)
    device: str = flag(f"{HELP}; several processes take a GPU each", default="auto")
    no_ema: bool = flag("use the last weights, not their moving average", action="store_true")
    overrides: list[str] = flag(
        "settings, after the file", positional=True, nargs="*", default=[], metavar="key=value"
    )

    def __post_init__(self) -> None:
        if (self.ckpt is None) != (self.method == COPY):
            raise UserError(f"--ckpt: {'not used by' if self.ckpt else 'needed for'} --method {self.method}")
        if parse_auto(self.shard) is not None and self.n_chunk > 1:
            raise UserError("--shard auto: not with --n_chunk; its shards are of the whole split")
        if self.method == PIPELINE and self.ckpt and self.ckpt.is_file():
            raise UserError(
                f"{self.ckpt}: is a file; --method pipeline takes a diffusers folder, or an id on the hub"
            )
        if self.pipeline_args is not None and self.method != PIPELINE:
            raise UserError(f"--pipeline-args: not used by --method {self.method}")
        if self.ckpt and not self.ckpt.exists() and not (self.method == PIPELINE and hub_name(self.ckpt)):
            raise UserError(f"{self.ckpt}: no such checkpoint file or folder{hint(self.ckpt)}")

    @property
    def chunk(self) -> Shard:
        """The published split's part."""
        return Shard(self.chunk_idx, self.n_chunk)

    @property
    def words(self) -> list[str]:
        """YAML files and settings, those of flags among them."""
        from ldm.config.merge import flag_word

        words = [*self.config, *self.overrides]
        if self.batch_size is not None:
            words.append(flag_word("--batch-size", "sampling.batch_size", self.batch_size, words))
        if self.pipeline_args is not None:
            from egogen.files import read_yaml

            path = Path(self.pipeline_args)
            is_file = path.suffix in (".json", ".yaml", ".yml")
            words.append(
                f"pipeline.arguments={json.dumps(read_yaml(path)) if is_file else self.pipeline_args}"
            )
        return words

    @property
    def folder(self) -> Path:
        """Where the frames go."""
        from ldm.config.merge import split_words

        name = split_words(self.config)[0][0].stem
        return self.out or run_root() / "samples" / (
            name if self.method == "lego" else f"{name}_{self.method}"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, checks, draws what is not there yet."""
    options = cli.options(SampleOptions, argv, "python -m ldm.sample", __doc__)
    from ldm.sampling.drawing_config import read_config

    config = read_config(options.words, options.method, options.ckpt)
    from egogen.locks import hold
    from egogen.shard_claims import Claims, Work
    from egogen.unfinished import sweep
    from ldm.data.pairs import SplitFiles
    from ldm.sampling.drawing_job import Share, check_inputs, make_jobs
    from ldm.sampling.drawing_loop import draw_jobs, load_drawer
    from ldm.sampling.drawing_plan import DrawingPlan
    from ldm.sampling.frame_output import JOURNALS

    device = find_device(options.device, process().local_rank)
    width = config.model.shape.llm_width if config.model.vllm_features else None
    files = SplitFiles(config.data, "val", width, config.features.store, config.model.streams)
    ckpt = options.ckpt
    if ckpt and options.method == PIPELINE:
        from ldm.baselines.pipeline_index import local_folder

        ckpt = local_folder(ckpt)
    plan = DrawingPlan(options.method, config, ckpt, not options.no_ema, device)
    jobs = make_jobs(options.folder, plan, files, options.out_format)
    drawer = cache(partial(load_drawer, plan))

    def draw(share: Share, claim: AbstractContextManager[Work]) -> None:
        with ExitStack() as held:
            for job in jobs:
                held.enter_context(hold(job.out, "drawing", share.name, deep=False))
            told = held.enter_context(claim)
            total = sum([job.take(share) for job in jobs])
            left = sum(len(job.items) for job in jobs)
            log.info("%d frames, %d of them are there already", total, total - left)
            told.begin(total, total - left)
            if left:
                check_inputs(jobs, plan, files)
                draw_jobs(jobs, drawer(), files, device, told.advance)

    if (count := parse_auto(options.shard)) is not None:
        shards = Claims(options.folder, count, together=True)
        shards.take(lambda told: draw(Share(options.chunk, told.shard, claimed=True), nullcontext(told)))
    else:
        share = Share(options.chunk, None if options.shard is None else parse_shard(options.shard))
        draw(share, Claims(options.folder, share.whole.total).own(share.whole))
    for job in jobs:
        sweep([job.out], job.out / JOURNALS)


if __name__ == "__main__":
    cli.run(main)
