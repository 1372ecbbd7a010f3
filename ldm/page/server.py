"""The page over HTTP: its files, uploads, and requests that answer as they go or at their end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

import ldm
from egogen.errors import UserError
from egogen.files import parse_json
from egogen.reserved import text_fault
from ldm.checkpoints.stated_sizes import guidance_of
from ldm.diffusion.choices import PRESETS
from ldm.page.desk import Desk
from ldm.page.engine import Method
from ldm.page.frame_settings import FrameSettings, read_settings
from ldm.page.guard import Guard
from ldm.page.jobs import ENDS, Job, Told
from ldm.page.photos import Photo, read_photo, too_large
from ldm.page.scenes import COMMON
from ldm.page.shelf import NotKeptError
from ldm.page.waiting import FullError

STATIC = Path(__file__).with_name("static")
LINES = "application/x-ndjson"  # a line of JSON an event
MOST_JSON = 300_000  # bytes
DROPPED = 20  # times as many bytes as are kept are read at most
AT_ONCE = 2  # uploads that are decoded
LOOK = 0.5  # seconds between looks whether somebody is still there


class TooLargeError(UserError):
    """More bytes than are read."""


class GoneError(UserError):
    """What is asked for is not here."""


CODES: dict[type[Exception], int] = {TooLargeError: 413, GoneError: 404, FullError: 503, NotKeptError: 507}


def make_app(desk: Desk) -> ASGIApp:
    """The application."""
    server = PageServer(desk)
    routes = [
        Route("/", partial(file, STATIC / "index.html")),
        Route("/api", server.facts),
        Route("/api/photos", server.upload, methods=["POST"]),
        Route("/api/photos/{name}", server.photo),
        Route("/api/photos/{name}/view", server.view),
        Route("/api/photos/{name}/original", server.original),
        Route("/api/describe", server.describe, methods=["POST"]),
        Route("/api/draw", server.draw, methods=["POST"]),
        Route("/api/jobs/{name}", server.cancel, methods=["DELETE"]),
        Route("/api/frames/{name}.png", server.frame),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    app = Starlette(routes=routes, exception_handlers={UserError: refused, ClientDisconnect: nobody})
    return Guard(app, desk.engine.options.is_private)


async def file(path: Path, _request: Request) -> Response:
    """A file of the page."""
    return FileResponse(path, headers={"Cache-Control": "no-cache"})


async def refused(_request: Request, error: Exception) -> Response:
    """A mistake as JSON, with the code of its kind."""
    code = CODES.get(type(error), 400)
    return JSONResponse({"error": f"{error}"}, code, {"Retry-After": "30"} if code == 503 else None)


async def nobody(_request: Request, _error: Exception) -> Response:
    """What is said to somebody who has gone."""
    return Response(status_code=499)


class PageServer:
    """Answers requests; `running` holds what is being made, by the request's name."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.running: dict[str, Sequence[Job]] = {}
        self.decoding = asyncio.Semaphore(AT_ONCE)

    async def facts(self, _request: Request) -> Response:
        """What is loaded, what is allowed, and which examples there are."""
        options = self.desk.engine.options
        return JSONResponse(
            {
                "version": ldm.__version__,
                "stage_one": self.desk.worker is not None,
                "methods": [about(method) for method in self.desk.engine.methods.values()],
                "presets": PRESETS,
                "preset": options.preset,
                "limits": {
                    "mb": options.max_mb,
                    "megapixels": options.max_megapixels,
                    "side": options.max_side,
                    "steps": options.max_steps,
                    "frames": options.max_frames,
                    "waiting": options.max_waiting,
                },
                "waiting": self.desk.waiting,
                "examples": [shown(*each) for each in self.desk.examples.all()],
            }
        )

    async def upload(self, request: Request) -> Response:
        """Takes a photo: the body is its file."""
        content = await body(request, self.desk.limits.bytes, too_large(self.desk.limits))
        async with self.decoding:
            photo = await run_in_threadpool(read_photo, content, self.desk.limits, COMMON)
            name = await run_in_threadpool(self.desk.photos.put, content, photo)
        return JSONResponse(shown(name, photo), 201)

    def find(self, request: Request) -> Photo:
        """The photo that a request names."""
        try:
            return self.desk.find(request.path_params["name"])[0]
        except UserError as error:
            raise GoneError(f"{error}") from None

    async def photo(self, request: Request) -> Response:
        """What is known of a photo."""
        return JSONResponse(shown(request.path_params["name"], self.find(request)))

    async def view(self, request: Request) -> Response:
        """A small copy of a photo, without what its camera noted."""
        view = self.find(request).view
        kind = "image/png" if view.startswith(b"\x89PNG") else "image/jpeg"
        return Response(view, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})

    async def original(self, request: Request) -> Response:
        """A photo as it was uploaded, for `ldm.edit`."""
        photo, name = self.find(request), request.path_params["name"]
        path = self.desk.find(name)[1]
        return FileResponse(
            path, media_type="application/octet-stream", filename=f"photo{photo.suffix}",
            headers={"Cache-Control": "private, no-store"},
        )  # fmt: skip

    async def frame(self, request: Request) -> Response:
        """A drawn frame."""
        name = request.path_params["name"]
        if self.desk.frames.get(name) is None:
            raise GoneError("this frame is not kept any more; draw it again")
        return FileResponse(
            self.desk.frames.path(name), media_type="image/png",
            headers={"Cache-Control": "private, max-age=3600"},
        )  # fmt: skip

    async def describe(self, request: Request) -> Response:
        """Has stage 1 write how an action is done in a photo."""
        asked = await json_body(request, {"photo", "action", "seed"})
        photo = self.known(asked)
        if self.desk.worker is None:
            raise UserError("stage 1 is not loaded here; type a description by hand")
        rest = {name: value for name, value in asked.items() if name != "photo"}
        return await self.answer(request, [partial(Job, photo, read_settings(rest), None)])

    async def draw(self, request: Request) -> Response:
        """Draws frames of one photo."""
        asked = await json_body(request, {"photo", "frames"})
        photo, frames = self.known(asked), asked.get("frames")
        most = self.desk.engine.options.max_frames
        if not isinstance(frames, list) or not 1 <= len(frames) <= most:
            found = len(frames) if isinstance(frames, list) else "none"
            raise UserError(f"frames: got {found}, expected a list of 1 to {most}")
        _, path = self.desk.find(photo)
        makers = []
        for settings in map(read_settings, frames):
            check_texts(settings)
            plan = self.desk.engine.plan(settings, path)
            makers.append(partial(Job, photo, settings, plan))
        return await self.answer(request, makers)

    def known(self, asked: dict[str, Any]) -> str:
        """The name of the photo that a request is about.

        Raises:
            GoneError: it is not here.
        """
        name = asked.get("photo")
        if not isinstance(name, str):
            raise UserError("photo: missing; upload one to /api/photos, which gives it a name")
        try:
            self.desk.find(name)
        except UserError as error:
            raise GoneError(f"{error}") from None
        return name

    async def answer(self, request: Request, makers: Sequence[partial[Job]]) -> Response:
        """Lets jobs in; answers line by line if asked to (`Accept`), else at the end."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Told]()
        tell = partial(hand_over, loop, events)
        jobs = [make(tell, number) for number, make in enumerate(makers)]
        self.desk.submit(jobs)
        name = jobs[0].id
        self.running[name] = jobs
        stream = self.stream(name, jobs, events)
        first = await anext(stream)  # from here on, who goes away ends it
        if LINES in request.headers.get("accept", ""):
            return StreamingResponse(
                as_lines(first, stream), media_type=LINES, headers={"X-Accel-Buffering": "no"}
            )
        return await whole(request, stream, len(jobs))

    async def stream(
        self, name: str, jobs: Sequence[Job], events: asyncio.Queue[Told]
    ) -> AsyncGenerator[Told, None]:
        """Events until every job has ended; who stops listening has cancelled them."""
        try:
            yield {"event": "job", "job": name}
            left = len(jobs)
            while left:
                told = await events.get()
                left -= told["event"] in ENDS
                yield told
        finally:
            self.running.pop(name, None)
            for job in jobs:
                self.desk.cancel(job)

    async def cancel(self, request: Request) -> Response:
        """Cancels all jobs of a request."""
        jobs = self.running.get(request.path_params["name"])
        if jobs is None:
            raise GoneError("no such job runs; it may have ended")
        for job in jobs:
            await run_in_threadpool(self.desk.cancel, job)
        return JSONResponse({"cancelled": len(jobs)})


def hand_over(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Told], told: Told) -> None:
    """Brings an event from any thread to the one that answers, if it is still there."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(events.put_nowait, told)


