"""Stage 1 as a process in its own environment: started once, asked again and again, anew if it dies."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Lock
from typing import Any

from egogen.errors import UserError, reason

log = logging.getLogger(__name__)
TRIES = 2  # of one question, if the process dies under it
PATIENCE = 5.0  # seconds that it has to end by itself


class StageOneCancelledError(Exception):
    """Nobody waits for the answer any more."""


class DiedError(Exception):
    """The process ended under a question."""


class StageOneWorker:
    """The process behind `python -m llava.serve`; one thread at a time asks it.

    Args:
        command: what starts it.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self.process: subprocess.Popen[str] | None = None
        self.ready, self.lock, self.closed = False, Lock(), False

    def start(self) -> None:
        """Starts it; it loads while others go on.

        Raises:
            UserError: it cannot be started, or the page is closing.
        """
        with self.lock:
            if self.closed:
                raise UserError("the page is closing")
            self.ready = False
            try:
                self.process = subprocess.Popen(  # noqa: S603 - our own command
                    self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
                    start_new_session=True,  # Ctrl-C is for the page, which then ends it
                )  # fmt: skip
            except OSError as error:
                raise UserError(
                    f"{self.command[0]}: cannot be run ({reason(error)}); it is to be stage 1's Python"
                ) from None

    def wait_ready(self) -> None:
        """Waits until it has loaded.

        Raises:
            UserError: it ended instead.
        """
        try:
            while not self.ready:
                self.ready = bool(self.hear().get("ready"))
        except DiedError as died:
            raise UserError(f"stage 1 could not be loaded: {died}; what it said is above") from None

    def hear(self) -> dict[str, Any]:
        """The next line that it says.

        Raises:
            DiedError: it has ended.
        """
        process = self.process
        if process is None or process.stdout is None:
            raise DiedError("it does not run")
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            raise DiedError(f"it ended with {'signal' if code < 0 else 'code'} {abs(code)}")
        said: dict[str, Any] = json.loads(line)
        return said

    def say(self, said: dict[str, object]) -> None:
        """Sends it a line.

        Raises:
            DiedError: it has ended.
        """
        process = self.process
        try:
            if process is None or process.stdin is None:
                raise DiedError("it does not run")
            process.stdin.write(json.dumps(said) + "\n")
            process.stdin.flush()
        except (OSError, ValueError):
            code = process.wait() if process else 0
            raise DiedError(f"it ended with {'signal' if code < 0 else 'code'} {abs(code)}") from None

    def ask(
        self,
        question: dict[str, object],
        on_text: Callable[[str], None],
        on_death: Callable[[str], None],
        cancelled: Event,
    ) -> str:
        """Asks it, and returns the whole description.

        Args:
            question: as `llava.serve` takes it, with its `id`.
            on_text: is given what is written so far.
            on_death: is given a message where the process had to be started anew.
            cancelled: ends the writing.

        Raises:
            UserError: stage 1 refuses the question, or died under it more than once.
            StageOneCancelledError: as asked for.
        """
        for _ in range(TRIES):
            try:
                self.revive(on_death)
                self.say(question)
                return self.listen(f"{question['id']}", on_text, cancelled)
            except DiedError as died:
                self.ready, why = False, f"{died}"
                log.warning("stage 1 died: %s", why)
                on_death(f"Stage 1 stopped ({why}); it is started anew, which takes a moment.")
        raise UserError(f"stage 1 stopped twice under this question ({why}); try another photo or action")

    def revive(self, on_death: Callable[[str], None]) -> None:
        """Starts the process if it has ended, and waits until it has loaded."""
        if self.ready and self.process is not None and self.process.poll() is not None:
            self.ready = False
            on_death("Stage 1 had stopped; it is started anew, which takes a moment.")
        if not self.ready:
            self.end()
            self.start()
            self.wait_ready()

    def listen(self, name: str, on_text: Callable[[str], None], cancelled: Event) -> str:
        """Hears it out on one question."""
        sent = False
        while True:
            said = self.hear()
            if said.get("id") != name:
                continue
            if said.get("cancelled"):
                raise StageOneCancelledError
            if "error" in said:
                raise UserError(said["error"])
            if said.get("done"):
                return str(said["text"])
            if cancelled.is_set() and not sent:
                self.say({"id": name, "cancel": True})
                sent = True
            on_text(str(said["text"]))

    def end(self) -> None:
        """Ends the process, if there is one."""
        process = self.process
        if process is None:
            return
        try:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(PATIENCE if self.ready else 0.1)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()

    def close(self) -> None:
        """Ends it for good."""
        self.closed = True
        self.end()


def worker_command(python: Path, vllm: Path, device: str) -> list[str]:
    """What starts the worker."""
    return [str(python), "-m", "llava.serve", "--model-path", str(vllm), "--device", device]
