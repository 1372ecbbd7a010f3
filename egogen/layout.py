"""Every path rule of the project. Nothing else joins path parts of a data set or a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from egogen.errors import UserError, shorten
from egogen.walks import shown

DESCRIPTION_KEY = "llava_forecast_finetune"  # of an action, in annotation files
Split = Literal["train", "val"]
FeatureKind = Literal["llava_image", "llava_text"]
FEATURE_KINDS = get_args(FeatureKind)
FrameFormat = Literal["jpg", "png"]  # of drawn frames
FRAME_FORMATS: tuple[FrameFormat, ...] = get_args(FrameFormat)
OutFormat = Literal["files", "webdataset"]  # of drawn frames: a file each, or many in a tar file
OUT_FORMATS: tuple[OutFormat, ...] = get_args(OutFormat)

EGOGEN = "EgoGen"  # folder of all data sets
# Name of a data set -> its folder inside it.
FOLDERS = {"ego4d": "ego4d.fho", "epickitchen": "epickitchen"}
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, of Linux
METRIC_TARGETS = "val_gt_for_metric"


def expanded(path: str | Path) -> Path:
    """A path that may begin with `~` or `~user`, which shells leave in `--flag=~/x`, YAML and quotes.

    Raises:
        UserError: there is no such home, or no file system has such a name.
    """
    try:
        made = Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such home folder; write the whole path") from None
    if not is_possible(made):
        raise UserError(
            f"{shorten(f'{path}')}: no file can be called that; a name has at most {LONGEST_NAME} bytes, a "
            f"path {LONGEST_PATH}, none of them zero"
        )
    return made


def is_possible(path: Path) -> bool:
    """Whether a file system can have a file of that name."""
    sizes = [len(part.encode(errors="replace")) for part in (*path.parts, f"{path}")]
    return sizes[-1] <= LONGEST_PATH and max(sizes[:-1], default=0) <= LONGEST_NAME and "\0" not in f"{path}"


def data_root() -> Path:
    """The folder that holds EgoGen/: `DATA_ROOT`, by default `data`."""
    return expanded(os.environ.get("DATA_ROOT") or "data")


def run_root() -> Path:
    """Where results go: `RUN_ROOT`, by default `runs`."""
    return expanded(os.environ.get("RUN_ROOT") or "runs")


def weights_root() -> Path:
    """Where the published weights of other people's networks lie: `WEIGHTS_ROOT`, by default `weights`."""
    return expanded(os.environ.get("WEIGHTS_ROOT") or "weights")


def tuned_vllm(dataset: str) -> Path:
    """Where `scripts/finetune.sh` leaves the tuned VLLM."""
    return run_root() / dataset / "vllm"


def descriptions(dataset: str, split: Split) -> Path:
    """Where `scripts/describe.sh` writes the descriptions of each of its processes."""
    return run_root() / dataset / "descriptions" / split


def merged_annotations(dataset: str, split: Split) -> Path:
    """Where `scripts/describe.sh` writes the annotations with its descriptions."""
    return run_root() / "annotations" / f"{dataset}_{split}.json"


def run_features() -> Path:
    """The root of the features that `scripts/describe.sh` writes, or that were downloaded."""
    return run_root() / "features"


