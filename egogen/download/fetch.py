"""Fetches files, several at a time: each goes on where it stopped, and has its name only when it is right."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event

from huggingface_hub import constants, get_session, get_token, hf_raise_for_status

from egogen.disk import no_room
from egogen.download.remote import Remote
from egogen.errors import UserError, reason
from egogen.files import sync
from egogen.manifest import file_hash
from egogen.patience import TRANSPORT_ERRORS, patiently
from egogen.progress import Progress

STREAMS = 4
NOTHING_MISSING = 416  # HTTP's "range not satisfiable"


def fetch_all(files: Mapping[Remote, Path]) -> Iterator[Remote]:
    """Fetches files to their places, and yields each once it is there; what a run before left is continued.

    The hub's own client would do (`snapshot_download`), but throws away what it has of a file when it is
    interrupted, and waits for the files under way before it ends: tens of gigabytes here.

    Raises:
        UserError: no good answer, or the content is not what the server announced.
    """
    stop = Event()
    here = sum(size_of(part_path(file, goal)) for file, goal in files.items())
    total = sum(file.size or 0 for file in files)
    with (
        Progress(total=total, initial=here, unit="B", unit_scale=True) as bar,
        ThreadPoolExecutor(STREAMS) as pool,
    ):
        futures = {pool.submit(fetch, file, goal, bar, stop): file for file, goal in files.items()}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def fetch(file: Remote, goal: Path, bar: Progress, stop: Event) -> None:
    """Fetches a file, which is at its place only when it is whole; unless `stop` is set before."""
    part = part_path(file, goal)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if file.cached:
            shutil.copyfile(file.cached, part)
        elif constants.HF_HUB_OFFLINE:
            raise UserError(f"{file.url}: HF_HUB_OFFLINE forbids to fetch it; unset that")
        else:
            while not patiently(lambda: transfer(file, part, bar, stop), file.url):
                pass  # each time brought something: the next has all of its tries again
        if stop.is_set():
            return
        if fault := fault_of(part, file):
            part.unlink()
            if file.cached:
                raise UserError(f"{file.cached}: {fault}; delete that copy, it is not what was published")
            raise UserError(f"{goal}: {fault}; the file was deleted, run the same command to fetch it again")
        sync(part)
        part.replace(goal)
    except OSError as error:
        raise no_room(goal, error) or UserError(f"{goal}: not written ({reason(error)})") from None


def part_path(file: Remote, goal: Path) -> Path:
    """The unfinished file; another version of the file has another one."""
    return goal.with_name(f".{goal.name}.{file.version}.part")


def size_of(part: Path) -> int:
    """Bytes that are here of a file."""
    return part.stat().st_size if part.exists() else 0


def transfer(file: Remote, part: Path, bar: Progress, stop: Event) -> bool:
    """Appends what is missing of a file; False if the connection was lost, but brought something."""
    have = size_of(part)
    if file.size is not None and have >= file.size:
        part.touch()
        return True
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    if file.on_hub and (token := get_token()):
        headers["Authorization"] = f"Bearer {token}"
    try:
        with get_session().stream("GET", file.url, headers=headers, follow_redirects=True) as answer:
            if answer.status_code == NOTHING_MISSING:
                return True
            hf_raise_for_status(answer)
            with part.open("ab" if answer.status_code == 206 else "wb") as stream:
                for block in answer.iter_bytes():
                    stream.write(block)
                    bar.update(len(block))
                    if stop.is_set():
                        break
            return True
    except TRANSPORT_ERRORS:
        if stop.is_set() or size_of(part) <= have:
            raise
        return False


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
    """The sum by which Git names a file; only small files have no other."""
    content = path.read_bytes()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
