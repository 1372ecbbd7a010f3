"""What makes a file that is missing: the command of the step before, by where the file would lie."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from unicodedata import normalize

from egogen.errors import UserError
from egogen.layout import EGOGEN, FEATURE_KINDS, FOLDERS, METRIC_TARGETS, data_root, run_root, weights_root

# Folder of published weights -> its name for `--what` (egogen.download).
WEIGHTS = {
    "LEGO-Ego4D": "lego-ego4d",
    "LEGO-EpicKitchens": "lego-epickitchens",
    "SD1.5-pretrained": "sd15",
    "llava-llama-2-13b-chat-lightning-preview": "llava",
    "openai": "clip",
}


def require(path: Path) -> Path:
    """Returns a path that is there.

    Raises:
        UserError: it is not; names what makes it.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder{hint(path)}")
    return path


def hint(path: Path) -> str:
    """The end of a message on a missing file: `; make it by COMMAND`, or nothing for a user's own file.

    Of a link to nothing it says that; and where a name is there in other bytes that look alike, which one.
    """
    with suppress(OSError):  # a name that no file has, or a folder that may not be entered
        if path.is_symlink():
            return f"; it is a link to {path.readlink()}, which is not there"
        if (other := twin(path)) is not None:
            return f"; {other} is there, which looks alike, but its accents are written otherwise (Unicode)"
    rules = (
        (run_root() / "toy", toy),
        (run_root(), of_run),
        (weights_root(), of_weights),
        (data_root() / EGOGEN, of_data),
        (Path("/"), anywhere),
    )
    for root, rule in rules:
        if path.absolute().is_relative_to(root.absolute()):
            command = rule(path.absolute().relative_to(root.absolute()).parts)
            return f"; make it by {command}" if command else ""
    return ""


def blocking(path: Path) -> Path | None:
    """The file that stands where a path has one of its folders."""
    with suppress(OSError):  # a name that no file has, or a folder that may not be entered
        return next((each for each in path.parents if each.exists() and not each.is_dir()), None)
    return None


def twin(path: Path) -> Path | None:
    """What lies where the first missing part of a path would, and has its name in another Unicode form.

    macOS and its archives take letters and accents apart.
    """
    missing = next((each for each in (*reversed(path.parents), path) if not each.exists()), path)
    name = normalize("NFC", missing.name)
    if name.isascii():
        return None
    return next((each for each in missing.parent.iterdir() if normalize("NFC", each.name) == name), None)


def toy(_: tuple[str, ...]) -> str:
    """What makes the toy world, its starting points and results."""
    return "bash scripts/demo.sh"


def of_run(parts: tuple[str, ...]) -> str:
    """What makes a result below `RUN_ROOT`."""
    match parts:
        case [dataset, "vllm", *_] if dataset in FOLDERS:
            return f"bash scripts/finetune_{dataset}.sh"
        case ["annotations", name, *_] if name.removesuffix(".json").rpartition("_")[0] in FOLDERS:
            dataset, _, split = name.removesuffix(".json").rpartition("_")
            return f"bash scripts/describe_{dataset}.sh {split}"
        case ["features", dataset, split, *_] if dataset in FOLDERS:
            return f"bash scripts/describe_{dataset}.sh {split}, or bash scripts/download_features.sh"
        case ["features"]:
            return "bash scripts/describe_ego4d.sh, or bash scripts/download_features.sh"
        case ["samples", *_]:
            return "python -m ldm.sample"
        case [*_, "checkpoints", _]:
            return "python main.py --train"
    return ""


def of_weights(parts: tuple[str, ...]) -> str:
    """What fetches published weights."""
    what = WEIGHTS.get(parts[0]) if parts else None
    return f"bash scripts/download_weights.sh{f' --what {what}' if what else ''}"


def of_data(parts: tuple[str, ...]) -> str:
    """What makes a data set, a frame of it, or the copy of a target that the metrics read."""
    if METRIC_TARGETS in parts:
        return "python -m egogen.validate --fix"
    return "bash scripts/download_dataset.sh, or python -m egogen.prepare"


def anywhere(parts: tuple[str, ...]) -> str:
    """What makes a file that lies where a user's own flag or setting says, by the names of its folders."""
    if EGOGEN in parts:
        return of_data(parts)
    if any(kind in parts for kind in FEATURE_KINDS):
        return "python -m llava.describe"
    return "python main.py --train" if parts[-2:-1] == ("checkpoints",) else ""