@dataclass(frozen=True)
class Layout:
    """The paths of one data set in the official EgoGen layout.

    Args:
        root: the folder that holds `EgoGen/`.
        dataset: `ego4d` or `epickitchen`.

    Raises:
        UserError: the data set has another name.
    """

    root: Path
    dataset: str

    def __post_init__(self) -> None:
        if self.dataset not in FOLDERS:
            raise UserError(f"data set {self.dataset!r}: allowed are {', '.join(FOLDERS)}")

    @property
    def egogen(self) -> Path:
        """The EgoGen folder."""
        return self.root / EGOGEN

    @property
    def folder(self) -> Path:
        """The folder of all frames."""
        return self.egogen / FOLDERS[self.dataset]

    def frames(self, split: Split) -> Path:
        """Folder that `image_0` and `image_1` are relative to."""
        return self.folder / split

    @property
    def metric_targets(self) -> Path:
        """Folder with the target frames of the val split alone, for the metrics."""
        return self.folder / METRIC_TARGETS

    @property
    def metric_extras(self) -> Path:
        """Where files go that were among the metric targets without being any."""
        return self.folder / f"{METRIC_TARGETS}.extra"

    def pair_files(self, split: Split, image_0: str, image_1: str) -> list[Path]:
        """Files of a pair's input, of its target and, in the val split, of the target for the metrics."""
        files = [self.frames(split) / image_0, self.frames(split) / image_1]
        return files if split == "train" else [*files, metric_target_path(self.metric_targets, image_1)]

    def annotations(self, split: Split) -> Path:
        """Annotation file of a split."""
        return self.egogen / f"{self.dataset}_{split}.json"

    @property
    def metadata(self) -> Path:
        """Metadata file: size, frame rate and boxes by clip."""
        return self.egogen / f"{self.dataset}_metadata.json"

    @property
    def preparation(self) -> Path:
        """What `python -m egogen.prepare` keeps beside the data: settings, journals, manifests, reports."""
        return self.egogen / "prepare"

    @property
    def conversations(self) -> Path:
        """Curated conversations that stage 1 is tuned on."""
        return self.egogen / "curation_from_gpt" / f"{self.dataset}_for_tuning_forecasting.json"


def check_outside(flag: str, path: Path, root: Path) -> None:
    """Raises a `UserError` if what a flag names, to be written, lies within the data of a root."""
    data = (root / EGOGEN).resolve()
    if data in (place := path.resolve(), *place.parents):
        raise UserError(f"{flag} {path}: lies in {data}, which holds the data; name a place elsewhere")


def image_name(clip: str, action_id: str, number: int) -> str:
    """A frame relative to its split folder; within an action, frames sort as their numbers do."""
    return f"{clip}/{action_id}/frame_{number:010d}.jpg"


def features_root(root: Path, dataset: str, split: str, kind: FeatureKind) -> Path:
    """Folder of one kind of stage-1 features below a features root."""
    return root / dataset / split / kind


def tar_folder(root: Path, dataset: str, split: str) -> Path:
    """Folder of a split's packed frames below the folder that `python -m egogen.pack` was given."""
    return root / dataset / split


def sample_index(folder: Path, dataset: str, split: str) -> Path:
    """The list of a split's WebDataset shards, beside them."""
    return folder / f"{dataset}-{split}.index.json"


def feature_folders(root: Path) -> list[tuple[Path, FeatureKind]]:
    """The folders of features at or below a features root, relative to it, with their kinds."""
    if root.name in FEATURE_KINDS:
        return [(Path(), root.name)]  # type: ignore[list-item]
    found = [
        (path.relative_to(root), kind)
        for kind in FEATURE_KINDS
        for above in ("", "*/", "*/*/")
        for path in root.glob(f"{above}{kind}")
        if path.is_dir()
    ]
    return sorted(found)


def shard_path(folder: Path, part: str, number: int) -> Path:
    """A shard of features; `part` names whose it is where several processes write."""
    return folder / f"{part}-{number:05d}.safetensors"


def shard_paths(folder: Path) -> list[Path]:
    """All shards of a folder of features, in order."""
    return shown(folder.glob(f"*-{'[0-9]' * 5}.safetensors"))


def projector_path(folder: Path) -> Path:
    """The projector of a folder of image features that keeps it once."""
    return folder / "projector.safetensors"


def clip_folder(folder: Path) -> Path:
    """CLIP, in a folder of image features that are computed online."""
    return folder / "clip"


def is_plain(path: str) -> bool:
    """Whether a relative path is written as `PurePosixPath` would write it, and no part begins with a dot.

    Nearly all are: of these, texts alone give what paths would, ten times as fast. A split has millions.
    """
    return (
        bool(path) and path[0] not in "/." and path[-1] not in "/." and "//" not in path and "/." not in path
    )


def normal(path: str) -> str:
    """A path as `PurePosixPath` would write it."""
    return path if is_plain(path) else str(PurePosixPath(path))


def without_suffix(path: str) -> str:
    """A file's path without its ending: `a/b/x.jpg` -> `a/b/x`."""
    if not is_plain(path):
        return str(PurePosixPath(path).with_suffix(""))
    return plain_stem(path)


