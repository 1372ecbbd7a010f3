"""Fetches one file: goes on where it stopped, checks size and sum, and only then gives it its name."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get

from egogen.disk import no_room
from egogen.download.answers import patiently
from egogen.download.remote import Remote
from egogen.errors import UserError
from egogen.manifest import file_hash

RANGE_NOT_SATISFIABLE = 416


def fetch(file: Remote, goal: Path) -> None:
    """Fetches a file; what an interrupted run has left is continued.

    Args:
        file: what to fetch.
        goal: where it goes. It is there only when it is whole.

    Raises:
        UserError: no good answer, or the content is not what the server announced.
    """
    part = part_path(file, goal)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if file.cached:
            shutil.copyfile(file.cached, part)
        elif constants.HF_HUB_OFFLINE:
            raise UserError(f"{file.url}: HF_HUB_OFFLINE forbids to fetch it; unset that")
        else:
            patiently(lambda: transfer(file, part), file.url, lost_is_final=True)
        if fault := fault_of(part, file):
            part.unlink()
            if file.cached:
                raise UserError(f"{file.cached}: {fault}; delete that copy, it is not what was published")
            raise UserError(f"{goal}: {fault}; the file was deleted, run the same command to fetch it again")
        part.replace(goal)
    except OSError as error:
        told = no_room(goal, error)
        raise told or UserError(f"{goal}: not written ({error.strerror or error})") from None


def part_path(file: Remote, goal: Path) -> Path:
    """The unfinished file; another version of the file has another one."""
    return goal.with_name(f".{goal.name}.{file.version}.part")


def transfer(file: Remote, part: Path) -> None:
    """Appends what is missing of a file."""
    part.touch()
    have = part.stat().st_size
    if file.size is not None and have >= file.size:
        return
    try:
        with part.open("ab") as stream:
            http_get(file.url, stream, resume_size=have, headers=file.headers, displayed_filename=file.name)
    except HfHubHTTPError as error:
        # Nothing is missing: the run before ended between the last byte and the check.
        if error.response.status_code != RANGE_NOT_SATISFIABLE:
            raise


def fault_of(path: Path, file: Remote) -> str | None:
    """In what a file differs from what its server announced, if in anything."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size:,} bytes, expected {file.size:,}"
    if file.sha256:
        kind, found, expected = "SHA-256", file_hash(path), file.sha256
    elif file.git_sha1:
        kind, found, expected = "Git SHA-1", git_sha1(path), file.git_sha1
    else:
        return None
    return None if found.startswith(expected) else f"has the {kind} {found}, expected {expected}"


def git_sha1(path: Path) -> str:
    """The sum by which Git names a file."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
