"""Files that are either whole or absent: atomic writes, and reading JSON with named errors."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from egogen.disk import no_room
from egogen.errors import UserError


@contextmanager
def atomic_open(path: Path) -> Iterator[IO[bytes]]:
    """Opens a temporary neighbour of `path` for writing and renames it to `path` when the block ends well.

    Raises:
        UserError: the file cannot be made there (no permission, a full disk, a folder of that name ...).
    """
    # Not by tempfile: it makes files that only the owner may read; results are to be shared.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("xb")
    except OSError as error:
        raise no_room(path, error) or UserError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        with file:
            yield file
        if path.is_dir():
            raise UserError(f"{path}: is a folder; expected a file's path")
        part.replace(path)
    except BaseException as error:
        written = part.stat().st_size if part.exists() else 0
        part.unlink(missing_ok=True)
        told = None if isinstance(error, UserError) else no_room(path, error, written)
        if told is not None:
            raise told from None
        raise


def write_json(path: Path, value: object, indent: int | None = 4) -> None:
    """Writes JSON atomically: non-ASCII escaped, keys in the given order; faster without indent."""
    with atomic_open(path) as file:
        file.write(json.dumps(value, indent=indent).encode() + b"\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON is any value; callers validate it
    """Reads JSON; a key that occurs twice in one object is an error, since the first would be lost.

    Raises:
        UserError: the file is missing, is not UTF-8, is not JSON or repeats a key.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise UserError(f"{path}: the key {twice!r} occurs twice in one object; each may occur once")
        return found

    with named_errors(path):
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=unique)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Makes one line of what goes wrong while a JSON file is read.

    Raises:
        UserError: the file is missing, is not UTF-8 or is not JSON.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not valid JSON ({error.msg} at line {error.lineno}); is it cut off?"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: not our JSON (objects or lists nested too deeply)") from None
