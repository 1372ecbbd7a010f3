"""Shards that processes claim by files: real processes, killed and silent ones; what `egogen.status` says."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from egogen import shard_claims, status
from egogen.errors import UserError
from egogen.files import write_json
from egogen.locks import HeldError
from egogen.shard_claims import CLAIM, DONE, FOLDER, LEFT, Claims, Work, place
from egogen.shards import Shard, take_shard

ITEMS = range(40)
CONTEXT = multiprocessing.get_context("fork")


def share(out: Path, count: int, stale: float, pause: float, company: int = 1) -> None:
    """A process that writes a line for each of the items of the shards that it gets.

    After each of them it waits until as many processes as `company` have written one.
    """

    def work(told: Work) -> None:
        mine = take_shard(ITEMS, *told.shard)
        there = [item for item in mine if (out / f"{item}").exists()]
        told.begin(len(mine), len(there))
        for item in mine:
            if item not in there:
                time.sleep(pause)
                with (out / f"{item}").open("a") as file:
                    file.write(f"{os.getpid()}\n")
                end = time.monotonic() + 60
                while len({pid for lines in made(out).values() for pid in lines}) < company:
                    assert time.monotonic() < end, "nobody else works"
                    time.sleep(0.01)
                told.advance()

    Claims(out, count, together=True, stale=stale).take(work)


def begin(
    out: Path, count: int, stale: float = 60.0, pause: float = 0.01, company: int = 1
) -> multiprocessing.process.BaseProcess:
    """Starts such a process."""
    process = CONTEXT.Process(target=share, args=(out, count, stale, pause, company))
    process.start()
    return process


def made(out: Path) -> dict[int, list[str]]:
    """Which processes wrote each item."""
    return {item: (out / f"{item}").read_text().split() for item in ITEMS if (out / f"{item}").exists()}


def test_processes_share_the_shards_and_each_item_is_made_once(tmp_path: Path) -> None:
    processes = [begin(tmp_path, 8, company=3) for _ in range(3)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert {len(lines) for lines in made(tmp_path).values()} == {1}
    assert made(tmp_path).keys() == set(ITEMS)
    assert len({lines[0] for lines in made(tmp_path).values()}) == 3  # they shared
    assert {path.name for path in (tmp_path / FOLDER).iterdir()} == {
        "plan.json", *(f"{number}_of_8{DONE}" for number in range(1, 9)),
    }  # fmt: skip


def test_what_a_killed_process_held_is_taken_over_at_once(tmp_path: Path) -> None:
    """On the same machine its number says that it has gone; nobody waits for its silence."""
    first = begin(tmp_path, 2, pause=0.1)
    while len(made(tmp_path)) < 3:
        time.sleep(0.02)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    share(tmp_path, 2, 600.0, 0.0)
    assert made(tmp_path).keys() == set(ITEMS)
    assert {len(lines) for lines in made(tmp_path).values()} == {1}


def claim_of(out: Path, shard: Shard, **changed: object) -> Path:
    """A claim that some process of another machine made."""
    path = out / FOLDER / f"{shard.name}{CLAIM}"
    path.parent.mkdir(exist_ok=True)
    note = {**Work(shard).note, "place": "elsewhere", "host": "node7", "pid": 1, **changed}
    path.write_text(json.dumps(note))
    return path


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_claim_is_not_waited_for_longer_than_one(tmp_path: Path, kind: str) -> None:
    (tmp_path / FOLDER).mkdir()
    path = tmp_path / FOLDER / f"1_of_1{CLAIM}"
    {"folder": path.mkdir, "pipe": partial(os.mkfifo, path), "link": partial(path.symlink_to, "none")}[kind]()
    share(tmp_path, 1, 0.4, 0.0)
    assert made(tmp_path).keys() == set(ITEMS)
    assert not os.path.lexists(path)


def test_a_note_of_a_failure_that_stays_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / FOLDER / f"1_of_1{LEFT}").mkdir(parents=True)
    share(tmp_path, 1, 60.0, 0.0)
    assert (tmp_path / FOLDER / f"1_of_1{DONE}").is_file()


def test_a_shard_whose_end_cannot_be_noted_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []

    def refuse(path: Path, value: object, indent: int | None = 4) -> None:
        if path.suffix == DONE:
            raise UserError(f"{path}: cannot be written")
        write_json(path, value, indent)

    monkeypatch.setattr(shard_claims, "write_json", refuse)
    with pytest.raises(UserError, match=r"1_of_1\.done: could not be written, though the shard is done"):
        Claims(tmp_path, 1, together=True).take(lambda told: rounds.append(told.shard))
    assert len(rounds) == 1


def test_a_shard_that_was_lost_is_no_failure(tmp_path: Path) -> None:
    """Who has taken it over makes it; this process waits for that."""
    done = tmp_path / FOLDER / f"1_of_1{DONE}"

    def work(told: Work) -> None:
        told.lost = "process 1 on node7"
        (tmp_path / FOLDER / f"1_of_1{CLAIM}").unlink()
        timer.start()

    timer = threading.Timer(0.3, lambda: done.write_text("{}"))
    Claims(tmp_path, 1, together=True, stale=0.8).take(work)
    timer.join()
    assert done.read_text() == "{}"


@pytest.mark.parametrize("clock", [-1e6, 1e6])
def test_silence_is_measured_by_ones_own_clock(tmp_path: Path, clock: float) -> None:
    """A claim of another machine that says nothing is taken over after a while, whatever its file's time."""
    path = claim_of(tmp_path, Shard(1, 1))
    os.utime(path, (time.time() + clock,) * 2)
    began = time.monotonic()
    share(tmp_path, 1, 0.4, 0.0)
    assert time.monotonic() - began >= 0.4
    assert made(tmp_path).keys() == set(ITEMS)


