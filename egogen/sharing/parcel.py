"""What of a folder is sent to the hub: whole models and exported data, no secrets, no state of a training."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal

from egogen import told_command
from egogen.annotations import check_object, validate
from egogen.disk import readable
from egogen.errors import UserError
from egogen.files import read_json
from egogen.layout import FOLDERS, Layout, sample_index
from egogen.manifest import OF_TRAINING
from egogen.published import SPLITS
from egogen.sample_shards import ShardIndex, check_size
from egogen.sharing.model_card import CARD
from egogen.sharing.results import FOUND
from egogen.walks import walk

RepoType = Literal["model", "dataset"]
PIPELINE, MODEL, ADAPTERS = "model_index.json", "config.json", "adapter_config.json"
# By these names alone files are sent: notes and the settings of other programs may lie beside them.
NETWORK = (
    *(
        f"{stem}{rest}"
        for stem in ("model", "diffusion_pytorch_model", "adapter_model")
        for rest in (
            ".safetensors", "[.-]*.safetensors", ".safetensors.index.json", ".safetensors.index.*.json",
        )
    ),
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "scheduler_config.json", "tokenizer_config.json", "tokenizer.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
CODE = "pipeline.py"  # the one file of code that our folders have
CONDITIONER = "conditioner"  # beside a stock pipeline, whose index does not know it
# Never sent, wherever they lie; a folder that has them is refused.
STATES = (
    "optimizer*", "scheduler.pt", "rng_state*", "scaler.pt", "*_optim_states.pt", "*_model_states.pt",
    "zero_to_fp32.py",
)  # fmt: skip
PICKLES = ("*.bin", "*.ckpt", "*.pickle", "*.pkl", "*.pt", "*.pth")
SECRET_NAMES = (
    ".env*", ".netrc", ".git-credentials", ".pypirc", "*.key", "*.pem", "*.p12", "id_*sa", "id_ed25519*",
    "*credential*", "*secret*", "token", "token.*", "*.token",
)  # fmt: skip
SECRETS = re.compile(told_command.SECRETS.pattern.encode() + rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----")
TEXTS = (".jinja", ".json", ".md", ".py", ".txt", ".yaml", ".yml")
PART = re.compile(r"(data/.+)-\d{5}-of-(\d{5})\.parquet")


@dataclass(frozen=True)
class Piece:
    """A file that is sent: its name in the repository, where it is, and how large."""

    name: str
    path: Path
    size: int


@dataclass(frozen=True)
class Parcel:
    """What is sent of a folder, what stays, and to which type of repository it goes."""

    folder: Path
    repo_type: RepoType
    pieces: Sequence[Piece]
    kept: Sequence[str]

    def listing(self) -> str:
        """Files and sizes, for people."""
        lines = [f"{readable(piece.size):>10}  {piece.name}" for piece in self.pieces]
        kept = [f"{'stays':>10}  {name}" for name in self.kept]
        total = readable(sum(piece.size for piece in self.pieces))
        return "\n".join([*lines, *kept, f"{len(self.pieces)} files, {total}: a {self.repo_type}"]) + "\n"


def pack(folder: Path, secret: str | None = None) -> Parcel:
    """Looks through a folder and decides of every file.

    Args:
        folder: a model of either stage as this project saves it, or data that `egogen.prepare` exported.
        secret: a text that no file may hold: the user's own token.

    Raises:
        UserError: it is no such folder, is not whole, has no card, or holds what must not be sent: a secret,
            state of a training, pickles, a link that leads out of it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that was saved or exported")
    repo_type, patterns = kind_of(folder)
    pieces, kept = [], []
    for name in names_in(folder):
        if not wanted(folder, name, patterns):
            kept.append(name)
            continue
        path = folder / name
        check_content(path, secret)
        pieces.append(Piece(name, path, path.stat().st_size))
    check_whole(folder, {piece.name for piece in pieces})
    return Parcel(folder, repo_type, pieces, kept)


def kind_of(folder: Path) -> tuple[RepoType, Sequence[str]]:
    """The type of repository that a folder belongs to, and which of its files do.

    Raises:
        UserError: it is neither a model nor exported data.
    """
    if (folder / PIPELINE).is_file():
        parts = [*parts_of(folder), CONDITIONER]
        return "model", (
            PIPELINE,
            CODE,
            CARD,
            FOUND,
            *(f"{part}/{name}" for part in parts for name in NETWORK),
        )
    if any((folder / name).is_file() for name in (MODEL, ADAPTERS)):
        return "model", (*NETWORK, ADAPTERS, CARD, FOUND)
    if any(folder.glob("data/*.parquet")) or any(folder.glob("*.index.json")):
        return "dataset", (*(name for each in FOLDERS for name in data_files(folder, each)), CARD)
    raise UserError(
        f"{folder}: neither a model ({PIPELINE}, {MODEL} or {ADAPTERS}) nor exported data; python -m "
        "ldm.convert and python -m llava.convert make the first, python -m egogen.prepare to-parquet or "
        "to-webdataset the second"
    )


def parts_of(folder: Path) -> list[str]:
    """The folders that a pipeline's index names."""
    found = check_object(read_json(folder / PIPELINE), f"{folder / PIPELINE}", "parts by name")
    return [name for name, part in found.items() if isinstance(part, list) and part and part[0] is not None]