async def as_lines(first: Told, stream: AsyncGenerator[Told, None]) -> AsyncIterator[str]:
    """Events as lines of JSON."""
    try:
        yield json.dumps(first) + "\n"
        async for told in stream:
            yield json.dumps(told) + "\n"
    finally:
        await stream.aclose()


async def whole(request: Request, stream: AsyncGenerator[Told, None], count: int) -> Response:
    """The last event of each job, once all have ended; stops them if nobody is there any more."""
    ends: list[Told] = [{} for _ in range(count)]
    reading = asyncio.create_task(gather(stream, ends))
    try:
        while not (await asyncio.wait({reading}, timeout=LOOK))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
    finally:
        reading.cancel()
        await asyncio.wait({reading})
        await stream.aclose()
    reading.result()
    failed = all(end["event"] != "done" for end in ends)
    first = {"error": ends[0].get("message", "cancelled")} if failed else {}
    return JSONResponse({**first, "frames": [told_at_end(end) for end in ends]}, 422 if failed else 200)


async def gather(stream: AsyncIterator[Told], ends: list[Told]) -> None:
    """Keeps the last event of each job."""
    async for told in stream:
        if told["event"] in ENDS:
            ends[int(str(told["frame"]))] = told


def told_at_end(end: Told) -> Told:
    """What a job came to, in an answer at the end."""
    if end["event"] != "done":
        return {"error": end.get("message", "cancelled")}
    return {name: value for name, value in end.items() if name not in ("event", "frame")}


