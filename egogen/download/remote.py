"""What a server holds: the files of a hub repository or of a plain URL, with sizes and sums."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError

from egogen.annotations import check_relative
from egogen.download.catalogue import Source
from egogen.errors import UserError
from egogen.patience import patiently
from egogen.published import is_hidden
from egogen.walks import walk_files

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
    files = (cached_files if constants.HF_HUB_OFFLINE else hub_files)(source, revision)
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


def hub_files(source: Source, revision: str | None) -> list[Remote]:
    """Lists a repository."""
    repo, kind, api = source.repo, source.repo_type, HfApi()
    ask = api.dataset_info if kind == "dataset" else api.model_info
    info = patiently(
        lambda: ask(repo, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS), f"{repo} ({kind})"
    )
    commit, files = info.sha or revision, []
    for sibling in info.siblings or []:
        name = sibling.rfilename
        try:
            check_relative(name)
        except ValueError as error:
            raise UserError(f"{repo}: the file name {name!r} {error}") from None
        cached = try_to_load_from_cache(repo, name, revision=commit, repo_type=kind)
        files.append(
            Remote(
                name,
                hf_hub_url(repo, name, repo_type=kind, revision=commit),
                sibling.size,
                sibling.lfs.sha256 if sibling.lfs else "",
                "" if sibling.lfs else sibling.blob_id or "",
                Path(cached) if isinstance(cached, str) else None,
                on_hub=True,
            )
        )
    return files


def cached_files(source: Source, revision: str | None) -> list[Remote]:
    """Lists what the hub's cache on this machine has of a repository; its blobs are named by their sums."""
    repo, kind = source.repo, source.repo_type
    try:
        folder = Path(snapshot_download(repo, repo_type=kind, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise UserError(
            f"{repo}: not in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to fetch it; unset that"
        ) from None
    files = []
    for path in walk_files(folder):
        name, blob = path.relative_to(folder).as_posix(), path.resolve().name
        sha256, git_sha1 = (blob if form.fullmatch(blob) else "" for form in (SHA256, GIT_SHA1))
        files.append(Remote(name, path.as_uri(), path.stat().st_size, sha256, git_sha1, path))
    return files
