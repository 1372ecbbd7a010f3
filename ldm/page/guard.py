"""Who may ask: what strangers' pages and names could do to a page on this machine is refused here."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ldm.page.page_options import LOOPBACK

# Nothing comes from elsewhere, nothing goes elsewhere, and no other page shows this one inside it.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Resource-Policy": "same-origin",
}

ENDS = "the page ends; ask again when it is back"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guard:
    """Wraps the application.

    `is_private`: this machine alone may come, so that another host name is somebody's trick (DNS rebinding).
    """

    app: ASGIApp
    is_private: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses, or passes on and adds headers to what comes back."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = refusal(headers, scope["method"], self.is_private)

        begun = False

        async def with_headers(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer: ASGIApp = self.app
        if refused:
            answer = JSONResponse({"error": refused}, 403)
        try:
            await answer(scope, receive, with_headers)
        except asyncio.CancelledError:  # the server waits no longer for what is under way
            log.warning("%s: not answered to its end, since the page ends", scope["path"])
            if not begun:
                await JSONResponse({"error": ENDS}, 503)(scope, receive, with_headers)


def refusal(headers: Headers, method: str, is_private: bool) -> str | None:
    """Why a request is refused; None if it is not."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if is_private and hostname(host) not in LOOPBACK:
        return f"this page answers under {', '.join(LOOPBACK)} alone; start it with --host 0.0.0.0 for others"
    if method not in ("GET", "HEAD") and origin is not None and origin.partition("://")[2] != host:
        return "another site's page may not ask this one"
    return None


def hostname(host: str) -> str:
    """The name in a `Host` header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
