"""Files and folders that are whole or absent: atomic writes, and JSON and YAML with named errors."""

from __future__ import annotations

import gc
import glob
import json
import math
import os
import platform
import re
import secrets
import shutil
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import yaml

from egogen.disk import no_room
from egogen.errors import UserError, reason
from egogen.hints import blocking, hint
from egogen.unfetched import check_fetched
from egogen.yaml_loader import YamlLoader, repeated, weigh

PART = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.part")  # host, process, chance
DEEPEST = 100  # lists and objects in each other, in JSON
PARENTS = (dict, list)
HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # of a pair of surrogates, or alone
KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
ABANDONED = 86400.0  # seconds without a change after which a part belongs to nobody


@contextmanager
def atomic_open(path: Path) -> Iterator[IO[bytes]]:
    """Opens a temporary neighbour of `path` for writing and renames it to `path` when the block ends well.

    The bytes are on disk before they get their name: not even a machine that crashes leaves a cut file.

    Raises:
        UserError: the file cannot be made there (no permission, a full disk, a folder or device there ...).
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected a file's path")
    regular(path)  # the rename would put a file in the place of a device, such as /dev/null
    part = part_of(path)  # not by tempfile, which makes files that only the owner may read
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("xb")
    except OSError as error:
        raise no_room(path, error) or UserError(
            f"{path}: cannot be written ({why_not(path, error)})"
        ) from None
    try:
        with file:
            mode = os.fstat(file.fileno()).st_mode
            yield file
        if part.stat().st_mode != mode:  # a library has put a file of its own there, for the owner alone
            part.chmod(stat.S_IMODE(mode))
        try:
            sync(part)
            part.replace(path)
        except OSError as error:
            raise no_room(path, error) or UserError(f"{path}: cannot be written ({reason(error)})") from None
    except BaseException as error:
        written = part.stat().st_size if part.exists() else 0
        with suppress(OSError):  # of a disk that is read-only by now; the next run removes it
            part.unlink(missing_ok=True)
        told = None if isinstance(error, UserError) else no_room(path, error, written)
        if told is not None:
            raise told from None
        raise
    sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Makes a temporary neighbour of `path` to fill and renames it to `path` when the block ends well.

    Where another run has made `path` meanwhile, its folder stays and this one is dropped.

    Raises:
        UserError: it cannot be made there.
    """
    clean_parts(path.parent, f".{glob.escape(path.name)}.*.part")
    part = part_of(path)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({why_not(path, error)})") from None
    try:
        yield part
        finish(part)
        try:
            part.rename(path)
        except OSError as error:
            if not path.is_dir():
                raise UserError(f"{path}: cannot be written ({reason(error)})") from None
        sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def why_not(path: Path, error: OSError) -> str:
    """Why nothing can be made at a path; of a file in its way the system says only that it exists."""
    file = blocking(path)
    return reason(error) if file is None else f"{file} is a file, expected a folder"


def remove_folder(path: Path) -> None:
    """Removes a folder and all in it; of a link to one, the link alone."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def finish(part: Path) -> None:
    """Brings all of an unfinished folder to the disk, for all who may read the folder."""
    readable = stat.S_IMODE(part.stat().st_mode) & 0o666
    for found in (*part.rglob("*"), part):
        mode = stat.S_IMODE(found.lstat().st_mode)
        if found.is_file() and not found.is_symlink() and mode | readable != mode:
            found.chmod(mode | readable)  # as in `atomic_open`
        sync(found)


def part_of(path: Path) -> Path:
    """An unfinished neighbour's name, which says who writes it."""
    return path.with_name(f".{path.name}.{this_host()}-{os.getpid()}-{secrets.token_hex(4)}.part")