def test_a_claim_that_gives_signs_is_waited_for(tmp_path: Path) -> None:
    path = claim_of(tmp_path, Shard(1, 1))
    waiting = begin(tmp_path, 1, stale=0.6)
    for done in range(8):  # signs for two such times
        claim_of(tmp_path, Shard(1, 1), done=done)
        time.sleep(0.15)
    assert not made(tmp_path)
    (tmp_path / FOLDER / f"1_of_1{DONE}").write_text(path.read_text())
    waiting.join(30)
    assert waiting.exitcode == 0
    assert not made(tmp_path)


def test_who_was_taken_for_dead_stops(tmp_path: Path) -> None:
    """Its next item tells it; what it made stays, and the shard is the other's."""

    def work(told: Work) -> None:
        claim_of(tmp_path, Shard(1, 1))
        while not told.lost:
            time.sleep(0.02)
        told.advance()

    claims = Claims(tmp_path, 1, together=True, stale=0.2)
    with pytest.raises(UserError, match="shard 1/1 was taken over by process 1 on node7"):
        claims.take(work)
    assert "node7" in claims.path(Shard(1, 1), CLAIM).read_text()
    assert not claims.is_done(Shard(1, 1))


def test_one_process_a_claim(tmp_path: Path) -> None:
    claims = Claims(tmp_path, 2)
    claims.plan()
    with (
        claims.alive(Work(Shard(1, 2))),
        pytest.raises(HeldError, match="shard 1/2: another process"),
        claims.alive(Work(Shard(1, 2))),
    ):
        pytest.fail("two processes hold one shard")


def test_a_shard_that_fails_keeps_nobody_from_the_others(tmp_path: Path) -> None:
    """Its process does the rest first and ends with the fault; the next start tries it again."""
    tried = []

    def work(told: Work) -> None:
        tried.append(told.shard.number)
        told.begin(1, 0)
        if told.shard.number == 3:
            raise UserError("a bad item")
        told.advance()

    with pytest.raises(UserError, match="a bad item"):
        Claims(tmp_path, 8, together=True).take(work)
    assert tried == list(range(1, 9))
    assert len(list((tmp_path / FOLDER).glob(f"*{DONE}"))) == 7
    with pytest.raises(UserError, match="a bad item"):
        Claims(tmp_path, 8, together=True).take(work)
    assert tried[8:] == [3]


