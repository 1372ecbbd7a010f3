"""A step of a reproduction: a command that runs once, told to people and to the shell."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from ldm.reproduction.needs import Need


@dataclass(frozen=True)
class Step:
    """A command from the repository's root.

    Args:
        name: of the step.
        why: what it does, in a few words.
        words: the command.
        need: what it needs.
        variables: set for it.
    """

    name: str
    why: str
    words: list[str]
    need: Need
    variables: dict[str, str] = field(default_factory=dict)

    def typed(self) -> str:
        """As a person types it."""
        before = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return " ".join([*before, shlex.join(self.words)])

    def in_shell(self) -> str:
        """As scripts/steps.sh runs it."""
        before = [f"{name}={value}" for name, value in self.variables.items()]
        return shlex.join(["step", self.name, self.why, *(["env", *before] if before else []), *self.words])
