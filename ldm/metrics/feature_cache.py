"""Vectors that were computed before, kept by what computed them and by the content they followed from."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

TIMEOUT = 60.0  # seconds to wait for another process
TABLE = (
    "CREATE TABLE IF NOT EXISTS vectors "
    "(kind TEXT, key TEXT, dtype TEXT, data BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"
)
READ = "SELECT dtype, data FROM vectors WHERE kind = ? AND key = ?"
WRITE = "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)"
Answer = TypeVar("Answer")
log = logging.getLogger(__name__)


class Store:
    """An SQLite file of vectors that processes may share; made for the first. Unusable, it keeps nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.usable = True

    def read(self, kind: str, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors of a kind that are kept for some of the keys."""

        def look(connection: sqlite3.Connection) -> dict[str, np.ndarray]:
            rows = {key: connection.execute(READ, (kind, key)).fetchone() for key in keys}
            return {key: np.frombuffer(row[1], row[0]) for key, row in rows.items() if row is not None}

        return self.attempt(look, {}) if self.path.exists() else {}

    def write(self, kind: str, vectors: Mapping[str, np.ndarray]) -> None:
        """Keeps vectors."""
        rows = [(kind, key, vector.dtype.str, vector.tobytes()) for key, vector in vectors.items()]
        self.attempt(lambda connection: connection.executemany(WRITE, rows), None)

    def take(self, other: Path) -> None:
        """Takes over what another file keeps; of what both know, this file's counts."""

        def merge(connection: sqlite3.Connection) -> None:
            connection.execute("ATTACH ? AS other", (str(other),))
            connection.execute("INSERT OR IGNORE INTO vectors SELECT * FROM other.vectors")
            connection.commit()
            connection.execute("DETACH other")

        self.attempt(merge, None)

    def attempt(self, work: Callable[[sqlite3.Connection], Answer], instead: Answer) -> Answer:
        """Does something with the open file; where that fails, says so and leaves it alone from then on."""
        if not self.usable:
            return instead
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=TIMEOUT)) as connection, connection:
                connection.execute(TABLE)
                return work(connection)
        except (sqlite3.Error, OSError) as error:
            log.warning(
                "%s: cannot keep vectors here (%s); delete the file if it is damaged", self.path, error
            )
            self.usable = False
            return instead


class Memory(NamedTuple):
    """Where the vectors of one metric are kept: what computes them, then a store for each side or none.

    A pair's own values lie with those of the generated frames.
    """

    kind: str = ""
    generated: Store | None = None
    reference: Store | None = None

    def store(self, side: Literal["generated", "reference"]) -> Store | None:
        """Where the vectors of one side lie."""
        return self.generated if side == "generated" else self.reference

    def recall(
        self,
        store: Store | None,
        keys: Sequence[str],
        compute: Callable[[list[int]], Shaped[Tensor, "k d"]],
    ) -> Shaped[Tensor, "b d"]:
        """The vectors of some keys, the content that each follows from, in their order on the CPU.

        Those that the store does not know are computed, by their positions among the keys.
        """
        if store is None:
            return compute(list(range(len(keys)))).cpu()
        known = store.read(self.kind, keys)
        first = {key: index for index, key in reversed(list(enumerate(keys))) if key not in known}
        if first:
            chosen = sorted(first.values())
            made = compute(chosen).cpu().numpy()
            known |= {keys[index]: vector for index, vector in zip(chosen, made, strict=True)}
            chosen = [index for index in chosen if not np.isnan(known[keys[index]]).any()]  # no measurement
            store.write(self.kind, {keys[index]: known[keys[index]] for index in chosen})
        return torch.from_numpy(np.stack([known[key] for key in keys]))