def test_faults_of_every_shard_end_the_work_early(tmp_path: Path) -> None:
    tried = []

    def work(told: Work) -> None:
        tried.append(told.shard)
        raise UserError("no disk")

    with pytest.raises(UserError, match="no disk"):
        Claims(tmp_path, 50, together=True).take(work)
    assert len(tried) == 3


def test_a_plain_run_gives_the_next_no_number_of_shards(tmp_path: Path) -> None:
    """One that was ended after it began in one shard: those that share do so in as many as they ask for."""
    with Claims(tmp_path, 1).own(Shard(1, 1)) as told:
        told.begin(40, 0)
    share(tmp_path, 5, 60.0, 0.0)
    assert len(list((tmp_path / FOLDER).glob(f"*_of_5{DONE}"))) == 5


def test_a_plain_run_changes_no_plan_that_is_worked_by(tmp_path: Path) -> None:
    claims = Claims(tmp_path, 4, together=True)
    claims.plan()
    with claims.alive(Work(Shard(2, 4))), Claims(tmp_path, 1).own(Shard(1, 1)):
        assert json.loads((tmp_path / FOLDER / "plan.json").read_text())["shards"] == 4


def test_results_of_another_kind_begin_anew(tmp_path: Path) -> None:
    made: list[str] = []
    for about in ("clip", "fid", "fid"):
        Claims(tmp_path, 2, together=True, about=about).take(lambda _, kind=about: made.append(kind))
    assert made == ["clip"] * 2 + ["fid"] * 4  # the last time it looks for what is missing


def test_a_claim_that_was_removed_is_written_anew(tmp_path: Path) -> None:
    """A frozen process that another took for dead, and that still holds the lock, goes on."""
    claims = Claims(tmp_path, 1, together=True, stale=0.2)
    claims.plan()
    path = claims.path(Shard(1, 1), CLAIM)
    with claims.alive(Work(Shard(1, 1))) as told:
        path.unlink()
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        told.advance()
    assert claims.is_done(Shard(1, 1))


def test_a_lock_that_another_holds_is_asked_for_now_and_then(tmp_path: Path) -> None:
    """A silent process holds the lock: no claim of its is taken over, and nobody polls for it."""
    tried = []

    def work(told: Work) -> None:
        tried.append(told.shard)
        if len(tried) < 3:
            raise HeldError("held by another process")

    Claims(tmp_path, 1, together=True, stale=0.4).take(work)
    assert len(tried) == 3
    assert not list((tmp_path / FOLDER).glob(f"*{LEFT}"))


def test_a_failure_frees_the_shard_and_says_what_is_done(tmp_path: Path) -> None:
    def fail(work: Work) -> None:
        work.begin(5, 1)
        work.advance()
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        Claims(tmp_path, 2, together=True).take(fail)
    left = json.loads((tmp_path / FOLDER / f"1_of_2{LEFT}").read_text())
    assert (left["done"], left["total"]) == (2, 5)
    assert not list((tmp_path / FOLDER).glob(f"*{CLAIM}"))
    share(tmp_path, 2, 60.0, 0.0)
    assert not list((tmp_path / FOLDER).glob(f"*{LEFT}"))


def test_a_finished_folder_is_gone_through_once_more(tmp_path: Path) -> None:
    share(tmp_path, 4, 60.0, 0.0)
    (tmp_path / "7").unlink()
    share(tmp_path, 9, 60.0, 0.0)  # keeps its four shards
    assert made(tmp_path).keys() == set(ITEMS)
    assert len(list((tmp_path / FOLDER).glob(f"*_of_4{DONE}"))) == 4


