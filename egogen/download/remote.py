"""What a server holds: the files of a hub repository or of a plain URL, with sizes and sums."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import (
    HfApi,
    constants,
    get_token,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import LocalEntryNotFoundError

from egogen.annotations import check_relative
from egogen.download.answers import patiently
from egogen.download.catalogue import RepoType, Source
from egogen.errors import UserError
from egogen.published import is_hidden

ANSWER_SECONDS = 30.0
SHA256 = re.compile("[0-9a-f]{64}")
GIT_SHA1 = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Args:
        name: its path in the repository; of a plain URL, the last part.
        url: where it is.
        size: bytes; None if unknown.
        sha256: of its content, or the first digits of it; empty if unknown.
        git_sha1: the hub's sum of small files; empty if unknown.
        cached: its copy in the hub's cache on this machine.
        on_hub: whether the hub's token is sent along.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str = ""
    git_sha1: str = ""
    cached: Path | None = None
    on_hub: bool = False

    @property
    def identity(self) -> str:
        """Tells one version of the file from another."""
        return self.sha256 or self.git_sha1 or self.url

    @property
    def version(self) -> str:
        """The same in a few characters, for names of files."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:8]

    @property
    def headers(self) -> dict[str, str]:
        """What to send along."""
        token = get_token() if self.on_hub else None
        return {"authorization": f"Bearer {token}"} if token else {}


def list_files(source: Source, revision: str | None = None) -> list[Remote]:
    """The files of a source.

    Args:
        source: what to fetch.
        revision: branch, tag or commit of a repository; by default `main`.

    Raises:
        UserError: no such repository, no answer, or none of the files is there.
    """
    if source.url:
        return [Remote(PurePosixPath(source.url).name, source.url, sha256=source.sha256)]
    listed = cached_files if constants.HF_HUB_OFFLINE else hub_files
    files = listed(source.repo, source.repo_type, revision)
    chosen = [
        file
        for file in files
        if not is_hidden(PurePosixPath(file.name)) and kept_part(file.name, source.files)
    ]
    if not chosen:
        wanted = ", ".join(source.files) or "no file"
        names = ", ".join(file.name for file in files[:10]) or "nothing"
        raise UserError(f"{source.repo}: expected {wanted}; found {names}")
    return chosen


def kept_part(name: str, patterns: tuple[str, ...]) -> str | None:
    """The end of a path that a pattern describes: all of it without patterns, None if none fits."""
    path = PurePosixPath(name)
    fits = [len(PurePosixPath(pattern).parts) for pattern in patterns if path.match(pattern)]
    if patterns and not fits:
        return None
    return "/".join(path.parts[-max(fits) :]) if fits else name


def hub_files(repo: str, repo_type: RepoType, revision: str | None) -> list[Remote]:
    """Lists a repository."""
    api = HfApi()
    ask = api.dataset_info if repo_type == "dataset" else api.model_info
    info = patiently(
        lambda: ask(repo, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS),
        f"{repo} ({repo_type})",
    )
    commit = info.sha or revision
    files = []
    for sibling in info.siblings or []:
        name = safe(sibling.rfilename, repo)
        cached = try_to_load_from_cache(repo, name, revision=commit, repo_type=repo_type)
        files.append(
            Remote(
                name,
                hf_hub_url(repo, name, repo_type=repo_type, revision=commit),
                size=sibling.size,
                sha256=sibling.lfs.sha256 if sibling.lfs else "",
                git_sha1="" if sibling.lfs else sibling.blob_id or "",
                cached=Path(cached) if isinstance(cached, str) else None,
                on_hub=True,
            )
        )
    return files


def cached_files(repo: str, repo_type: RepoType, revision: str | None) -> list[Remote]:
    """Lists what the hub's cache on this machine has of a repository."""
    try:
        folder = Path(snapshot_download(repo, repo_type=repo_type, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise UserError(
            f"{repo}: not in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to fetch it; unset that"
        ) from None
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = path.resolve().name  # named by its sum
        files.append(
            Remote(
                path.relative_to(folder).as_posix(),
                path.as_uri(),
                size=path.stat().st_size,
                sha256=blob if SHA256.fullmatch(blob) else "",
                git_sha1=blob if GIT_SHA1.fullmatch(blob) else "",
                cached=path,
            )
        )
    return files


def safe(name: str, repo: str) -> str:
    """A file's name that stays inside the folder it is put in."""
    try:
        return check_relative(name)
    except ValueError as error:
        raise UserError(f"{repo}: the file name {name!r} {error}") from None
