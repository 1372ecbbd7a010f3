"""What lies in a file's place where the file itself was not fetched: it is told as that by every reader."""

from __future__ import annotations

from pathlib import Path

from egogen.errors import UserError

HEAD = 64  # bytes that tell
POINTER = b"version https://git-lfs"
PAGES = (b"<!doctype", b"<html", b"<?xml")  # how what a server says begins, where it has no file to give


def unfetched(head: bytes) -> str:
    """What a file is in place of itself, and what to do, by how it begins; "" where nothing tells.

    Args:
        head: its first bytes, `HEAD` of them or all.
    """
    if head.startswith(POINTER):
        return "a pointer of Git LFS, not the file; fetch that by git lfs pull"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(PAGES):
        return "a web page or a server's answer, not the file; download it again"
    return ""


def check_fetched(path: Path | str, head: bytes) -> None:
    """Raises a `UserError` for a file that begins as one does which was not fetched."""
    if told := unfetched(head[:HEAD]):
        raise UserError(f"{path}: {told}")


def check_stands(path: Path) -> None:
    """The same of a file that could not be read, before its reader says why."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:  # its reader says it
        return
    check_fetched(path, head)
