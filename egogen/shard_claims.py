"""Who works on which shard of an output folder: claimed, kept alive, done (`--shard`, `egogen.status`).

Files alone, below `<output>/.shards`, so that any scheduler works and processes may come and go:

`plan.json`          how many shards there are, and the command
`3_of_8.claim`       made by the one process that works on the shard, and written anew while it does
`3_of_8.done`        what became of it
`3_of_8.left`        what a process that failed got done

A claim that gives no sign for minutes is taken over. Its silence is what another process has seen by its own
monotonic clock: the clocks of machines differ, and are set back.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from egogen.disk import no_room
from egogen.errors import UserError, reason
from egogen.files import is_running, read_json, regular, write_json
from egogen.locks import HeldError, hold
from egogen.reserved import unseen
from egogen.shards import MOST_SHARDS, Shard
from egogen.told_command import told_command

FOLDER, PLAN = ".shards", "plan.json"
CLAIM, DONE, LEFT = ".claim", ".done", ".left"
BEAT = 15.0  # seconds between signs of life
STALE = 180.0  # seconds without one after which a claim belongs to nobody
LARGEST, LONGEST = 2**31, 1e9  # numbers and seconds that a file may tell of
LARGEST_NOTE = 1 << 16  # bytes of a shard's file
POLL = 2.0  # seconds between looks at what others do
MOST_FAILURES = 3  # shards that fail, and none that succeeds: what is wrong is wrong with all
Note = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass
class Work:
    """What a process tells of the shard that it works on.

    `total`: its items. `before`: those that were there when it began. `done`: those that are there now.
    `lost`: who has taken it over. `unnoted`: its end could not be noted.
    """

    shard: Shard
    total: int = 0
    before: int = 0
    done: int = 0
    lost: str = ""
    unnoted: bool = False
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    since: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(" ", "seconds"))
    began: float = field(default_factory=time.monotonic)

    def begin(self, total: int, before: int) -> None:
        """Says how much there is to do."""
        self.total, self.before, self.done = total, before, before

    def advance(self, count: int = 1) -> None:
        """Says that items are made.

        Raises:
            UserError: another process has taken the shard over.
        """
        self.done += count
        if self.lost:
            raise UserError(
                f"shard {self.shard} was taken over by {self.lost}, since this process gave no sign for "
                "minutes; what it made is kept, and the other one goes on"
            )

    @property
    def note(self) -> Note:
        """What its file says."""
        told = {name: getattr(self, name) for name in ("total", "before", "done", "since", "token")}
        seconds = round(time.monotonic() - self.began, 1)
        return {
            **told,
            "seconds": seconds,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "place": place(),
        }


@cache
def place() -> str:
    """This machine and its numbering of processes: where a process number means the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return socket.gethostname()


