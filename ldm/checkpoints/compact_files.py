"""Compact safetensors: 16 bits, embedding rows that are used alone, and parts that lie in a file beside.

Such a file is a published single file with less in it: reading gives the tensors of the whole one. Its header
states `rows` (of each table that was cut, how many rows it has; `<name>.rows` are the numbers of those that
are stored) and `beside` (other compact files in the same folder, with their hashes, whose tensors belong to
it). Rows that are not stored are zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from egogen.annotations import check_object
from egogen.errors import UserError
from egogen.manifest import file_hash

ROWS, BESIDE = "rows", "beside"
STORED = ".rows"
MOST_VALUES = 2**28  # of a table: few rows may claim any number of others


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file, and its header; those of a compact one as the whole file has them.

    Raises:
        UserError: a file beside is missing, or another one than was written; rows that no table has.
    """
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
    state = load_file(path)
    for name, count in stated(path, header, ROWS).items():
        state[name] = expand(path, name, state.get(name), state.pop(name + STORED, None), count)
    for name, digest in stated(path, header, BESIDE).items():
        state |= read_tensors(find_beside(path, name, digest))[0]
    return state, header


def stated(path: Path, header: Mapping[str, str], key: str) -> dict[str, object]:
    """What a header states under a key; nothing in files that are not compact."""
    try:
        found = json.loads(header.get(key, "{}"))
    except json.JSONDecodeError:
        raise UserError(f"{path}: its header's {key!r} is not JSON; copy the file again") from None
    return check_object(found, f"{path}: {key}", "an entry for each name")


def expand(
    path: Path, name: str, stored: Tensor | None, rows: Tensor | None, count: object
) -> Float[Tensor, "n d"]:
    """A whole table from the rows that are stored.

    Raises:
        UserError: the header and the tensors do not belong together.
    """
    sound = (
        stored is not None
        and rows is not None
        and type(count) is int
        and stored.ndim == 2
        and rows.shape == stored.shape[:1]
        and 0 < count * stored.shape[1] <= MOST_VALUES
        and bool(((rows >= 0) & (rows < count)).all())
    )
    if not sound:
        raise UserError(f"{path}: the rows of {name!r} are not those that its header states; copy it again")
    assert stored is not None
    assert rows is not None
    assert isinstance(count, int)
    whole = stored.new_zeros(count, stored.shape[1])
    whole[rows.long()] = stored
    return whole


def find_beside(path: Path, name: str, digest: object) -> Path:
    """The file that holds the rest of a compact file's tensors.

    Raises:
        UserError: it is not there, or has changed since.
    """
    if name != Path(name).name or not name:
        raise UserError(f"{path}: names {name!r}, expected a file in the same folder")
    places = [path.with_name(name), path.resolve().with_name(name)]  # a link, as in the hub's cache
    other = next((place for place in places if place.exists()), places[0])
    if other == path or not other.is_file():
        raise UserError(f"{other}: missing; {path.name} keeps a part of its weights there: copy both")
    if file_hash(other) != digest:
        raise UserError(f"{other}: is not the file that {path.name} was written with; copy both again")
    return other
