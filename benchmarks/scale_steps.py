"""One step of `benchmarks/scale.py`, in a process of its own: prints the seconds that its work took.

    python benchmarks/scale_steps.py STEP FOLDER

The folder is what `scale.py` made. Where a step is a whole command, its process's time counts, imports too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from egogen.annotations import Annotations
from egogen.layout import Layout
from egogen.text_names import TextNames

VAL = Path("EgoGen", "ego4d_val.json")
TABLE = "table.csv"
JOURNAL = Path("described", "shard_1_of_1.jsonl")
# Whole commands, whose processes' seconds count.
COMMANDS = ("sample", "sample_tars", "describe", "status", "prepare", "merge")


def annotations(root: Path) -> None:
    """Reads an annotation file."""
    Annotations.read(root / VAL)


def names(root: Path) -> float:
    """Names the text features of a split; reading it does not count."""
    items = Annotations.read(root / VAL).items
    began = time.perf_counter()
    TextNames(items, lambda action: action.image_0)
    return time.perf_counter() - began


def journal(root: Path) -> None:
    """Reads the journal of the descriptions."""
    from llava.describing.described import Descriptions

    Descriptions(root / JOURNAL)


def validate(root: Path) -> None:
    """Checks two splits; the frames are not decoded, which is the same work for each at any number."""
    from egogen.validate import frame_files, whole
    from egogen.validate.frame_files import Probe
    from egogen.validate.validate_options import ValidateOptions

    def stand_in(path: Path | str) -> Probe:
        return Probe((64, 48), hashlib.sha256(f"{path}".encode()).digest(), None)

    frame_files.probe = stand_in
    report = whole.validate(ValidateOptions(root=root, workers=2))
    print(report.text(), file=sys.stderr)


def validate_folders(root: Path) -> None:
    """The same where the actions of a clip share a folder."""
    validate(root)


def pairs(root: Path) -> None:
    """Pairs drawn frames with their targets, as `ldm.evaluate` does before it measures."""
    from ldm.metrics.frames.frame_pairs import read_pairs

    targets = Layout(root, "ego4d").metric_targets
    read_pairs(Annotations.read(root / VAL), root / "evaluated", targets)


def sample(root: Path, *more: str) -> None:
    """Draws the frames that are missing, by copying: the whole command."""
    from ldm.sample import main

    files = [f"data.root={root}", "data.dataset=ego4d", "data.text_key=action", "data.resolution=48"]
    config = Path(__file__).parents[1] / "configs" / "generate_ego4d.yaml"
    out = "packed" if "webdataset" in more else "drawn"
    main(["--config", str(config), "--method", "copy", "--out", str(root / out), *more, *files])


def sample_tars(root: Path, *more: str) -> None:
    """The same into tar files."""
    sample(root, "--out-format", "webdataset", *more)


def sample_first(root: Path) -> None:
    """Draws the first clip."""
    sample(root, *first_clip(root))


def sample_tars_first(root: Path) -> None:
    """Draws the first clip into a tar file."""
    sample_tars(root, *first_clip(root))


def first_clip(root: Path) -> list[str]:
    """The flags that leave but the first clip."""
    return ["--n_chunk", f"{len(json.loads((root / VAL).read_bytes()))}"]


def describe(root: Path) -> None:
    """Describes what is missing, by the toy LLaVA: the whole command, in stage 1's environment."""
    from llava.describe import main

    model = Path(__file__).parents[1] / "assets" / "toy" / "vllm"
    main(["--model-path", str(model), "--image-dir", str(Layout(root, "ego4d").frames("val")),
          "--action-label", str(root / VAL), "--save-path", str(root / "described"),
          "--save-image-feature-path", str(root / "features" / "llava_image"), "--save-text-feature-path",
          str(root / "features" / "llava_text"), "--max-new-tokens", "4", "--shard", "1/1"])  # fmt: skip


def merge(root: Path) -> None:
    """Joins four shards of descriptions with their annotations: the whole command."""
    from llava.merge import main

    main(["--save-path", str(root / "texts"), "--edits", str(root / VAL), "--out", str(root / "merged.json")])


def given(root: Path) -> None:
    """Reads and checks texts that are given, those of the annotation file itself."""
    from llava.describing.given_texts import check_texts, read_texts

    path = root / VAL
    check_texts(read_texts(path, Annotations.read(path).items, path), ["<s>", "</s>"], path)


def status(root: Path) -> None:
    """Says what a run in shards lacks: the whole command."""
    from egogen.status import main

    main([str(root / "status")])


def prepare(root: Path, *more: str) -> None:
    """Makes a data set of a table of pairs, whose frames are there but for some: the whole command."""
    from egogen.prepare.__main__ import main

    words = ["folder", "--pairs", str(root / TABLE), "--out", str(root / "made"), "--size", "48", *more]
    main([*words, "--workers", "1"])


def prepare_first(root: Path) -> None:
    """The frames of the first clip alone."""
    prepare(root, "--limit", "100")


STEPS: dict[str, Callable[[Path], float | None]] = {
    each.__name__: each
    for each in (
        annotations,
        names,
        journal,
        validate,
        validate_folders,
        pairs,
        sample,
        sample_tars,
        describe,
        merge,
        given,
        status,
        prepare,
    )
}
BEGINNINGS = {
    "sample_first": sample_first, "sample_tars_first": sample_tars_first, "describe_first": describe,
    "prepare_first": prepare_first,
}  # fmt: skip


def main(step: str, root: Path) -> None:
    """Runs a step; prints its seconds and its process's most memory, as JSON in the last line."""
    logging.basicConfig(level=logging.WARNING)
    began = time.perf_counter()
    own = None
    with suppress(SystemExit):  # `egogen.status` of a run that is not whole
        own = (STEPS | BEGINNINGS)[step](root)
    seconds = time.perf_counter() - began if own is None else own
    # Not by getrusage, which counts the parent's memory as it was when it began this process.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    gib = int(peak[1]) / 2**20 if peak else None
    print(json.dumps({"seconds": seconds, "cpu_seconds": time.process_time(), "peak_gib": gib}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
