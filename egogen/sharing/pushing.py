"""Sends a folder to the hub, in one commit: all of it arrives or nothing does."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from egogen.annotations import check_object
from egogen.errors import UserError, reason
from egogen.files import read_json
from egogen.patience import look, patiently
from egogen.sharing.model_card import CARD, check_repo, for_hub
from egogen.sharing.parcel import ADAPTERS, Parcel, pack
from egogen.sharing.results import FOUND, Results, read_results

log = logging.getLogger(__name__)
TOKEN = re.compile(r"[!-~]{8,}")  # what a header can hold
BASE = "base_model_name_or_path"  # of adapters


def push(
    folder: Path,
    repo: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    metrics: Mapping[str, float] | None = None,
    message: str = "",
    frames_may_be_shared: bool = False,
) -> str:
    """Sends a folder; files that are there already are not sent again.

    Args:
        folder: a model or exported data, see `egogen.sharing.parcel.pack`.
        repo: OWNER/NAME; made where it is not there.
        private: whether a new repository is seen by its owners alone; None is as its owner has set. Data
            need True, and a repository that is private if it is there already.
        token: of the hub; by default the one that `hf auth login` or HF_TOKEN left.
        metrics: measured values for a model's card; by default those of `metric.json` in the folder.
        message: of the commit.
        frames_may_be_shared: everybody may have the frames of data.

    Returns:
        The address of the commit.

    Raises:
        UserError: the folder cannot be sent as it is, there is no token, or the hub refuses; the token is in
            no message.
    """
    check_place(repo)
    token = check_token(token or get_token())
    parcel = pack(folder, token)
    if parcel.kept:
        log.info("%s: not sent: %s", folder, ", ".join(parcel.kept))
    results = Results(metrics) if metrics is not None else found_results(folder)
    return send(parcel, repo, private, token, results, message, frames_may_be_shared)


def check_place(repo: str) -> None:
    """Raises a `UserError` unless a name is that of somebody's repository."""
    if "/" not in check_repo(repo):
        raise UserError(f"{repo!r}: expected OWNER/NAME, a repository on the hub")


def found_results(folder: Path) -> Results:
    """The values that lie in the folder, if any do."""
    return read_results(folder / FOUND, folder) if (folder / FOUND).is_file() else Results()


def check_frames(parcel: Parcel, private: bool | None, may_be_shared: bool) -> None:
    """Raises a `UserError` if everybody would have frames that not everybody may have."""
    if parcel.repo_type == "dataset" and not (private or may_be_shared):
        raise UserError(
            f"{parcel.folder}: holds frames; give --private, or --frames-may-be-shared if everybody may have "
            "them"
        )


def check_token(token: str | None) -> str:
    """Returns the token; it is shown in no message, not even one that has no good form.

    Raises:
        UserError: there is none, or it has characters that no token has.
    """
    if not token:
        raise UserError(
            f"no token for {constants.ENDPOINT}: run hf auth login, or set HF_TOKEN, to one that may write"
        )
    if not TOKEN.fullmatch(token):
        raise UserError(
            "the token (of HF_TOKEN or hf auth login) has characters that none has; copy it again"
        )
    return token


def send(
    parcel: Parcel,
    repo: str,
    private: bool | None,
    token: str,
    results: Results,
    message: str,
    frames_may_be_shared: bool,
) -> str:
    """Makes the repository and the commit; arguments and errors are those of `push`."""
    check_frames(parcel, private, frames_may_be_shared)
    changed = {**card_of(parcel, repo, results), **adapters_of(parcel)}
    operations = [
        CommitOperationAdd(piece.name, changed.get(piece.name, piece.path)) for piece in parcel.pieces
    ]
    api, kind = HfApi(token=token), parcel.repo_type

    must_be_private = private if kind == "model" else not frames_may_be_shared

    def make() -> bool:
        api.create_repo(repo, private=private, repo_type=kind, exist_ok=True)
        return not must_be_private or bool(api.repo_info(repo, repo_type=kind).private)

    def commit() -> str:
        text = message or f"{parcel.folder.resolve().name}: {len(operations)} files"
        return api.create_commit(repo, operations, commit_message=text, repo_type=kind).commit_url

    try:
        if not patiently(make, repo, refusal):  # --private changes nothing where it is there already
            instead = ", or give --frames-may-be-shared" if kind == "dataset" else ", or leave --private out"
            raise UserError(
                f"{repo}: is there and public, and {parcel.folder} was to be private; make it private in its "
                f"settings on the hub, take another name{instead}"
            )
        return patiently(commit, repo, refusal)
    except UserError as error:  # a server may say back what it was told
        raise UserError(f"{error}".replace(token, "TOKEN")) from None
    except (RuntimeError, OSError) as error:  # of one file; the client wraps what the server said
        said = ": ".join(reason(each) for each in (error, error.__cause__) if each is not None)
        raise UserError(f"{repo}: {said}".replace(token, "TOKEN")) from None


def card_of(parcel: Parcel, repo: str, results: Results) -> dict[str, bytes]:
    """The card as it is sent, in place of the folder's own."""
    path = parcel.folder / CARD
    text = path.read_text(encoding="utf-8")
    if parcel.repo_type == "model":
        text = for_hub(text, path, repo, results)
    else:
        text = text.replace("path/to/this/folder", repo) if "load_dataset(" in text else text
    return {CARD: text.encode()}


def adapters_of(parcel: Parcel) -> dict[str, bytes]:
    """The settings of adapters as they are sent: their base by its name, not by its place on this machine."""
    path = parcel.folder / ADAPTERS
    if parcel.repo_type != "model" or not path.is_file():
        return {}
    settings = check_object(read_json(path), f"{path}", "settings of adapters")
    base = settings.get(BASE)
    if not isinstance(base, str) or not Path(base).is_absolute():
        return {}
    return {ADAPTERS: json.dumps({**settings, BASE: Path(base).name}, indent=2).encode()}


def refusal(error: HfHubHTTPError, status: int) -> str:
    """Why the hub refused, and what to do."""
    if status == 401:
        return f"the token is not known there (HTTP 401); run hf auth login, or set HF_TOKEN; {look()}"
    if status in (403, 404):
        return (
            f"the token may not write there (HTTP {status}); take one with the right to write, and a "
            "repository of yours or of your organisation's"
        )
    said = error.server_message or "no reason is given"
    return f"the server answered HTTP {status} ({' '.join(said.split())[:200]})"
