"""Two hosts on one machine: network namespaces, joined by a bridge, each with a cable that can be pulled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.forked import CPU

ROOT = Path(__file__).parents[2]
NET, CARD, PORT = "10.77.0", "eth0", 29517
NAME = (
    f"lego{os.getpid() % 100_000}"  # of the bridge, and the beginning of all others; a card's has 15 letters
)


def ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], check=check, text=True, capture_output=True)


def missing() -> str:
    """What this machine lacks for namespaces; nothing where it has all."""
    if not shutil.which("ip"):
        return "no command ip here (Debian: iproute2)"
    made = ip("netns", "add", NAME, check=False)
    ip("netns", "del", NAME, check=False)
    return f"ip netns add: {made.stderr.strip()}" if made.returncode else ""


def measured(line: str) -> None:
    """Shows a figure of a run by hand (`pytest -s`)."""
    sys.stdout.write(f"{line}\n")


class Host:
    """A namespace with one network card, and the process group that was started in it."""

    def __init__(self, number: int) -> None:
        self.number, self.name, self.cable = number, f"{NAME}n{number}", f"{NAME}c{number}"
        self.log = Path()
        self.launcher: subprocess.Popen[bytes] | None = None
        ip("netns", "add", self.name)
        ip("link", "add", self.cable, "type", "veth", "peer", "name", CARD, "netns", self.name)
        ip("link", "set", self.cable, "master", NAME, "up")
        ip("-n", self.name, "addr", "add", f"{NET}.{number + 1}/24", "dev", CARD)
        for card in (CARD, "lo"):
            ip("-n", self.name, "link", "set", card, "up")

    def start(self, words: Sequence[str], log: Path) -> None:
        """`torchrun WORDS` as a person gives it on this host, one process of two."""
        self.log = log
        told = [f"--node-rank={self.number}", f"--master-addr={NET}.1", f"--master-port={PORT}"]
        launch = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *told, *words]
        variables = {**os.environ, **CPU, "GLOO_SOCKET_IFNAME": CARD, "PYTHONPATH": str(ROOT)}
        with log.open("ab") as file:
            self.launcher = subprocess.Popen(
                ["ip", "netns", "exec", self.name, sys.executable, *launch],
                cwd=ROOT, env=variables, stdout=file, stderr=file,
            )  # fmt: skip

    def wait(self, seconds: float = 240) -> int:
        """Waits for the end of what was started."""
        assert self.launcher is not None
        try:
            return self.launcher.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end: {self.printed}") from None

    def kill(self) -> None:
        """SIGKILL to all that runs here."""
        for pid in ip("netns", "pids", self.name, check=False).stdout.split():
            os.kill(int(pid), signal.SIGKILL)

    @property
    def printed(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""

    @property
    def errors(self) -> list[str]:
        """Lines by which our command ended."""
        return [line for line in self.printed.splitlines() if "error: " in line]


class Hosts:
    """Two hosts."""

    def __init__(self) -> None:
        self.two = [Host(0), Host(1)]

    def start(self, words: Sequence[str], logs: Path) -> None:
        """The same command on both."""
        for host in self.two:
            host.start(words, logs / f"host{host.number}.log")

    def train(self, words: Sequence[str], logs: Path) -> None:
        """Trains to the good end."""
        self.start(words, logs)
        assert [host.wait() for host in self.two] == [0, 0], "".join(
            host.printed[-3000:] for host in self.two
        )

    def until(self, condition: Callable[[], bool], seconds: float = 180) -> None:
        """Waits for something that both work on."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "nothing happened"
            for host in self.two:
                assert host.launcher is not None
                assert host.launcher.poll() is None, host.printed
            time.sleep(0.05)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """The second host has no network while the block runs."""
        ip("link", "set", self.two[1].cable, "down")
        try:
            yield
        finally:
            ip("link", "set", self.two[1].cable, "up")


@contextmanager
def hosts() -> Iterator[Hosts]:
    """Makes the network, and takes it away with all that runs in it."""
    ip("link", "add", NAME, "type", "bridge")
    try:
        ip("link", "set", NAME, "up")
        made = Hosts()
        yield made
    finally:
        for number in (0, 1):
            for pid in ip("netns", "pids", f"{NAME}n{number}", check=False).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            ip("link", "del", f"{NAME}c{number}", check=False)
            ip("netns", "del", f"{NAME}n{number}", check=False)
        ip("link", "del", NAME, check=False)
