"""Asks people which system's frame shows an action best: the paper's user study as a local page.

Each person sees the frame before, the action, and the frames of all systems without names, in an order of
their own. Every answer is on disk before the page goes on; the same command goes on later. What came out:
`python -m ldm.report RUN ... --study <out>/answers.csv`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.layout import run_root
from egogen.seeds import read_seed

log = logging.getLogger(__name__)
ANSWERS = "answers.csv"


@dataclass(frozen=True)
class StudyOptions:
    """The systems, the items, and where the page and the answers are."""

    runs: list[Path] = flag(
        "a folder with images/, as ldm.sample makes it", positional=True, nargs="+", type=Path, metavar="RUN"
    )
    annotations: Path = flag("annotation file of the split", type=Path, required=True)
    frames: Path = flag("split folder that its image paths are relative to", type=Path, required=True)
    items: int = flag("how many actions are shown, the same of all systems", type=int, default=60)
    name: list[str] | None = flag("the systems' names [the folders']", nargs="+")
    out: Path = flag(f"folder of {ANSWERS} [RUN_ROOT/study]", type=Path, default=lambda: run_root() / "study")
    seed: int = flag("of the choice of items and of all orders", type=read_seed, default=0)
    title: str = flag("heading of the page", default="Which frame shows the action best?")
    host: str = flag("address to listen on; 0.0.0.0 lets others on the network in", default="127.0.0.1")
    port: int = flag("port to listen on; 0 takes a free one", type=int, default=8417)

    def __post_init__(self) -> None:
        for run in self.runs:
            if not run.is_dir():
                raise UserError(f"{run}: no such run; draw it by python -m ldm.sample --out {run}")
        if len(self.names) != len(self.runs):
            raise UserError(
                f"--name: found {len(self.names)} names for {len(self.runs)} runs; give one for each"
            )
        for name in self.names:
            if self.names.count(name) > 1:
                raise UserError(f"the name {name!r} is that of two systems; name them apart by --name")
            if not name.isprintable() or not name.strip():
                raise UserError(f"--name {name!r}: expected letters that can be read")

    @property
    def names(self) -> list[str]:
        """The systems' names."""
        return list(self.name or (run.absolute().name for run in self.runs))


def main(argv: Sequence[str] | None = None) -> None:
    """Checks every picture, then serves the page until it is ended."""
    options = cli.options(StudyOptions, argv, "python -m ldm.study", __doc__)
    from egogen.annotations import Annotations
    from egogen.locks import hold
    from egogen.manifest import claim
    from ldm.study.answers import AnswerBook
    from ldm.study.server import Study, StudyServer
    from ldm.study.survey import make_survey

    runs = dict(zip(options.names, options.runs, strict=True))
    labels = Annotations.read(options.annotations)
    survey = make_survey(runs, labels, options.frames, options.items, options.seed)
    with hold(options.out, "a study"):
        claim(options.out, survey.settings)
        book = AnswerBook(options.out / ANSWERS)
        with StudyServer(Study(survey, book, options.title), options.host, options.port) as server:
            log.info("%d items of %d systems; answers go to %s", options.items, len(runs), book.path)
            log.info("open %s in a browser; Ctrl-C ends the study", server.address)
            server.serve_forever()


if __name__ == "__main__":
    cli.run(main)
