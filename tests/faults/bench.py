"""Runs a command undisturbed or with a fault, and compares what it leaves."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from egogen.errors import shorten
from tests.faults.cases import CPU_ENVIRONMENT, Case, matches
from tests.faults.injury import Injury, hurt
from tests.forked import Forked

ROOT = Path(__file__).parents[2]
UNFINISHED = (".part", ".lock", ".tmp")


class Bench:
    """A command, its undisturbed result and the number of changes that make it."""

    def __init__(self, case: Case, root: Path) -> None:
        self.case, self.root, self.runs = case, root, 0
        self.more: tuple[str, ...] = ()  # words of the last run that the undisturbed one had not
        self.saved: dict[Path, bytes] = {}
        self.fresh()
        run = self.run()
        assert run.wait() == 0, run.printed
        self.changes = self.count()
        self.events = self.counter.with_suffix(".events").read_text().split()
        self.whole = self.result()
        self.largest = max(path.stat().st_size for path in self.files().values())
        self.lengths = {name: path.stat().st_size for name, path in self.files().items()}
        self.requests = self.asked()

    def fresh(self) -> None:
        """Nothing is made yet."""
        shutil.rmtree(self.case.made, ignore_errors=True)
        self.case.made.mkdir()

    def asked(self) -> int:
        """How often somebody was asked who is paid."""
        return self.case.asked() if self.case.asked else 0

    def start(self, kind: str = "none", at: int = 0, *more: str, largest: int = 0, reads: str = "") -> Forked:
        """Starts the command with a harm at its change number `at`."""
        self.runs, self.more = self.runs + 1, more
        injury = Injury(kind, at, self.counter, self.case.made, reads)
        return Forked(
            hurt, injury, largest, self.case.prelude, self.case.module, [*self.case.argv, *more],
            log=self.root / f"{self.runs}.txt", environment={**CPU_ENVIRONMENT, **self.case.environment},
            folder=ROOT,
        )  # fmt: skip

    def run(self, kind: str = "none", at: int = 0, *more: str, largest: int = 0, reads: str = "") -> Forked:
        """The same, to its end."""
        process = self.start(kind, at, *more, largest=largest, reads=reads)
        process.wait()
        return process

    @property
    def counter(self) -> Path:
        return self.root / f"{self.runs}.count"

    def count(self) -> int:
        """Changes that the last run made or tried."""
        return int.from_bytes(self.counter.read_bytes(), "little")

    def files(self) -> dict[str, Path]:
        """All files by their paths in the folder."""
        found = sorted(path for path in self.case.made.rglob("*") if path.is_file())
        return {path.relative_to(self.case.made).as_posix(): path for path in found}

    def result(self, *, twice: bool = False) -> dict[str, str]:
        """What a finished run leaves: a digest by path, and no unfinished file; `twice` as of `digest`."""
        files = self.files()
        left = [name for name in files if name.endswith(UNFINISHED)]
        assert not left, f"unfinished files are left: {left}"
        found = {name: self.digest(name, path, twice) for name, path in files.items() if not self.skips(name)}
        joined = [path.read_bytes() for name, path in files.items() if matches(self.case.joined, name)]
        lines = sorted(line for each in joined for line in each.splitlines() if is_json(line))
        return found | ({"joined": hashlib.sha256(b"\n".join(lines)).hexdigest()} if joined else {})

    def skips(self, name: str) -> bool:
        told_anew = bool(self.more) and matches(self.case.words, name)
        return told_anew or matches(self.case.skip, name) or matches(self.case.joined, name)

    def digest(self, name: str, path: Path, twice: bool = False) -> str:
        """Of content; of a journal its lines in any order, each once, unless it may be there `twice`."""
        content = path.read_bytes()
        if matches(self.case.journals, name):
            lines = content.splitlines()
            content = b"\n".join(sorted(last_rows(lines) if twice else lines))
        elif path.suffix == ".ckpt" and matches(self.case.growing, name):
            content = tensors(path)
        return hashlib.sha256(content).hexdigest()

    def check_visible(self) -> None:
        """No half file has its name: each is as the undisturbed run leaves it, or a shorter journal."""
        for name, path in self.files().items():
            hidden = any(part.startswith(".") for part in Path(name).parts)
            if hidden or name not in self.whole or self.skips(name):
                continue
            if matches(self.case.journals, name) or matches(self.case.growing, name):
                assert path.stat().st_size > 0, f"{name} is empty"
            else:
                assert self.digest(name, path) == self.whole[name], f"{name} is not whole"

    def finish(self, *more: str, twice: bool = False) -> None:
        """The same command ends in the undisturbed result; an item that was made anew may be told `twice`."""
        run = self.run("none", 0, *more)
        assert run.poll() == 0, f"the same command again ends with {run.poll()}: {run.printed[-3000:]}"
        found = self.result(twice=twice)
        others = {
            name
            for name in found.keys() | self.whole.keys()
            if found.get(name) != self.whole.get(name) and not self.skips(name)
        }
        assert not others, f"differs from the undisturbed result: {shorten(sorted(others), 600)}"

    def point(self, share: float) -> int:
        """The number of the change so far into the run."""
        return 1 + round(share * (self.changes - 1))

    def damage(self, path: Path, content: bytes) -> None:
        """Puts other content in an input; `mend` brings it back."""
        self.saved[path] = path.read_bytes()
        path.write_bytes(content)

    def mend(self) -> None:
        """All inputs are as they were."""
        while self.saved:
            path, content = self.saved.popitem()
            path.write_bytes(content)


def is_json(line: bytes) -> bool:
    """Whether a line is whole; in a journal that no later run adds to a torn one stays and is passed over."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def last_rows(lines: list[bytes]) -> list[bytes]:
    """Of the rows that speak of one action the last, which counts."""
    rows = [(json.loads(line), line) for line in lines]
    return list({(row["clip"], row["id"]): line for row, line in rows}.values())


def tensors(path: Path) -> bytes:
    """What a checkpoint says of the state of a run, without times."""
    from ldm.checkpoints.safe_reading import read

    content = read(path)
    parts = ("global_step", "state_dict", "optimizer_states", "lr_schedulers")
    kept = {key: content[key] for key in parts if key in content}
    return json.dumps(plain(kept), sort_keys=True).encode()


def plain(value: object) -> object:
    """Tensors as digests, for comparing."""
    import torch

    if isinstance(value, torch.Tensor):
        bits = value.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        return hashlib.sha256(bits.numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {f"{key}": plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return repr(value)
