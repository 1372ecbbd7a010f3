"""WebDataset shards of a split, read where they are: stage 2 trains from them without unpacking.

`python -m egogen.prepare to-webdataset` writes them: tar files that are not compressed, so that every sample
has an offset. They are read at random, in any order that a run asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from egogen.annotations import Action, Annotations, JsonObject, check_object, check_relative, validate
from egogen.errors import UserError
from egogen.files import parse_json, read_json
from egogen.frames import TarFrames
from egogen.layout import sample_index
from egogen.manifest import file_hash

FACTS = ".json"  # of a sample, behind its key
FILES = 3  # of a sample: input, target, facts
# What the facts say besides the action's own entry in the annotations.
PLACE, TOLD = ("clip_id", "action_id"), "description"
AGAIN = "write it again: delete it and give the same python -m egogen.prepare to-webdataset"


class Shard(BaseModel):
    """One tar file as the index lists it."""

    model_config = ConfigDict(strict=True, frozen=True)

    file: Annotated[str, AfterValidator(check_relative)]
    samples: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ShardIndex(BaseModel):
    """The list of a split's shards."""

    model_config = ConfigDict(strict=True, frozen=True)

    samples: int = Field(ge=1)
    shards: list[Shard] = Field(min_length=1)


class SampleShards:
    """The samples of a split: their annotations, and their frames by the names that annotations use.

    Args:
        folder: holds the tar files and their index.
        dataset: whose.
        split: `train` or `val`.

    Raises:
        UserError: the index or a shard is missing, cut off, of another size than the index says, or holds
            other samples; names it.
    """

    def __init__(self, folder: Path, dataset: str, split: str) -> None:
        self.place, self.source = folder, sample_index(folder, dataset, split)
        self.index = validate(ShardIndex, read_json(self.source), f"{self.source}")
        for shard in self.index.shards:
            check_size(folder / shard.file, shard)
        self.tars = TarFrames(folder, [folder / shard.file for shard in self.index.shards])
        self.names: dict[str, str] = {}  # of members, by those of frames
        raw: dict[str, JsonObject] = {}
        count = 0
        for key, facts in self.facts():
            clip, action = (facts.pop(name) for name in PLACE)
            facts.pop(TOLD, None)
            known = raw.setdefault(clip, {})
            if action in known:
                raise UserError(f"{self.source}: the action {clip}/{action} is there twice; {AGAIN}")
            known[action] = facts
            entry = Action.read(facts, f"{self.tars.members[key + FACTS].tar}: sample {key}")
            for role, frame in frames_of(entry).items():
                self.names.setdefault(frame, frame_member(key, role, frame))
            count += 1
        if count != self.index.samples:
            raise UserError(f"{self.source}: lists {self.index.samples} samples, its shards hold {count}")
        self.annotations = Annotations(raw, self.source)

    def facts(self) -> Iterator[tuple[str, JsonObject]]:
        """Key and facts of each sample, in order."""
        for name, member in self.tars.members.items():
            if name.endswith(FACTS):
                where = f"{member.tar}: {name}"
                found = check_object(parse_json(self.tars.bytes(name), where), where, "named fields")
                if not all(isinstance(found.get(place), str) for place in PLACE):
                    raise UserError(f"{where}: names no {' and '.join(PLACE)}; {AGAIN}")
                yield name.removesuffix(FACTS), dict(found)

    def member(self, frame: str) -> str:
        """Where a frame is.

        Raises:
            UserError: no shard holds it.
        """
        if frame not in self.names:
            raise UserError(
                f"{self.source}: no shard holds the frame {frame!r}; are the annotations of this split?"
            )
        return self.names[frame]

    def read(self, name: str) -> Image.Image:
        """Decodes a frame as RGB."""
        return self.tars.read(self.member(name))

    def check(self, name: str) -> None:
        """Reads all of a frame's bytes, decoding it coarsely where its format allows."""
        self.tars.check(self.member(name))

    def check_sums(self) -> None:
        """Reads all shards and compares them with the sums in the index.

        Raises:
            UserError: one has other bytes; names the first.
        """
        for shard in self.index.shards:
            path = self.place / shard.file
            if file_hash(path) != shard.sha256:
                raise UserError(f"{path}: damaged, its SHA-256 is not that in {self.source.name}; {AGAIN}")


def check_size(path: Path, shard: Shard) -> None:
    """Raises a `UserError` if a shard is missing, or is not as long as the index says."""
    if not path.is_file():
        raise UserError(f"{path}: missing, the index beside it lists it; copy it there, or {AGAIN}")
    size = path.stat().st_size
    if size != shard.bytes:
        raise UserError(f"{path}: is {size} bytes long, the index beside it says {shard.bytes}; {AGAIN}")


def frames_of(action: Action) -> dict[str, str]:
    """Names of a sample's frames by what they are in it."""
    return {"input": action.image_0, "target": action.image_1}


def frame_member(key: str, role: str, frame: str) -> str:
    """Name of a frame within a shard; a frame without a suffix is a JPEG."""
    return f"{key}.{role}{PurePosixPath(frame).suffix.lower() or '.jpg'}"
