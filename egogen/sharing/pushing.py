"""Sends a folder to the hub, in one commit: all of it arrives or nothing does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from egogen.errors import UserError, reason
from egogen.patience import look, patiently
from egogen.sharing.model_card import CARD, check_repo, for_hub, read_metrics
from egogen.sharing.parcel import Parcel, pack

TOKEN = re.compile(r"[!-~]{8,}")  # what a header can hold
FOUND = "metric.json"  # measured values, in the folder


def push(
    folder: Path,
    repo: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    metrics: Mapping[str, float] | None = None,
    message: str = "",
) -> str:
    """Sends a folder; files that are there already are not sent again.

    Args:
        folder: a model or exported data, see `egogen.sharing.parcel.pack`.
        repo: OWNER/NAME; made where it is not there.
        private: whether a new repository is seen by its owners alone; None is as its owner has set.
        token: of the hub; by default the one that `hf auth login` or HF_TOKEN left.
        metrics: measured values for a model's card; by default those of `metric.json` in the folder.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        UserError: the folder cannot be sent as it is, there is no token, or the hub refuses; the token is in
            no message.
    """
    check_place(repo)
    token = check_token(token or get_token())
    return send(pack(folder, token), repo, private, token, measured(folder, metrics), message)


def check_place(repo: str) -> None:
    """Raises a `UserError` unless a name is that of somebody's repository."""
    if "/" not in check_repo(repo):
        raise UserError(f"{repo!r}: expected OWNER/NAME, a repository on the hub")


def measured(folder: Path, metrics: Mapping[str, float] | None) -> Mapping[str, float]:
    """The values that were handed in, else those that lie in the folder."""
    if metrics is None and (folder / FOUND).is_file():
        return read_metrics(folder / FOUND)
    return metrics or {}


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
    parcel: Parcel, repo: str, private: bool | None, token: str, metrics: Mapping[str, float], message: str
) -> str:
    """Makes the repository and the commit."""
    cards = card_of(parcel, repo, metrics)
    operations = [
        CommitOperationAdd(piece.name, cards.get(piece.name, piece.path)) for piece in parcel.pieces
    ]
    api, kind = HfApi(token=token), parcel.repo_type

    def ask() -> str:
        api.create_repo(repo, private=private, repo_type=kind, exist_ok=True)
        text = message or f"{parcel.folder.resolve().name}: {len(operations)} files"
        return api.create_commit(repo, operations, commit_message=text, repo_type=kind).commit_url

    try:
        return patiently(ask, repo, refusal)
    except UserError as error:  # a server may say back what it was told
        raise UserError(f"{error}".replace(token, "TOKEN")) from None
    except (RuntimeError, OSError) as error:  # of one file; the client wraps what the server said
        said = ": ".join(reason(each) for each in (error, error.__cause__) if each is not None)
        raise UserError(f"{repo}: {said}".replace(token, "TOKEN")) from None


def card_of(parcel: Parcel, repo: str, metrics: Mapping[str, float]) -> dict[str, bytes]:
    """The card as it is sent, in place of the folder's own."""
    path = parcel.folder / CARD
    text = path.read_text(encoding="utf-8")
    if parcel.repo_type == "model":
        text = for_hub(text, path, repo, metrics)
    else:
        text = text.replace("path/to/this/folder", repo) if "load_dataset(" in text else text
    return {CARD: text.encode()}


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
