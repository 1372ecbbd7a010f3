"""EgoGen annotations and metadata: read, validate, write. Every step starts from these files."""

from __future__ import annotations

import gc
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, islice, repeat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Generic, NamedTuple, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from egogen.errors import UserError, shorten
from egogen.files import no_garbage, read_json
from egogen.json_stream import Streamed, UnusualJsonError, member, stream_object, write_members
from egogen.layout import DESCRIPTION_KEY
from egogen.stored_items import Make, reopen, store_of

# Of files on the usual systems, with room for the folders above.
LONGEST_NAME, LONGEST_PATH = 255, 2000
# What nearly all paths are, and what can be said of them at once: a split has millions.
NAME = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}"
PLAIN = re.compile(f"{NAME}(?:/{NAME})*")
PLAIN_PAIR = re.compile(f"{PLAIN.pattern}\n{PLAIN.pattern}")
MANY = 100_000  # actions
TAG = re.compile(r"\s*#[A-Za-z]")  # what Ego4D's narrations begin with: #C, #O, #Unsure
Each = TypeVar("Each")
Model = TypeVar("Model", bound=BaseModel)
# An object as a JSON file has it, its fields not checked yet.
JsonObject: TypeAlias = dict[str, Any]


def check_relative(path: str) -> str:
    """Returns an image path unchanged if it stays inside the split folder.

    Raises:
        ValueError: the path is empty, absolute, climbs by `..`, names no file or is too long for one.
    """
    if len(path) <= LONGEST_PATH and PLAIN.fullmatch(path):
        return path
    windows = PureWindowsPath(path)
    if PurePosixPath(path).is_absolute() or windows.drive or windows.root:
        raise ValueError("is an absolute path; allowed: a path relative to the split folder")
    if ".." in windows.parts:
        raise ValueError("contains '..'; allowed: a path inside the split folder")
    if not PurePosixPath(path).name or path.endswith(("/", "/.")) or "\0" in path:
        raise ValueError("names no file; allowed: a path such as clip/action/frame.jpg")
    sizes = [len(part.encode("utf-8", "replace")) for part in (path, *PurePosixPath(path).parts)]
    if sizes[0] > LONGEST_PATH or max(sizes[1:]) > LONGEST_NAME:
        raise ValueError(
            f"has names too long for files; allowed: {LONGEST_NAME} bytes, {LONGEST_PATH} in all"
        )
    return path


ImagePath = Annotated[str, AfterValidator(check_relative)]


class ActionFields(BaseModel):
    """What is checked of an action; keys that are not listed here are kept as they are."""

    model_config = ConfigDict(extra="ignore", strict=True)

    image_0: ImagePath
    image_1: ImagePath
    action: str = Field(min_length=1)
    llava_forecast_finetune: str | None = None


class Action:
    """One action: the frame before it, the frame during it, its label and what stage 1 wrote about it.

    A view of the file's entry, of 40 bytes: a split has millions. Nobody changes it.

    Args:
        entry: as the file has it, checked (`Action.read`).
    """

    __slots__ = ("entry",)

    def __init__(self, entry: JsonObject) -> None:
        self.entry = entry

    @classmethod
    def read(cls, entry: object, where: str) -> Action:
        """Checks an entry.

        Raises:
            UserError: it is not as described; names the place, the field, what was found and what is allowed.
        """
        if not is_sound(entry):
            validate(ActionFields, entry, where)
        return cls(entry)  # type: ignore[arg-type]  # an object by now

    @property
    def image_0(self) -> str:
        """The frame before it, relative to the split folder."""
        return self.entry["image_0"]  # type: ignore[no-any-return]

    @property
    def image_1(self) -> str:
        """The frame during it."""
        return self.entry["image_1"]  # type: ignore[no-any-return]

    @property
    def action(self) -> str:
        """Its label."""
        return self.entry["action"]  # type: ignore[no-any-return]

    @property
    def llava_forecast_finetune(self) -> str | None:
        """What stage 1 wrote about it."""
        return self.entry.get(DESCRIPTION_KEY)

    def text(self, key: str) -> str | None:
        """The text under any key of the entry, or None where it is absent or not text."""
        value = self.entry.get(key)
        return value if isinstance(value, str) else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Action) and self.entry == other.entry

    def __hash__(self) -> int:
        return hash((self.image_0, self.image_1, self.action))

    def __repr__(self) -> str:
        return f"Action({self.entry!r})"


