"""What checking has found: one row a check, faults in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from egogen.errors import UserError
from egogen.table import text_table

EXAMPLES = 10
EXIT_FAULTS = 1


@dataclass
class Check:
    """One check.

    Args:
        dataset: what was checked, such as `ego4d`; empty for the whole folder.
        split: `train`, `val`, or empty for both.
        name: what the check is called.
        items: how many things it looked at.
        faults: one line each.
    """

    dataset: str
    split: str
    name: str
    items: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """Data set and split in one word."""
        return "/".join(part for part in (self.dataset, self.split) if part) or "all"

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Makes a fault of a `UserError`, which ends the block."""
        try:
            yield
        except UserError as error:
            self.faults.append(str(error))

    def shown(self) -> str:
        """The first faults, for a terminal."""
        more = len(self.faults) - EXAMPLES
        lines = [*self.faults[:EXAMPLES], *([f"and {more:,} more"] if more > 0 else [])]
        return f"{self.where}, {self.name}:\n" + "".join(f"  {line}\n" for line in lines)


@dataclass
class Report:
    """All checks of a folder, and what was repaired before them."""

    root: str
    checks: list[Check] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """The number of faults."""
        return sum(len(check.faults) for check in self.checks)

    def text(self) -> str:
        """A table for a terminal, and the first faults of each check."""
        rows = [(check.where, check.name, check.items, len(check.faults)) for check in self.checks]
        found = [check.shown() for check in self.checks if check.faults]
        faults = f"{self.faults:,} fault{'' if self.faults == 1 else 's'}"
        verdict = f"{self.root}: {faults} in {len(self.checks)} checks\n"
        return "\n".join([text_table(("where", "check", "items", "faults"), rows), *found, verdict])

    def json(self) -> dict[str, object]:
        """The same as JSON values."""
        return {
            "root": self.root,
            "clean": not self.faults,
            "faults": self.faults,
            "repaired": self.repaired,
            "checks": [
                {
                    "dataset": check.dataset,
                    "split": check.split,
                    "check": check.name,
                    "items": check.items,
                    "faults": len(check.faults),
                    "examples": check.faults[:EXAMPLES],
                }
                for check in self.checks
            ],
        }