def check_texts(settings: FrameSettings) -> None:
    """Raises a `UserError` for an action or a description that the models would read as signs."""
    for name, text in (("action", settings.action), ("description", settings.description)):
        if text is not None and (fault := text_fault(text)):
            raise UserError(f"{name}: {fault}")


async def body(request: Request, most: int, error: UserError) -> bytes:
    """The body of a request, of which no more is kept than is allowed.

    What is too much is read and dropped, since a browser hears no answer before it has sent all.

    Raises:
        TooLargeError: there is more.
    """
    parts, size = list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size <= most:
            parts.append(part)
        elif size > DROPPED * most:
            break
        else:
            parts.clear()
    if size > most:
        raise TooLargeError(f"{error}")
    return b"".join(parts)


async def json_body(request: Request, names: set[str]) -> dict[str, Any]:
    """The JSON object in a request.

    Raises:
        UserError: it is none, or has other names.
    """
    content = await body(request, MOST_JSON, UserError(f"the request is larger than {MOST_JSON} bytes"))
    found = parse_json(content, "request")
    if not isinstance(found, dict):
        raise UserError(f"request: expected a JSON object with {', '.join(sorted(names))}")
    for name in found:
        if name not in names:
            raise UserError(f"request: {name!r} is not known; allowed are {', '.join(sorted(names))}")
    return found


def shown(name: str, photo: Photo) -> Told:
    """What the page is told of a photo."""
    return {
        "photo": name,
        "name": photo.name,
        "width": photo.width,
        "height": photo.height,
        "view": f"/api/photos/{name}/view",
        "original": f"/api/photos/{name}/original",
        "actions": photo.actions,
    }


def about(method: Method) -> Told:
    """What the page is told of a method."""
    distilled, guidance = method.distilled, guidance_of(method.parts)
    return {
        "name": method.name,
        "size": method.side,
        "described": method.networks.vllm is not None,
        "text_guidance": None if distilled is None else distilled.text,
        "image_guidance": None if distilled is None else distilled.image,
        "cfg_text": guidance and guidance[0],
        "cfg_image": guidance and guidance[1],
        "steps": None if distilled is None else distilled.phases,
    }