def is_sound(entry: object) -> bool:
    """Whether an entry is one of those that nearly all are, which need no closer look."""
    if type(entry) is not dict:
        return False
    first, second, label = entry.get("image_0"), entry.get("image_1"), entry.get("action")
    if not type(first) is type(second) is type(label) is str or label == "":
        return False
    pair, text = f"{first}\n{second}", entry.get(DESCRIPTION_KEY)
    return (
        len(pair) <= LONGEST_PATH
        and PLAIN_PAIR.fullmatch(pair) is not None
        and (text is None or type(text) is str)
    )


class ClipMetadata(BaseModel):
    """Size in pixels and frame rate in Hz of a clip's video; further keys (boxes ...) are kept."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    fps: float | None = Field(default=None, gt=0)

    def facts(self, action_id: str) -> JsonObject:
        """Further keys (boxes ...) of one action: the clip's own, and those that it has below `actions`."""
        clip = dict(self.model_extra or {})
        actions = clip.pop("actions", None)
        own = actions.get(action_id) if isinstance(actions, dict) else None
        return clip | own if isinstance(own, dict) else clip


class Item(NamedTuple):
    """One action with its place in the file."""

    clip: str
    id: str
    action: Action


Look: TypeAlias = Callable[[Item], object]  # is shown every item once, in file order


def make_item(clip: str, action_id: str, entry: JsonObject) -> Item:
    """An item of an entry that was checked."""
    return Item(clip, action_id, Action(entry))


class ClipFile(Generic[Each]):
    """Clips of an annotation file with their actions, not checked, one after the other; and what is kept.

    All of its text is never in memory, and of a file above `large` bytes the actions stay where they are.

    Raises:
        UserError: while it is gone through, if it is no JSON object.
    """

    def __init__(self, path: Path, make: Make[Each], large: int | None = None) -> None:
        self.path = path
        self.store = store_of(path, make, large)  # None of a small file
        self.kept: list[Each] = []
        self.streamed: Streamed | None = None

    def __iter__(self) -> Iterator[tuple[str, object]]:
        done, opened = 0, None if self.store is None else self.store.file.open
        try:
            for streamed in stream_object(self.path, opened):
                self.streamed = streamed
                done += 1
                yield streamed.key, streamed.value
            self.streamed = None  # with the text that it was read from
        except UnusualJsonError:  # read it as a whole, which says what is wrong
            if self.store is not None:
                reopen(self.path, self.store.file.facts)  # no other file by now
            whole = check_object(read_json(self.path), f"{self.path}", "clips by clip_id")
            self.kept, self.store = [*self.items], None
            yield from list(whole.items())[done:]

    def keep(self, clip: str, items: Sequence[Each]) -> None:
        """Keeps the items of the clip that was given last."""
        if self.store is None or self.streamed is None:
            self.kept += items
        else:
            self.store.add(clip, self.streamed.marks())

    @property
    def items(self) -> Sequence[Each]:
        """All that were kept."""
        return self.kept if self.store is None else self.store.items


