"""A hub on this machine: lists repositories, serves files by ranges, takes commits, misbehaves when told."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


class Seen(NamedTuple):
    """A request for a file's content."""

    name: str
    range: str | None
    token: str | None


class Hub:
    """What the server holds and what it does wrong.

    `repos[type, id][name]` is a file; plain URLs are those of the repository ("", "").
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], dict[str, bytes]] = defaultdict(dict)
        self.plain: set[str] = set()  # files that are not LFS: their sum is Git's
        self.announced: dict[str, dict[str, Any]] = {}  # instead of the true size and sha256
        self.drop_at: dict[str, list[int]] = defaultdict(list)  # bytes after which connections are dropped
        self.statuses: dict[str, list[int]] = defaultdict(list)  # answers before the true one, by name or id
        self.stall_at: dict[str, int] = {}  # bytes after which nothing more comes
        self.stalled = threading.Event()
        self.refuse: dict[str, tuple[int, str]] = {}  # status and error code, by id
        self.no_ranges = False
        self.token: str | None = None
        self.seen: list[Seen] = []
        self.private: dict[tuple[str, str], bool] = {}  # of repositories that were made here
        self.stored: dict[str, bytes] = {}  # large files by their SHA-256, before a commit names them
        self.commits: list[str] = []  # their messages
        self.echo: tuple[str, int] | None = None  # a path that is refused with a status, with what was sent
        self.url = ""

    def info(self, kind: str, repo: str) -> dict[str, Any]:
        """The answer of the API."""
        siblings = []
        for name, content in self.repos[kind, repo].items():
            sha256 = hashlib.sha256(content).hexdigest()
            facts = {"size": len(content), "sha256": sha256} | self.announced.get(name, {})
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": facts["size"], "blobId": blob}
            if name not in self.plain:
                entry["lfs"] = {**facts, "pointerSize": 134}
            siblings.append(entry)
        private = self.private.get((kind, repo), False)
        return {"_id": "1", "id": repo, "sha": COMMIT, "private": private, "tags": [], "siblings": siblings}


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        """As GET, without content."""
        self.answer(with_content=False)

    def do_GET(self) -> None:
        """Any request."""
        self.answer(with_content=True)

    def do_POST(self) -> None:
        """What makes repositories and commits."""
        self.receive()

    def do_PUT(self) -> None:
        """A large file."""
        self.receive()

    def receive(self) -> None:
        """Takes what is sent; says back who sent it, where that is asked for."""
        path, sent = (
            unquote(urlsplit(self.path).path),
            self.rfile.read(int(self.headers["Content-Length"] or 0)),
        )
        token = self.headers["Authorization"]
        if self.hub.echo and self.hub.echo[0] in path:
            return self.send_plain(self.hub.echo[1], {}, json.dumps({"error": f"refused: {token}"}).encode())
        if self.hub.statuses[path]:
            return self.send_plain(self.hub.statuses[path].pop(0))
        if path.startswith("/lfs/"):  # as on the hub, of another server, which gets no token
            self.hub.stored[path.removeprefix("/lfs/")] = sent
            return self.send_plain(200)
        if self.hub.token and token != f"Bearer {self.hub.token}":
            return self.send_plain(401, {"X-Error-Code": "RepoNotFound"})
        return self.send_plain(200, {}, json.dumps(self.reply(path, sent)).encode())

    def reply(self, path: str, sent: bytes) -> dict[str, Any]:
        """The answer to a request that changes something."""
        if path == "/api/repos/create":
            asked = json.loads(sent)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            place = asked.get("type") or "model", name
            self.hub.private.setdefault(place, asked.get("visibility") == "private")
            self.hub.repos[place]
            return {"url": f"{self.hub.url}/{'datasets/' if place[0] == 'dataset' else ''}{name}"}
        if path.endswith("/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}
                for each in json.loads(sent)["objects"]
            ]
            return {"objects": objects}
        if found := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/(preupload|commit)/main", path):
            place = found[1], found[2]
            return self.preupload(sent) if found[3] == "preupload" else self.commit(place, sent)
        return {"errors": [], "warnings": []}  # of the check of a card's head

    def preupload(self, sent: bytes) -> dict[str, Any]:
        """Weights and data are large files, others go with the commit."""
        large = (".safetensors", ".parquet", ".tar")
        modes = {True: "lfs", False: "regular"}
        files = [
            {"path": name, "uploadMode": modes[name.endswith(large)], "shouldIgnore": False}
            for name in (each["path"] for each in json.loads(sent)["files"])
        ]
        return {"files": files}

    def commit(self, place: tuple[str, str], sent: bytes) -> dict[str, Any]:
        """Takes the files of a commit."""
        head, *changes = map(json.loads, sent.splitlines())
        for change in changes:
            value = change["value"]
            kept = change["key"] == "lfsFile"
            content = self.hub.stored[value["oid"]] if kept else base64.b64decode(value["content"])
            self.hub.repos[place][value["path"]] = content
        self.hub.commits.append(head["value"]["summary"])
        url = f"{self.hub.url}/{place[1]}/commit/{COMMIT}"
        return {"success": True, "commitOid": COMMIT, "commitUrl": url}

    def answer(self, *, with_content: bool) -> None:
        """Finds what is asked for."""
        path = unquote(urlsplit(self.path).path)
        if api := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/revision/.+)?", path):
            self.send_info(api[1], api[2])
        elif tree := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/tree/.+", path):
            files = self.hub.info(tree[1], tree[2])["siblings"]
            listed = [
                {"type": "file", "path": each["rfilename"], "size": each["size"], "oid": each["blobId"]}
                for each in files
            ]
            self.send_plain(200, {}, json.dumps(listed).encode())
        elif file := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self.send_file("dataset" if file[1] else "model", file[2], file[3], with_content)
        else:
            self.send_file("", "", path.removeprefix("/"), with_content)

    def send_info(self, kind: str, repo: str) -> None:
        """Lists a repository, or refuses."""
        if self.hub.statuses[repo]:
            self.send_plain(self.hub.statuses[repo].pop(0))
        elif repo in self.hub.refuse:
            status, code = self.hub.refuse[repo]
            self.send_plain(status, {"X-Error-Code": code})
        elif self.hub.token and self.headers["Authorization"] != f"Bearer {self.hub.token}":
            self.send_plain(401, {"X-Error-Code": "RepoNotFound"})
        elif (kind, repo) not in self.hub.repos:
            self.send_plain(404, {"X-Error-Code": "RepoNotFound"})
        else:
            self.send_plain(200, {}, json.dumps(self.hub.info(kind, repo)).encode())

    def send_file(self, kind: str, repo: str, name: str, with_content: bool) -> None:
        """Sends a file or the asked part of it; drops the connection where told."""
        if with_content:
            self.hub.seen.append(Seen(name, self.headers["Range"], self.headers["Authorization"]))
        if self.hub.statuses[name]:
            return self.send_plain(self.hub.statuses[name].pop(0))
        if (kind, repo) not in self.hub.repos or name not in self.hub.repos[kind, repo]:
            return self.send_plain(404, {"X-Error-Code": "EntryNotFound"})
        content = self.hub.repos[kind, repo][name]
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if not wanted or self.hub.no_ranges:
            return self.send_plain(200, headers, content, name, with_content)
        first = int(wanted[1])
        if first >= len(content):
            return self.send_plain(416)
        headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self.send_plain(206, headers, content[first:], name, with_content)

    def send_plain(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        content: bytes = b"",
        name: str = "",
        with_content: bool = True,
    ) -> None:
        """Sends an answer."""
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if not with_content:
            return
        if self.hub.drop_at[name]:
            self.wfile.write(content[: self.hub.drop_at[name].pop(0)])
            self.close_connection = True
            return
        if name in self.hub.stall_at:
            self.wfile.write(content[: self.hub.stall_at.pop(name)])
            self.hub.stalled.set()
            self.connection.settimeout(20)
            self.connection.recv(1)  # until the client goes away
            self.close_connection = True
            return
        self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Hub]:
    """Runs a hub while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
