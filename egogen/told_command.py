"""The command of this process as records, plans and locks tell it: nothing in it that is secret."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

HIDDEN = "***"
# Keys by their forms: of Hugging Face, OpenAI and others alike, GitHub, AWS, Weights & Biases.
SECRETS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b"
)
SECRET_NAME = re.compile(
    r"(^|_)(API_?KEY|ACCESS_KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE
)
IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+(?=@)")  # a user with a password
SHORTEST = 8  # letters of a value that is looked for: shorter ones are in words by chance


def is_secret(name: str) -> bool:
    """Whether a variable of the environment holds a key, by its name."""
    return bool(SECRET_NAME.search(name))


def told_command(words: Sequence[str]) -> list[str]:
    """The words of a command, where keys are by stars: known forms, values of secret variables, passwords."""
    values = [*secret_values().values()]
    return [hidden(word, values) for word in words]


def secret_values() -> dict[str, str]:
    """Keys in the environment, by the names of their variables."""
    return {name: text for name, text in os.environ.items() if is_secret(name) and len(text) >= SHORTEST}


def secret_in(text: str) -> str:
    """The variable whose key a text holds; empty if there is none."""
    return next((name for name, value in secret_values().items() if value in text), "")


def hidden(text: str, values: Sequence[str]) -> str:
    """A text without secrets."""
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return IN_ADDRESS.sub(HIDDEN, SECRETS.sub(HIDDEN, text))