class Claims:
    """The shards of one output folder.

    Args:
        folder: where the results go.
        count: how many shards there are.
        together: processes claim them; a folder that others have begun so keeps its number.
        about: what is made, where one folder holds results of several kinds: of another kind, all begin anew.
        stale: seconds without a sign after which a claim is taken over.

    Raises:
        UserError: the folder's plan cannot be read.
    """

    def __init__(
        self, folder: Path, count: int, *, together: bool = False, about: str = "", stale: float = STALE
    ) -> None:
        self.output, self.folder, self.count = folder, folder / FOLDER, count
        self.together, self.about, self.stale = together, about, stale
        self.seen: dict[Path, tuple[str, float]] = {}  # what a claim said, and since when it has
        self.worked = 0  # shards that this process has done
        self.busy: dict[Shard, float] = {}  # when a lock said that its shard is worked on
        begun = read_plan(self.folder / PLAN) if together else None
        if begun is not None and begun.get("together") and begun["shards"] != count:
            self.count = begun["shards"]
            log.info("%s is worked on in %d shards", folder, self.count)

    def plan(self) -> None:
        """Says in the folder how it is worked on, unless living processes work on it in another way."""
        path = self.folder / PLAN
        made = {"shards": self.count, "together": self.together, "about": self.about}
        with hold(path, "planning", wait=True):
            begun = read_plan(path)
            alike = begun is not None and all(begun.get(name) == value for name, value in made.items())
            if begun is not None and not alike and self.is_alive():
                return
            if begun is not None and begun.get("about") != self.about:
                for kind in (DONE, LEFT):
                    for old in self.folder.glob(f"*{kind}"):
                        old.unlink(missing_ok=True)
            write_json(path, {**made, "command": told_command(sys.orig_argv[1:])})

    def is_alive(self) -> bool:
        """Whether a process may work on some shard."""
        claims = self.folder.glob(f"*{CLAIM}")
        return any(not has_gone(parse_note(read_quietly(path))) for path in claims)

    @property
    def shards(self) -> list[Shard]:
        """All of them."""
        return [Shard(index, self.count) for index in range(1, self.count + 1)]

    def path(self, shard: Shard, kind: str) -> Path:
        """A file of a shard."""
        return self.folder / f"{shard.name}{kind}"

    def is_done(self, shard: Shard) -> bool:
        """Whether it is finished."""
        return self.path(shard, DONE).exists()

    def take(self, work: Callable[[Work], object]) -> None:
        """Works on one free shard after the other until all are done, by this process or by others.

        Where others hold all that is left it waits for them, and takes over what they drop. A folder whose
        shards are all done is gone through once more: what is missing in it is made. A shard that fails is
        left to others, and the rest is done first; three that fail and none that succeeds end the work.

        Raises:
            UserError: the first fault of a shard that nobody could do.
        """
        self.plan()
        if all(map(self.is_done, self.shards)):
            log.info("%s: all %d shards are done; looking for what is missing", self.output, self.count)
            for shard in self.shards:
                self.path(shard, DONE).unlink(missing_ok=True)
        failed: dict[Shard, UserError] = {}
        told = -self.stale
        while left := [shard for shard in self.shards if not self.is_done(shard) and shard not in failed]:
            if self.try_each(left, work, failed):
                continue
            if time.monotonic() - told > self.stale:
                log.info("other processes work on what is left, %d shards; waiting for them", len(left))
                told = time.monotonic()
            time.sleep(min(POLL, self.stale / 4))
        for shard, error in failed.items():
            if not self.is_done(shard):
                raise error

    def try_each(
        self, left: Sequence[Shard], work: Callable[[Work], object], failed: dict[Shard, UserError]
    ) -> bool:
        """Works on those of some shards that are free, and puts down which fail; whether there were any."""
        happened = False
        for shard in left:
            try:
                done = self.attempt(shard, work)
            except UserError as error:
                failed[shard], done = error, False
                log.warning("shard %s: %s", shard, error)
                if len(failed) >= MOST_FAILURES and not self.worked:
                    raise
            self.worked += done
            happened |= done or shard in failed
        return happened

    def attempt(self, shard: Shard, work: Callable[[Work], object]) -> bool:
        """Works on a shard, unless another process does or has done so; returns whether it has."""
        busy = time.monotonic() - self.busy.get(shard, -self.stale) < self.stale
        if busy or self.is_done(shard) or not self.is_free(shard):
            return False
        try:
            with self.alive(Work(shard)) as told:
                work(told)
        except HeldError as error:  # another one was quicker, or is silent and holds the lock
            log.info("%s", error)
            self.busy[shard] = time.monotonic()
            return False
        if told.lost:  # who has it now makes it, too
            self.busy[shard] = time.monotonic()
            return False
        if told.unnoted:  # or this process would make it for ever
            raise UserError(f"{self.path(shard, DONE)}: could not be written, though the shard is done")
        return True

    @contextmanager
    def own(self, shard: Shard) -> Iterator[Work]:
        """Holds a shard that this process was told to take, whatever a claim says: locks guard its files."""
        self.plan()
        for kind in (CLAIM, DONE):
            self.path(shard, kind).unlink(missing_ok=True)
        with self.alive(Work(shard)) as told:
            yield told

    def is_free(self, shard: Shard) -> bool:
        """Whether a shard can be claimed; the claim of a process that has gone is removed."""
        path = self.path(shard, CLAIM)
        if not os.path.lexists(path):
            return True
        said = read_quietly(path)
        if not has_gone(parse_note(said)) and not self.is_silent(path, said):
            return False
        aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        try:
            path.rename(aside)  # of several that try, one succeeds
        except FileNotFoundError:
            return False
        with suppress(OSError):  # a folder: no process's claim
            aside.unlink(missing_ok=True)
        log.warning("shard %s: its process has gone; this one goes on", shard)
        return True

    def is_silent(self, path: Path, said: str) -> bool:
        """Whether a claim has said the same for too long."""
        sign, since = self.seen.get(path, (None, 0.0))
        if sign != said:
            self.seen[path] = (said, time.monotonic())
            return False
        return time.monotonic() - since > self.stale

    @contextmanager
    def alive(self, work: Work) -> Iterator[Work]:
        """Claims a shard, gives signs of life while the block runs, and notes how it ended.

        Raises:
            HeldError: another process was quicker.
        """
        path = self.path(work.shard, CLAIM)
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(work.note, file)
        except FileExistsError:
            raise HeldError(f"shard {work.shard}: another process has claimed it") from None
        except OSError as error:
            raise no_room(path, error) or UserError(f"{path}: cannot be written ({reason(error)})") from None
        ended = threading.Event()
        thread = threading.Thread(target=self.beat, args=(path, work, ended), daemon=True)
        thread.start()
        end = LEFT
        try:
            yield work
            end = DONE
        except HeldError:
            end = CLAIM  # it was never this process's
            raise
        finally:
            ended.set()
            thread.join()
            if not work.lost and end == CLAIM:
                path.unlink(missing_ok=True)
            elif not work.lost:
                self.note_end(work, end)

    def note_end(self, work: Work, end: str) -> None:
        """Says what became of a shard, and gives it free."""
        try:
            if end == DONE or work.done:
                write_json(self.path(work.shard, end), work.note, indent=None)
            if end == DONE or not work.done:
                self.path(work.shard, LEFT).unlink(missing_ok=True)
        except (OSError, UserError) as error:  # a full or read-only disk: the shard counts as not done
            log.warning("%s", error)
            work.unnoted = not self.is_done(work.shard)
        with suppress(OSError):
            self.path(work.shard, CLAIM).unlink(missing_ok=True)
            if end == LEFT and not work.done and not self.together:
                self.clear()

    def clear(self) -> None:
        """Leaves no trace of a run of which nothing has become."""
        if {path.name for path in self.folder.iterdir()} <= {PLAN}:
            (self.folder / PLAN).unlink(missing_ok=True)
            with suppress(OSError):  # somebody begins just now, or there are results
                self.folder.rmdir()
                self.output.rmdir()

    def beat(self, path: Path, work: Work, ended: threading.Event) -> None:
        """Writes a claim anew now and then, as long as it is this process's."""
        while not ended.wait(min(BEAT, self.stale / 4)):
            try:
                other = parse_note(read_quietly(path))
                if other and other["token"] != work.token:
                    work.lost = f"process {other['pid']} on {other['host']}"
                    return
                write_json(path, work.note, indent=None)  # also where another one has removed it
            except (OSError, UserError) as error:
                log.warning("%s: no sign of life could be given (%s)", path, error)