class TestStatus:
    """`egogen.status`: each state, the sum, the commands."""

    def run(self, out: Path, *flags: str) -> tuple[int, str]:
        """Exit code and output."""
        import contextlib
        import io

        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            try:
                status.main([f"{out}", *flags])
            except SystemExit as end:
                return int(end.code or 0), told.getvalue()
        return 0, told.getvalue()

    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        """A run of six shards, each in another state."""
        folder = tmp_path / FOLDER
        folder.mkdir()
        command = ["-m", "ldm.sample", "--ckpt", "a b.ckpt", "--shard", "2/6", "--out", "x"]
        (folder / "plan.json").write_text(json.dumps({"shards": 6, "command": command}))
        facts = {"total": 100, "before": 20, "done": 60, "seconds": 20}
        done = {**Work(Shard(1, 6)).note, **facts, "done": 100}
        (folder / f"1_of_6{DONE}").write_text(json.dumps(done))
        claim_of(tmp_path, Shard(2, 6), **facts)
        claim_of(tmp_path, Shard(3, 6), **facts, place=place(), pid=2**22 + 1)
        (folder / f"4_of_6{LEFT}").write_text(json.dumps({**done, "done": 1}))
        silent = claim_of(tmp_path, Shard(5, 6), **facts)
        os.utime(silent, (time.time() - 1000,) * 2)
        return tmp_path

    def test_says_every_state(self, out: Path) -> None:
        code, told = self.run(out)
        lines = told.splitlines()
        assert code == 1
        assert lines[0] == (f"{out}: 6 shards, 1 whole, 1 at work, 1 silent, 1 ended, 1 failed, 1 not begun")
        assert [line.split()[:2] for line in lines[1:6]] == [
            ["2/6", "at"], ["3/6", "ended"], ["4/6", "failed"], ["5/6", "silent"], ["6/6", "not"],
        ]  # fmt: skip
        assert "60 of 100 items, 2.00 a second, process 1 on node7" in lines[1]
        # 40 + 40 + 99 + 40 + 100 items, by the one process that is at work
        assert lines[6] == "about 319 items are left; at 2.00 a second 0:02:40"
        assert lines[7] == "to finish here: python -m ldm.sample --ckpt 'a b.ckpt' --out x --shard auto/6"
        assert lines[8] == (
            "by Slurm: bash scripts/slurm_array.sh --env ldm --gres=gpu:1 --array=3-4,6 6 "
            "python -m ldm.sample --ckpt 'a b.ckpt' --out x"
        )

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("-m ldm.sample", True), ("-m ldm.sample --device cpu", False),
            ("-m llava.describe --device cuda:0", True), ("-m ldm.sample --method=copy", False),
            ("-m egogen.prepare ego4d", False), ("main.py", False),
        ],
    )  # fmt: skip
    def test_who_needs_a_gpu(self, words: str, expected: bool) -> None:
        assert status.needs_gpu(words.split()) is expected

    def test_signs_that_a_terminal_obeys_are_not_shown(self, out: Path) -> None:
        plan = out / FOLDER / "plan.json"
        plan.write_text(
            json.dumps({"shards": 6, "command": ["-m", "ldm.sample", "a\x1b[2J", "--shard", "1/6"]})
        )
        claim_of(out, Shard(2, 6), total=100, before=20, done=60, seconds=20, host="\x1b[2J")
        _, told = self.run(out)
        assert "\x1b" not in told
        assert "to finish: the command in .shards/plan.json, which holds signs" in told

    def test_retry_frees_what_has_ended(self, out: Path) -> None:
        self.run(out, "--retry")
        assert not (out / FOLDER / f"3_of_6{CLAIM}").exists()
        assert (out / FOLDER / f"2_of_6{CLAIM}").exists()
        assert (out / FOLDER / f"5_of_6{CLAIM}").exists()

    def test_a_whole_run_is_whole(self, tmp_path: Path) -> None:
        share(tmp_path, 3, 60.0, 0.0)
        assert self.run(tmp_path) == (0, f"{tmp_path}: 3 shards, 3 whole\n")
        code, told = self.run(tmp_path, "--all")
        assert code == 0
        assert "1/3  whole     14 of 14 items" in told

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no run in shards here"):
            status.main([f"{tmp_path}"])
        with pytest.raises(UserError, match="no such folder"):
            status.main([f"{tmp_path / 'x'}"])
        (tmp_path / FOLDER).mkdir()
        (tmp_path / FOLDER / "plan.json").write_text("[]")
        with pytest.raises(UserError, match=r"plan\.json: says of no number of shards"):
            status.main([f"{tmp_path}"])
