"""A chat-completions server on this machine that misbehaves as it is told, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789"


@dataclass
class Answer:
    """One answer of the server.

    Args:
        status: of HTTP.
        body: JSON value, or bytes as they are sent.
        headers: further ones.
        length: of the body as it is announced; more than it has cuts the connection short.
        delay: seconds before it is sent.
        close: the connection, without a word.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    delay: float = 0.0
    close: bool = False


def completion(
    text: str | None, *, prompt_tokens: int = 1000, completion_tokens: int = 50, **more: Any
) -> Answer:
    """A proper answer."""
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": more.pop("finish", "stop")}
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    return Answer(body={"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage, **more})


def facts(request: dict[str, Any]) -> str:
    """The facts that a request asks about; a request that asks again has them further up."""
    asked = [message["content"] for message in request["messages"] if message["role"] == "user"]
    texts = [text if isinstance(text, str) else text[0]["text"] for text in asked]
    return next(text for text in reversed(texts) if text.startswith("Action: "))


def action(request: dict[str, Any]) -> str:
    """The action that a request asks about."""
    return facts(request).splitlines()[0].removeprefix("Action: ")


def describe(request: dict[str, Any]) -> Answer:
    """What a well-behaved model says."""
    return completion(
        f"The right hand reaches forward from the lower right, and so they {action(request)} with care. "
        "The left hand rests on the table."
    )


class Server:
    """What was asked, and how it is answered.

    Args:
        answer: makes the answer to a request's JSON.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str] = []
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.http.daemon_threads = True

    @property
    def url(self) -> str:
        """For `--base-url`."""
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler's
        """The handler of requests."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with server.lock:
                    server.requests.append(request)
                    server.times.append(time.monotonic())
                    server.keys.append(self.headers.get("authorization", ""))
                answer = server.answer(request)
                if answer.delay:
                    time.sleep(answer.delay)
                if answer.close:
                    self.close_connection = True
                    return
                body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                headers = {"content-type": "application/json", **answer.headers}
                self.send_response(answer.status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(answer.length or len(body)))
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = answer.length is not None

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        return Handler


@contextmanager
def serve(answer: Callable[[dict[str, Any]], Answer] = describe) -> Iterator[Server]:
    """Runs a server in a thread."""
    server = Server(answer)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def in_turn(*answers: Answer | Callable[[dict[str, Any]], Answer]) -> Callable[[dict[str, Any]], Answer]:
    """Answers one after the other; the last one goes on."""
    left = list(answers)
    lock = threading.Lock()

    def answer(request: dict[str, Any]) -> Answer:
        with lock:
            chosen = left.pop(0) if len(left) > 1 else left[0]
        return chosen if isinstance(chosen, Answer) else chosen(request)

    return answer