def read_plan(path: Path) -> Note | None:
    """How a folder is worked on; None if nothing says so.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return None
    plan = read_json(path)
    if isinstance(plan, dict) and is_count(plan.get("shards")) and 0 < plan["shards"] <= MOST_SHARDS:
        return plan
    raise UserError(f"{path}: says of no number of shards; delete it, and start the command again")


def read_quietly(path: Path) -> str:
    """What a file says; nothing if it has gone, is none, or cannot be read just now."""
    try:
        with regular(path).open("rb") as file:
            return file.read(LARGEST_NOTE).decode("utf-8", "replace")
    except (OSError, UserError):
        return ""


def parse_note(text: str) -> Note:
    """What a file of a shard says; empty while it is being written, or if it was cut."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    whole = (
        isinstance(told, dict)
        and all(is_line(told.get(name)) for name in ("place", "host", "token"))
        and is_line(told.get("since", ""))
        and all(is_count(told.get(name)) for name in ("pid", "done", "total"))
        and is_count(told.get("before", 0))
        and isinstance(seconds := told.get("seconds", 0), int | float)
        and 0 <= seconds < LONGEST
    )
    return told if whole else {}


def is_line(value: object) -> bool:
    """Whether a value is text that a terminal may be shown."""
    return isinstance(value, str) and not unseen(value) and "\n" not in value


def is_count(value: object) -> bool:
    """Whether a value is a number of something, or of a process."""
    return type(value) is int and 0 <= value < LARGEST


def has_gone(note: Note) -> bool:
    """Whether the process of a note ran here and runs no more."""
    return bool(note) and note["place"] == place() and not is_running(int(note["pid"]))
