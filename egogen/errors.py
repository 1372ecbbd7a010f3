"""The one exception that is a user's to mend, and its words; a command ends it with one line and code 2."""


class UserError(ValueError):
    """Says what is wrong, what was found, what is allowed and what to do, in one line that names the path."""


def reason(error: BaseException) -> str:
    """Why something failed, in one line: the system's words, else the message's first line, else the type."""
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check(name: str, value: object, allowed: str, good: bool) -> None:
    """Raises a `UserError` that names a key, its value and what is allowed, unless it is good."""
    if not good:
        raise UserError(f"{name}: got {value!r}, allowed: {allowed}")


def check_text(name: str, value: str) -> None:
    """Raises a `UserError` unless a text can be written: a command line's bytes may be no characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{name}: got {value!r}, expected text in UTF-8; is the terminal set to it?"
        ) from None


def check_choice(name: str, value: str, *allowed: str) -> None:
    """Raises a `UserError` unless the value is one of a few words."""
    check(name, value, ", ".join(allowed), value in allowed)
