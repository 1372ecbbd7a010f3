"""Starts all parts of the page, and ends them: its folder goes with it, after SIGKILL at the next start."""

from __future__ import annotations

import logging
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn

from egogen.errors import UserError, reason
from egogen.files import clean_parts, part_of
from egogen.listening import FAULTS, cannot_listen
from ldm.page.choosing import Chosen, choose
from ldm.page.desk import Desk
from ldm.page.engine import Engine, load_engine
from ldm.page.page_options import PageOptions
from ldm.page.photos import Limits, read_photo
from ldm.page.scenes import examples
from ldm.page.server import make_app
from ldm.page.stage_one_worker import StageOneWorker, worker_command

log = logging.getLogger(__name__)
EXAMPLES = 8
TOY_HEIGHTS = (32, 256)  # of example frames; a network of the toy world knows its own alone
CONNECTIONS = 256  # at once, besides those of frames that wait
GRACE = 2  # seconds for answers that are under way when the page ends


def serve(options: PageOptions) -> None:
    """Loads, says where the page is, and answers until it is ended.

    Raises:
        UserError: there is nothing to load, a checkpoint is none, or the port is taken.
    """
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, as_terminated)
    with closing(listen(options)) as listening, ExitStack() as ends:
        folder = ends.enter_context(own_folder())
        chosen = choose(options)
        desk = open_desk(options, chosen, folder, ends)
        config = uvicorn.Config(
            make_app(desk), log_config=None, access_log=False, log_level="warning", lifespan="off",
            timeout_graceful_shutdown=GRACE, server_header=False,
            limit_concurrency=CONNECTIONS + options.max_waiting,
        )  # fmt: skip
        server = uvicorn.Server(config)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"the page: http://{shown}:{port}   (Ctrl-C ends it)\n")
        sys.stdout.flush()
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            log.info("ended")


def leave(number: int, _frame: FrameType | None) -> NoReturn:
    """Ends the process as its signal would, but in good order."""
    raise SystemExit(128 + number)


def as_terminated(_number: int, _frame: FrameType | None) -> None:
    """Does what SIGTERM would at this moment: the server has its own way of ending."""
    signal.raise_signal(signal.SIGTERM)


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for all that the page writes; it is gone at the end, after SIGKILL at the next start.

    Raises:
        UserError: no folder can be made there.
    """
    place = Path(tempfile.gettempdir()) / "lego-page"
    clean_parts(place.parent, f".{place.name}.*.part")
    folder = part_of(place)
    try:
        folder.mkdir(mode=0o700)  # other people's photos
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({reason(error)}); TMPDIR names another place") from None
    log.info("uploads and frames: %s, deleted at the end", folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def listen(options: PageOptions) -> socket.socket:
    """The socket, before anything is loaded.

    Raises:
        UserError: the port or the address cannot be had.
    """
    try:
        return socket.create_server(
            (options.host, options.port), family=socket.AF_INET6 if ":" in options.host else socket.AF_INET
        )
    except FAULTS as error:
        raise cannot_listen(options.host, options.port, error) from None


def open_desk(options: PageOptions, chosen: Chosen, folder: Path, ends: ExitStack) -> Desk:
    """Loads both stages side by side, and lays out the examples."""
    worker = None
    if chosen.vllm is not None and options.vllm_python.exists():
        worker = StageOneWorker(worker_command(options.vllm_python, chosen.vllm, options.device))
        ends.callback(worker.close)
        worker.start()
    engine = load_engine(options, chosen)
    if worker is not None:
        worker.wait_ready()
    desk = Desk(engine, worker, folder)
    ends.callback(desk.close)
    lay_out(desk, engine)
    return desk


def lay_out(desk: Desk, engine: Engine) -> None:
    """Draws the example frames, as high as the first method draws."""
    low, high = TOY_HEIGHTS
    height = min(max(next(iter(engine.methods.values())).side, low), high)
    for example in examples(EXAMPLES, height):
        limits = Limits(1.0, 1.0)
        photo = read_photo(example.content, limits, example.actions, example.name)
        desk.examples.put(example.content, photo, example.name.replace(" ", "-"))
