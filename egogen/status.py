"""Says of a run in shards which are whole, at work or missing, how long they will take, what finishes it."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.reserved import unseen

WHOLE, AT_WORK, SILENT, ENDED, FAILED, MISSING = (
    "whole", "at work", "silent", "ended", "failed", "not begun",
)  # fmt: skip
LISTED = 40  # shards in the table, unless --all
SHORTEST = 0.1  # seconds of work that tell a rate


@dataclass(frozen=True)
class StatusOptions:
    """The command line."""

    out: Path = flag(
        "folder of a run in shards: of llava.describe, ldm.sample ...", positional=True, type=Path
    )
    retry: bool = flag(
        "give free what ended processes hold, for those that run or start now", action="store_true"
    )
    all: bool = flag(f"a line for each shard, and not for {LISTED} that are not whole", action="store_true")


@dataclass(frozen=True)
class ShardStatus:
    """What is known of one shard: what it is at, items that are there, of how many, and its rate."""

    number: int
    state: str
    done: int = 0
    total: int = 0
    rate: float = 0.0
    by: str = ""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the state of a run; exit code 0 if it is whole, 1 if something is left to do."""
    options = cli.options(StatusOptions, argv, "python -m egogen.status", __doc__)
    from egogen.shard_claims import CLAIM, FOLDER, PLAN, read_plan

    folder = options.out / FOLDER
    if not options.out.is_dir():
        raise UserError(f"{options.out}: no such folder; name the output folder of a run")
    plan = read_plan(folder / PLAN)
    if plan is None:
        raise UserError(f"{options.out}: no run in shards here ({FOLDER}/{PLAN} is not there)")
    found = [look(folder, number, plan["shards"]) for number in range(1, plan["shards"] + 1)]
    if options.retry:
        for each in found:
            if each.state == ENDED:
                (folder / f"{each.number}_of_{plan['shards']}{CLAIM}").unlink(missing_ok=True)
    sys.stdout.write(told(options.out, found, plan.get("command"), options.all))
    if any(each.state != WHOLE for each in found):
        raise SystemExit(1)


def look(folder: Path, number: int, count: int) -> ShardStatus:
    """What the files of a shard say."""
    from egogen.shard_claims import CLAIM, DONE, LEFT, STALE, has_gone, parse_note, read_quietly

    for kind in (DONE, CLAIM, LEFT):
        path = folder / f"{number}_of_{count}{kind}"
        try:
            age = time.time() - path.lstat().st_mtime
        except FileNotFoundError:
            continue
        note = parse_note(read_quietly(path))
        if not note:
            return ShardStatus(number, AT_WORK if kind == CLAIM else MISSING)
        state = {DONE: WHOLE, LEFT: FAILED, CLAIM: AT_WORK}[kind]
        if state == AT_WORK and has_gone(note):
            state = ENDED
        elif state == AT_WORK and age > STALE:
            state = SILENT
        made = max(0, note["done"] - note.get("before", 0))
        seconds = note.get("seconds", 0)
        rate = made / seconds if seconds >= SHORTEST else 0.0
        by = f"process {note['pid']} on {note['host']} since {note.get('since', '?')}"
        return ShardStatus(number, state, note["done"], note["total"], rate, by)
    return ShardStatus(number, MISSING)


def told(out: Path, found: Sequence[ShardStatus], command: object, everything: bool) -> str:
    """The table, the sum, and what to type."""
    counts = {
        state: sum(each.state == state for each in found)
        for state in (WHOLE, AT_WORK, SILENT, ENDED, FAILED, MISSING)
    }
    parts = [f"{count} {state}" for state, count in counts.items() if count]
    lines = [f"{out}: {len(found)} shards, {', '.join(parts)}"]
    shown = [each for each in found if everything or each.state != WHOLE]
    for each in shown if everything else shown[:LISTED]:
        items = f"{each.done} of {each.total} items" if each.total else ""
        rate = f"{each.rate:.2f} a second" if each.rate else ""
        facts = ", ".join(filter(None, [items, rate, each.by]))
        lines.append(f"  {each.number}/{len(found)}  {each.state:10}{facts}".rstrip())
    if len(shown) > LISTED and not everything:
        lines.append(f"  and {len(shown) - LISTED} more (--all shows them)")
    left = [each for each in found if each.state != WHOLE]
    if left:
        lines += forecast(found, left)
        lines += to_finish(left, len(found), command)
    return "\n".join(lines) + "\n"


def forecast(found: Sequence[ShardStatus], left: Sequence[ShardStatus]) -> list[str]:
    """How many items are left and how long those at work need, where enough is known to say so."""
    sizes = [each.total for each in found if each.total]
    if not sizes:
        return []
    usual = sum(sizes) / len(sizes)
    items = sum((each.total or usual) - each.done for each in left)
    rate = sum(each.rate for each in left if each.state == AT_WORK)
    line = f"about {items:.0f} items are left"
    if rate:
        seconds = round(items / rate)
        line += f"; at {rate:.2f} a second {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return [line]


def to_finish(left: Sequence[ShardStatus], count: int, command: object) -> list[str]:
    """The commands that finish a run: on this machine, and as a Slurm array of the shards that lack items."""
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        return []
    free = [each.number for each in left if each.state not in (AT_WORK, SILENT)]
    if not free:
        return ["other processes work on all that is left"]
    if unseen("".join(command)):
        from egogen.shard_claims import FOLDER, PLAN

        return [f"to finish: the command in {FOLDER}/{PLAN}, which holds signs that are not shown here"]
    words = without_shard(command)
    plain = shlex.join(["python", *words])
    environment = cli.environment_of(words)
    if not runs_in_shards(command):
        return [f"to finish: {shlex.join(['python', *command])}"]
    return [
        f"to finish here: {plain} --shard auto/{count}",
        f"by Slurm: bash scripts/slurm_array.sh {f'--env {environment} ' * bool(environment)}"
        f"{'--gres=gpu:1 ' * needs_gpu(words)}--array={ranges(free)} {count} {plain}",
    ]


def needs_gpu(command: Sequence[str]) -> bool:
    """Whether the tasks of a command take a GPU: those of both stages do, unless told to run on the CPU."""
    told = " ".join(command).replace("=", " ")
    return bool(cli.environment_of(command)) and "--device cpu" not in told and "--method copy" not in told


def runs_in_shards(command: Sequence[str]) -> bool:
    """Whether a command names its share by --shard; one in chunks or by torchrun is started as it was."""
    return any(word == "--shard" or word.startswith("--shard=") for word in command)


def without_shard(command: Sequence[str]) -> list[str]:
    """A command without the share that it names."""
    words, skip = [], False
    for word in command:
        if not skip and word != "--shard" and not word.startswith("--shard="):
            words.append(word)
        skip = word == "--shard"
    return words


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in Slurm's form: `1-3,7`.

    >>> ranges([1, 2, 3, 7])
    '1-3,7'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


if __name__ == "__main__":
    cli.run(main)