def this_host() -> str:
    """A short name of this machine."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def ends_with(path: Path, mark: bytes) -> bool:
    """Whether a file is there and ends so, which one that is cut off does not; no more of it is read."""
    try:
        with path.open("rb") as file:
            file.seek(-len(mark), os.SEEK_END)
            return file.read() == mark
    except OSError:  # absent, or shorter than the mark
        return False


def clean_parts(folder: Path, pattern: str | None = None) -> None:
    """Removes the unfinished files and folders that ended runs left; those of living ones stay.

    Links to folders are not followed: nobody's files but those of the folder itself are deleted. A run has
    ended if its process is gone from this machine; of runs whose process cannot be told (another machine's),
    what has not changed for a day counts as left.

    Args:
        folder: where to look.
        pattern: below it; by default everywhere.
    """
    for part in list(folder.glob(pattern) if pattern else parts_below(folder)):
        if (match := PART.fullmatch(part.name)) and is_left(part, match[1], int(match[2])):
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


def parts_below(folder: Path) -> Iterator[Path]:
    """What may be unfinished, anywhere below a folder: a path object for each other name would take long."""
    for here, folders, files in os.walk(folder):
        yield from (
            Path(here, name) for name in (*folders, *files) if name[0] == "." and name[-5:] == ".part"
        )


def is_left(part: Path, host: str, process: int) -> bool:
    """Whether nobody writes an unfinished file or folder any more."""
    if os.name == "posix" and host == this_host() and not is_running(process):
        return True
    with suppress(FileNotFoundError):  # finished meanwhile
        newest = max(path.stat().st_mtime for path in (part, *part.rglob("*")))
        return time.time() - newest > ABANDONED
    return False


def is_running(process: int) -> bool:
    """Whether a process of this machine runs."""
    with suppress(PermissionError):  # another user's
        try:
            os.kill(process, 0)  # asks for the process, sends nothing
        except ProcessLookupError:
            return False
    return True


def sync(path: Path) -> None:
    """Waits until the bytes of a file, or the names in a folder where the system can, are on disk."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, value: object, indent: int | None = 4) -> None:
    """Writes JSON atomically: non-ASCII escaped, keys in the given order; faster without indent."""
    with atomic_open(path) as file:
        file.write(json.dumps(value, indent=indent).encode() + b"\n")


def regular(path: Path) -> Path:
    """The path itself, of a file or of nothing: who opens anything else may wait or read without end.

    Raises:
        UserError: it is a folder, a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # who opens it says what is wrong
        return path
    if stat.S_ISREG(mode):
        return path
    raise UserError(f"{path}: is {KINDS.get(stat.S_IFMT(mode), 'no file')}; expected a file")


def read_json(path: Path, finite: bool = True) -> Any:  # noqa: ANN401 - JSON is any value; callers validate it
    """Reads a JSON file; see `parse_json`.

    Raises:
        UserError: the file is missing, is no file, or is not as `parse_json` wants it.
    """
    with named_errors(path):
        content = regular(path).read_bytes()
    return parse_json(content, f"{path}", finite)


def parse_json(content: bytes | str, where: str, finite: bool = True) -> Any:  # noqa: ANN401 - as `read_json`
    """Reads JSON; a key that occurs twice in one object is an error, since the first would be lost.

    Args:
        content: the text.
        where: for messages.
        finite: NaN and infinite numbers, which Python writes and JSON has not, are errors.

    Raises:
        UserError: it is not UTF-8, is not JSON, repeats a key, or holds what no file and no reader may.
    """
    with named_errors(where):
        if isinstance(content, bytes):
            check_fetched(where, content)
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        hook = partial(finite_number, where) if finite else None  # Python's own, which is fast
        unique = partial(unique_keys, where)
        value = json.loads(text, object_pairs_hook=unique, parse_float=hook, parse_constant=hook)
        if is_deep(value):
            raise RecursionError
        if HALF_CHARACTER.search(text):
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                around = error.object[max(0, error.start - 20) : error.end + 20]
                raise UserError(
                    f"{where}: holds half a character (a lone surrogate) in {around!r}; write it anew"
                ) from None
        return value


@contextmanager
def no_garbage() -> Iterator[None]:
    """Keeps Python from looking for cycles while millions of small objects are made that have none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def unique_keys(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; a `UserError` if a key occurs twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise repeated(where, [key for key, _ in pairs])
    return found


def finite_number(where: str, text: str) -> float:
    """A number of JSON; a `UserError` if it is not finite."""
    value = float(text)
    if not math.isfinite(value):
        raise UserError(f"{where}: holds the number {text[:20]}; expected finite numbers")
    return value


def is_deep(value: object) -> bool:
    """Whether lists and objects lie in each other deeper than what shows or writes them can go."""
    level, depth = [value] if isinstance(value, PARENTS) else [], 0
    while level and depth < DEEPEST:
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for children in inner for child in children if isinstance(child, PARENTS)]
        depth += 1
    return bool(level)


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - YAML is any value; callers validate it
    """Reads YAML, plain values only; an empty file is None.

    Raises:
        UserError: the file is missing, is not UTF-8, is not YAML or repeats a key.
    """
    with named_errors(path):
        content = regular(path).read_bytes()
        check_fetched(path, content)
        return parse_yaml(content.decode("utf-8-sig"), f"{path}")


def parse_yaml(text: str, source: str) -> Any:  # noqa: ANN401 - as of a file
    """The same for a text that comes from elsewhere, which `source` names.

    Raises:
        UserError: it is not YAML or repeats a key.
    """
    with named_errors(source):
        loader = YamlLoader(text)
        loader.name = source
        node = loader.get_single_node()
        if node is None:
            return None
        weigh(node, source, {})
        return loader.construct_document(node)


def advice(error: json.JSONDecodeError) -> str:
    """What may be wrong with a text that is no JSON, by where reading it ended."""
    if error.msg == "Extra data":
        return "there is more behind the first value, as in JSON Lines: expected one value"
    # A string that never ends is told by where it begins.
    is_at_end = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
    return "is it cut off?" if is_at_end else "mend it there"


@contextmanager
def named_errors(path: Path | str) -> Iterator[None]:
    """Makes one line of what goes wrong while JSON or YAML is read.

    Raises:
        UserError: the file is missing, is not UTF-8, is not JSON or YAML, or holds what nobody means.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{hint(Path(path))}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not valid JSON ({error.msg} at line {error.lineno}); {advice(error)}"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = f"{getattr(error, 'problem', '')} at line {mark.line + 1}" if mark else reason(error)
        raise UserError(f"{path}: not valid YAML ({what})") from None
    except RecursionError:
        raise UserError(f"{path}: not ours (objects or lists nested too deeply)") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # of PyYAML's and Python's types
        what = f"a value that is none of its type: {reason(error)}"
        if "Exceeds the limit" in f"{error}":
            what = "a number of thousands of digits"
        raise UserError(f"{path}: not ours ({what[:160]})") from None