class Annotations:
    """The actions of one split, in file order, together with the file's exact content.

    `clips`: names of all, `counts`: how many actions each has. `items`: the actions, to be gone through or
    taken by place; those of a large file are read from it again.

    Args:
        raw: `{clip_id: {action_id: {image_0, image_1, action, ...}}}`, or its pairs, one after the other.
        source: the path that errors name.
        look: is shown each item, while it is in memory.

    Raises:
        UserError: an entry is not as described; names file, clip, action, field, what was found and allowed.
    """

    def __init__(
        self,
        raw: JsonObject | Iterable[tuple[str, object]],
        source: Path,
        look: Look | None = None,
    ) -> None:
        self.source = source
        self.clips: list[str] = []
        self.counts = array("q")
        self.tagged: Item | None = None  # the first whose label begins with Ego4D's tag
        kept: list[Item] = []
        for clip, actions in raw.items() if isinstance(raw, dict) else raw:
            found = read_actions(clip, actions, source)
            self.clips.append(clip)
            self.counts.append(len(found))
            if self.tagged is None:
                self.tagged = next((item for item in found if TAG.match(item.action.action)), None)
            if look is not None:
                for item in found:
                    look(item)
            if isinstance(raw, ClipFile):
                raw.keep(clip, found)
            else:
                kept += found
        self.items: Sequence[Item] = raw.items if isinstance(raw, ClipFile) else kept

    @property
    def raw(self) -> JsonObject:
        """The file's content: `{clip_id: {action_id: entry}}`."""
        found: JsonObject = {clip: {} for clip in self.clips}
        for clip, action_id, action in self.items:
            found[clip][action_id] = action.entry
        return found

    @classmethod
    def read(cls, path: Path, look: Look | None = None) -> Annotations:
        """Reads and validates an annotation file.

        Args:
            path: the file.
            look: is shown each item as it is read; of a large file, to go through all again takes as long.

        Raises:
            UserError: it is no such file, or holds no action: no step has anything to do then.
        """
        with no_garbage():
            found = cls(ClipFile(path, make_item), path, look)
        if len(found.items) > MANY:
            gc.collect()
            gc.freeze()  # what stays, libraries too: each later search for cycles would visit all of it
        if not found.items:
            raise UserError(f"{path}: holds no action, there is nothing to do; make or download it again")
        return found

    @property
    def clips_in_use(self) -> list[str]:
        """The clips that have actions."""
        return [*compress(self.clips, self.counts)]

    def of(self, dataset: str, cut: bool = False) -> Annotations:
        """The annotations themselves, unless their labels are another data set's.

        Args:
            dataset: whose they are said to be.
            cut: Ego4D's tag will be cut off by its length, and a label without one would lose letters.

        Raises:
            UserError: EPIC-KITCHENS' labels begin with Ego4D's tag, or none of Ego4D's does.
        """
        tagged = self.tagged
        if dataset == "epickitchen" and tagged:
            found, what, other = tagged, "begins with Ego4D's tag", "ego4d"
        elif dataset == "ego4d" and cut and not tagged:
            found, what, other = self.items[0], "has, as all here, no tag of Ego4D's (#C C)", "epickitchen"
        else:
            return self
        raise UserError(
            f"{self.source}: clip {found.clip!r}, action {found.id!r}: the label "
            f"{shorten(found.action.action)} {what}, and the data set is said to be {dataset}; "
            f"give {other}, or the file of {dataset}"
        )

    def write(self, path: Path, texts: Iterable[str | None] | None = None) -> None:
        """Writes the annotations atomically, clip by clip; nothing that was read is lost or reordered.

        Args:
            path: the file.
            texts: for each action, in order, what stage 1 wrote about it; None leaves what it has.
        """
        given = repeat(None, len(self.items)) if texts is None else texts
        entries = (
            (item.id, item.action.entry if text is None else {**item.action.entry, DESCRIPTION_KEY: text})
            for item, text in zip(self.items, given, strict=True)
        )
        clips = zip(self.clips, self.counts, strict=True)
        write_members(path, (member(clip, dict(islice(entries, count))) for clip, count in clips))

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def read_actions(clip: str, actions: object, source: Path) -> list[Item]:
    """The actions of a clip, checked.

    Raises:
        UserError: one is not as described.
    """
    entries = check_object(actions, f"{source}: clip {clip!r}", "actions by action_id")
    return [
        Item(
            clip,
            action_id,
            Action(entry)
            if is_sound(entry)
            else Action.read(entry, f"{source}: clip {clip!r}, action {action_id!r}"),
        )
        for action_id, entry in entries.items()
    ]


def read_metadata(path: Path) -> dict[str, ClipMetadata]:
    """Reads `{clip_id: {height, width, fps, ...}}`.

    Raises:
        UserError: the file or an entry is not as described.
    """
    raw = check_object(read_json(path), f"{path}", "clips by clip_id")
    return {clip: validate(ClipMetadata, entry, f"{path}: clip {clip!r}") for clip, entry in raw.items()}


def check_object(value: object, where: str, content: str) -> JsonObject:
    """Returns a JSON object unchanged.

    Raises:
        UserError: it is another JSON type.
    """
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: found {type(value).__name__} {shorten(value)}, expected an object of {content}"
        )
    return value


def validate(model: type[Model], value: object, where: str) -> Model:
    """Builds a pydantic model; of several faults the first is told.

    Raises:
        UserError: names the place, the field, what was found and what is allowed.
    """
    try:
        return model.model_validate(check_object(value, where, "named fields"))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            present = ", ".join(map(repr, check_object(value, where, "named fields"))) or "nothing"
            raise UserError(f"{where}: the field {field!r} is missing; found {present}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}, field {field!r}: found {shorten(first['input'])}: {message}") from None
