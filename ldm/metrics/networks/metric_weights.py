"""The published weight files that metrics need: what they are, where they lie, strict loading."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from egogen.errors import UserError
from egogen.manifest import file_hash
from egogen.walks import walk_files
from ldm.checkpoints.safe_reading import read

FETCH = "bash scripts/download_metric_weights.sh"


class WeightFile(NamedTuple):
    """A file as it was published; its size is about right."""

    name: str
    size: str
    holds: str
    fetch: str = FETCH


EGOVLP = {
    "ego4d": WeightFile("egovlp.pth", "724 MB", "EgoVLP"),
    "epickitchen": WeightFile("epic_mir_plus.pth", "724 MB", "EgoVLP, tuned on EPIC-KITCHENS"),
}
VOCABULARY = WeightFile("vocab.txt", "232 kB", "words of DistilBERT and BLIP, from distilbert-base-uncased")
CLIP = WeightFile("ViT-L-14.pt", "933 MB", "OpenAI CLIP")
INCEPTION = WeightFile("pt_inception-2015-12-05-6726825d.pth", "96 MB", "Inception of FID")
LPIPS = {
    "squeeze": WeightFile("squeezenet1_1-b8a52dc0.pth", "5 MB", "SqueezeNet of LPIPS"),
    "vgg": WeightFile("vgg16-397923af.pth", "553 MB", "VGG of LPIPS"),
    "alex": WeightFile("alexnet-owt-7be5be79.pth", "244 MB", "AlexNet of LPIPS"),
}
BLIP = {
    "base": WeightFile("model_base_caption_capfilt_large.pth", "896 MB", "BLIP-B"),
    "large": WeightFile("model_large_caption.pth", "1.9 GB", "BLIP-L"),
}
TOY_CLASSIFIER = WeightFile(
    "toy_classifier.safetensors", "2 MB", "classifier of toy frames", "python -m ldm.toy.classifier"
)


def locate(root: Path, file: WeightFile) -> Path | None:
    """Finds a file anywhere below a folder; None where it is not.

    Raises:
        UserError: two different files have its name.
    """
    found = sorted({path.resolve() for path in walk_files(root, file.name)})
    if len({file_hash(path) for path in found} if len(found) > 1 else found) > 1:
        raise UserError(
            f"{found[0]} and {found[1]} have one name but differ; keep the right one below {root}"
        )
    return found[0] if found else None


def locate_all(root: Path, files: Iterable[WeightFile]) -> dict[str, Path]:
    """Finds files, by name.

    Raises:
        UserError: some are missing; names all of them, their sizes and the command that fetches them.
    """
    wanted = list(dict.fromkeys(files))
    found = {file.name: locate(root, file) for file in wanted}
    missing = [file for file in wanted if found[file.name] is None]
    if missing:
        commands = " and ".join(sorted({file.fetch for file in missing}))
        listed = ", ".join(f"{file.name} ({file.size}: {file.holds})" for file in missing)
        raise UserError(
            f"{root}: {len(missing)} weight file{'s' * (len(missing) > 1)} missing: {listed}; get them by "
            f"{commands}, name their folder by WEIGHTS_ROOT or --weights, or choose metrics that need none "
            "by --metrics psnr,ssim"
        )
    return {name: path for name, path in found.items() if path is not None}


def sha256(path: Path) -> str:
    """SHA-256 of a file; one that has not changed is read once."""
    state = path.stat()
    return known_hash(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache
def known_hash(path: Path, _size: int, _modified: int) -> str:
    """SHA-256 of a file in a known state."""
    return file_hash(path)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name; below `state_dict` or `model` where it holds more than them.

    Raises:
        UserError: it is broken, holds more than tensors and plain data, or no tensors.
    """
    content = read(path)["state_dict"]
    content = content["model"] if isinstance(content.get("model"), dict) else content
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{path}: holds no weights; fetch it again by {FETCH}")
    return state


def load_strictly(
    module: nn.Module,
    state: Mapping[str, Tensor],
    path: Path,
    what: str,
    surplus: Callable[[str], bool] = lambda _: False,
) -> None:
    """Loads a file's weights if their names, but for what is `surplus`, and shapes are those of the network.

    Raises:
        UserError: names are missing or too many, or a shape differs.
    """
    own = module.state_dict()
    shapes = {name: value.shape for name, value in own.items()}
    given = {name: value for name, value in state.items() if not surplus(name)}
    faults = [
        f"{len(names)} {fault} (such as {sorted(names)[0]!r})"
        for fault, names in (
            ("missing", own.keys() - given.keys()),
            ("unknown", given.keys() - own.keys()),
            (
                "of another type",
                {
                    name
                    for name in own.keys() & given
                    if own[name].is_floating_point() != given[name].is_floating_point()
                },
            ),
            ("of another shape", {name for name in own.keys() & given if shapes[name] != given[name].shape}),
        )
        if names
    ]  # fmt: skip
    if faults:
        raise UserError(
            f"{path}: not the weights of {what}: of {len(own)} tensors {', '.join(faults)}; "
            f"fetch it again by {FETCH}"
        )
    module.load_state_dict(given)


def require(state: Mapping[str, Tensor], names: Iterable[str], path: Path, what: str) -> None:
    """Raises a `UserError` unless a file has the tensors that the network's sizes are read off."""
    for name in names:
        if name not in state:
            raise UserError(
                f"{path}: not the weights of {what}: there is no {name!r}; fetch it again by {FETCH}"
            )