def data_files(folder: Path, dataset: str) -> Iterator[str]:
    """What the exports of a data set are called; of tar files those that its lists name."""
    layout = Layout(Path(), dataset)
    yield layout.metadata.as_posix()
    for split in SPLITS:
        yield layout.annotations(split).as_posix()
        yield f"data/{dataset}-{split}-*.parquet"
        yield f"{dataset}-{split}.manifest.json"
        if (path := sample_index(folder, dataset, split)).is_file():
            yield path.name
            yield from (shard.file for shard in validate(ShardIndex, read_json(path), f"{path}").shards)


def names_in(folder: Path) -> Iterator[str]:
    """All files below a folder, in order; what is hidden or an intermediate checkpoint is told as a whole.

    Raises:
        UserError: a link leads out of the folder or to nothing, or a part of a file is there.
    """
    for listing in walk(folder):
        place = listing.folder.relative_to(folder)
        for name in [*listing.folders, *listing.files, *listing.lost]:
            check_name(folder, PurePosixPath(place.as_posix(), name))
        for name in list(listing.folders):
            if name.startswith(".") or re.fullmatch(r"checkpoint-\d+", name):
                listing.folders.remove(name)
                yield f"{(place / name).as_posix()}/"
        yield from ((place / name).as_posix() for name in listing.files)


def check_name(folder: Path, name: PurePosixPath) -> None:
    """Refuses what must not be sent by its name alone.

    Raises:
        UserError: see `pack`.
    """
    path = folder / name
    if path.is_symlink():
        goal = path.readlink()
        if goal.is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path}: is a link out of the folder, to {goal}; copy the file there instead")
        if not path.exists():
            raise UserError(f"{path}: is a link to nothing; delete it")
    if matches(name.name, ("*.part",)):
        raise UserError(f"{path}: is not finished; let its command end, or delete it")
    if matches(name.name, SECRET_NAMES):
        raise UserError(f"{path}: looks like a secret by its name; move it out of the folder")
    if matches(name.name, STATES) and not path.is_dir():
        raise UserError(
            f"{path}: is the state of a training, which nobody needs who draws with it; move it out, or "
            "publish a folder that python -m ldm.convert or python -m llava.convert wrote"
        )


def wanted(folder: Path, name: str, patterns: Sequence[str]) -> bool:
    """Whether a file is sent.

    Raises:
        UserError: it holds weights in a form that executes code when it is opened.
    """
    base = PurePosixPath(name).name
    if name.endswith("/") or base in OF_TRAINING - {"generation_config.json"} or base.startswith("."):
        return False
    if matches(base, PICKLES):
        raise UserError(
            f"{folder / name}: is a pickle, which may execute code where it is opened; python -m ldm.convert "
            "and python -m llava.convert llava2hf write safetensors"
        )
    return any(fits(name, pattern) for pattern in patterns)


def fits(name: str, pattern: str) -> bool:
    """Whether a path is described by a pattern of as many parts."""
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of those, in any case."""
    return any(fnmatchcase(name.lower(), pattern) for pattern in patterns)


def check_content(path: Path, secret: str | None) -> None:
    """Raises a `UserError` if a file of text holds what looks like a secret; it is not shown."""
    if path.suffix not in TEXTS:
        return
    content = path.read_bytes()
    found = SECRETS.search(content)
    at = found.start() if found else content.find(secret.encode()) if secret else -1
    if at >= 0:
        line = content.count(b"\n", 0, at) + 1
        raise UserError(f"{path}: line {line} holds what looks like a token or a key; take it out")


def check_whole(folder: Path, names: set[str]) -> None:
    """Raises a `UserError` if something is missing without which a folder is of no use."""
    if CARD not in names:
        raise UserError(
            f"{folder}: has no {CARD}; save or export it again, which writes one, or write your own"
        )
    if (folder / "run.json").exists() and not (folder / "complete.json").exists():
        raise UserError(f"{folder}: its training has not ended; let it end, or resume it")
    for missing in (*missing_parts(folder, names), *missing_data(folder, names)):
        raise UserError(f"{folder / missing}: missing; the folder is not whole, save or export it again")


def missing_parts(folder: Path, names: set[str]) -> Iterator[str]:
    """Weights that a model's own files name and that are not there."""
    if (folder / PIPELINE).is_file():
        folders = {name.partition("/")[0] for name in names}
        yield from (name for name in parts_of(folder) if name not in folders)
    elif kind_of(folder)[0] == "model" and not any(fnmatchcase(name, "*.safetensors") for name in names):
        yield "model.safetensors"
    for index in [name for name in names if name.endswith(".safetensors.index.json")]:
        where = folder / index
        listed = check_object(read_json(where), index, "named fields").get("weight_map", {})
        for file in sorted({*check_object(listed, index, "files by tensor").values()}):
            if (PurePosixPath(index).parent / file).as_posix() not in names:
                yield (PurePosixPath(index).parent / file).as_posix()


def missing_data(folder: Path, names: set[str]) -> Iterator[str]:
    """Files of an export that are not there, by the names of the others or by its list."""
    for stem, count in sorted({found.groups() for name in names if (found := PART.fullmatch(name))}):
        every = (f"{stem}-{number:05d}-of-{count}.parquet" for number in range(int(count)))
        yield from (name for name in every if name not in names)
    for dataset in FOLDERS:
        for split in SPLITS:
            if (path := sample_index(folder, dataset, split)).exists():
                for shard in validate(ShardIndex, read_json(path), f"{path}").shards:
                    check_size(folder / shard.file, shard)