def plain_stem(path: str) -> str:
    """The same of a path that `is_plain`."""
    stem, _, ending = path.rpartition(".")
    return path if "/" in ending or not stem else stem


def feature_name(image: str) -> str:
    """Name of an image's feature: `a/b/x.jpg` -> `a/b/x.npy` (the suffix replaced, nothing else)."""
    return f"{without_suffix(image)}.npy"


def published_feature_name(image: str) -> str:
    """The published code's name for it: every "jpg" became "npy", else ".npy" was added (F-S1-01)."""
    name = image.replace("jpg", "npy")
    return name if name.endswith(".npy") else f"{name}.npy"


def find_feature_name(image: str, has: Callable[[str], bool]) -> str:
    """The name of an image's feature by our rule or, where only that is there, by the published one.

    Args:
        image: the frame, relative to the split folder.
        has: whether a feature of a name is there.
    """
    ours, published = feature_name(image), published_feature_name(image)
    return published if not has(ours) and has(published) else ours


def find_text_feature_name(name: str, image: str, has: Callable[[str], bool]) -> str:
    """The name of an action's text feature: its own, else that of its frame's first action (published).

    Args:
        name: the action's name by `egogen.text_names.TextNames`.
        image: its frame.
        has: whether a feature of a name is there.
    """
    own, shared = find_feature_name(name, has), find_feature_name(image, has)
    return shared if not has(own) and has(shared) else own


def feature_path(root: Path, image: str) -> Path:
    """Feature file of an image, by our rule."""
    return root / feature_name(image)


def find_feature(root: Path, image: str) -> Path:
    """The feature file of an image by our rule or, where only that exists, by the published one.

    Returns:
        An existing path, or the path of our rule if there is neither.
    """
    return root / find_feature_name(image, lambda name: (root / name).exists())


def find_text_feature(root: Path, name: str, image: str) -> Path:
    """The text feature file of an action: its own, else that of its frame's first action (published)."""
    return root / find_text_feature_name(name, image, lambda found: (root / found).exists())


def target_name(image_1: str) -> str:
    """What a target frame is called in results: the last three parts of its path, clip/action/frame."""
    path = normal(image_1)
    return path if path.count("/") < 3 else "/".join(path.split("/")[-3:])


def target_stem(image_1: str) -> str:
    """The same without its ending."""
    if is_plain(image_1) and image_1.count("/") < 3:
        return plain_stem(image_1)
    return without_suffix(target_name(image_1))


def generated_path(root: Path, image_1: str, form: FrameFormat = "jpg") -> Path:
    """Generated frame of a target below `<root>/images`, in a format."""
    return root / "images" / generated_name(target_name(image_1), form)


def generated_name(frame: str, form: FrameFormat) -> str:
    """A frame's name in a format: `jpg` is its own name, as published, whatever that ends in."""
    return frame if form == "jpg" else f"{without_suffix(frame)}.{form}"


def generated_names(frame: str) -> list[str]:
    """The names that a frame may have, by the format that it was drawn in; its own name first."""
    return list(dict.fromkeys(generated_name(frame, form) for form in FRAME_FORMATS))


def frame_tar(folder: Path, part: str, number: int) -> Path:
    """A tar file of drawn frames; `part` names whose it is where several processes draw."""
    return folder / f"frames-{part or 'all'}-{number:05d}.tar"


def frame_tars(folder: Path) -> list[Path]:
    """All tar files of drawn frames of a folder, in order."""
    return sorted(folder.glob(f"frames-*-{'[0-9]' * 5}.tar"))


def tar_index(tar: Path) -> Path:
    """Where the frames of such a file lie in it."""
    return tar.with_suffix(".index.json")


def find_frame(folder: Path, frame: str) -> Path:
    """The file of a frame in a folder, by its own name or, if only that is there, by that of a drawn one.

    Returns:
        An existing path, or the frame's own if there is none.
    """
    paths = [folder / name for name in generated_names(frame)]
    return next((path for path in paths if path.is_file()), paths[0])


def metric_target_path(root: Path, image_1: str) -> Path:
    """Target frame of an action below a `val_gt_for_metric` folder."""
    return root / target_name(image_1)
