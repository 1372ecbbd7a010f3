"""The first steps of a reproduction: what is downloaded, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator

from egogen.download.catalogue import CATALOGUE, MB, UNPACKED_SHARE
from ldm.reproduction.needs import WEIGHTS_13B, fetching
from ldm.reproduction.released import DIFFUSION, METRIC_WEIGHTS, VLLM
from ldm.reproduction.reproduce_options import CHECKPOINTS, FEATURES, FRAMES, ReproduceOptions
from ldm.reproduction.step import Step

# Bytes of what is taken of a repository of checkpoints.
PARTS = {f"{VLLM}/*": WEIGHTS_13B, DIFFUSION: 7_780 * MB}


def downloads(options: ReproduceOptions) -> Iterator[Step]:
    """All of them; each goes on where it stopped, and is nothing where its files are there."""
    weights, taken = options.released.weights, options.taken
    yield download("dataset", "frames, labels, published descriptions", "dataset")
    if taken == CHECKPOINTS and not options.vllm:
        yield download("stage-1", "the tuned LLaVA", "weights", weights, f"{VLLM}/*")
        yield download("clip", "CLIP, its eye", "weights", "clip")
    if taken == FEATURES:
        yield download("features", "stage 1's features", "features", options.dataset)
    if taken == FRAMES:
        yield download("start", "what both stages start from", "weights", "sd15,llava,clip")
    elif not options.ckpt:
        yield download("stage-2", "the tuned diffusion model", "weights", weights, DIFFUSION)
    names = dict.fromkeys(METRIC_WEIGHTS[name] for name in options.measured if name in METRIC_WEIGHTS)
    if names:
        yield download(options.measuring("weights"), "networks of metrics", "metrics", ",".join(names))


def download(name: str, why: str, group: str, what: str = "", only: str = "") -> Step:
    """A step that downloads, with the sizes of the catalogue.

    Args:
        name: of the step, behind `download-`.
        why: what it fetches.
        group: of the catalogue.
        what: names in it; empty for all of the group.
        only: which files of the repository.
    """
    known = CATALOGUE[group]
    names = what.split(",") if what else list(known.sources)
    size = PARTS[only] if only else sum(known.sources[each].size for each in names)
    room = size if known.contents == "weights" else round((UNPACKED_SHARE + 1) * size)
    flags = [*(("--what", what) if what else ()), *(("--only", only) if only else ())]
    words = ["bash", "scripts/download.sh", group, *flags]
    return Step(f"download-{name}", why, words, fetching(known.root(), size, room))
