"""An answer that is under way when the page ends is one line for each side, not a traceback."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from ldm.page.guard import ENDS, HEADERS, Guard

SCOPE = {"type": "http", "method": "GET", "path": "/api/draw", "headers": [(b"host", b"localhost:80")]}


@pytest.mark.parametrize("begun", [False, True])
def test_who_waits_when_the_page_ends_is_told(begun: bool, caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Message] = []

    async def ended(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise asyncio.CancelledError

    async def nothing() -> Message:
        return {"type": "http.request"}

    async def keep(message: Message) -> None:
        sent.append(message)

    asyncio.run(Guard(ended, True)(SCOPE, nothing, keep))  # type: ignore[arg-type]  # httptools gives more
    assert [message.get("status") for message in sent] == ([200] if begun else [503, None])
    assert begun or ENDS.encode() in sent[1]["body"]
    named = {name.decode() for name, _ in sent[0]["headers"]}
    assert {name.lower() for name in HEADERS} <= {name.lower() for name in named}
    assert "/api/draw: not answered to its end, since the page ends" in caplog.text
