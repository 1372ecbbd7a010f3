"""Shards and the published chunks: together they are the whole, and nothing twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egogen.errors import UserError
from egogen.shards import (
    ALONE,
    LAUNCHERS,
    MOST_SHARDS,
    Process,
    Shard,
    launched,
    parse_auto,
    parse_shard,
    process,
    take_chunk,
    take_shard,
)


@given(length=st.integers(0, 40), count=st.integers(1, 12))
def test_shards_cover_everything_once(length: int, count: int) -> None:
    shards = [take_shard(range(length), index, count) for index in range(1, count + 1)]
    assert sorted(item for shard in shards for item in shard) == list(range(length))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@given(length=st.integers(0, 40), count=st.integers(1, 12))
def test_chunks_are_runs_of_the_whole(length: int, count: int) -> None:
    chunks = [take_chunk(range(length), index, count) for index in range(1, count + 1)]
    assert [item for chunk in chunks for item in chunk] == list(range(length))
    assert all(len(chunk) <= -(-length // count) for chunk in chunks)


def test_published_chunk_sizes() -> None:
    # Five clips in four chunks: 2 + 2 + 1, and the fourth is empty (the published code fails there).
    assert [take_chunk("abcde", index, 4) for index in (1, 2, 3, 4)] == ["ab", "cd", "e", ""]


@pytest.mark.parametrize(("index", "count"), [(0, 4), (5, 4), (-1, 4)])
def test_chunks_that_do_not_exist(index: int, count: int) -> None:
    with pytest.raises(UserError, match=rf"chunk index {index} of {count}"):
        take_chunk("abc", index, count)


@pytest.mark.parametrize("count", [0, -3])
def test_a_split_has_a_chunk_at_least(count: int) -> None:
    with pytest.raises(UserError, match=rf"{count} chunks: expected at least 1"):
        take_chunk("abc", 1, count)


@pytest.mark.parametrize(
    ("text", "shard"), [("1/1", (1, 1)), ("2/3", (2, 3)), ("10/10", (10, 10)), ("01/2", (1, 2))]
)
def test_parse_shard(text: str, shard: tuple[int, int]) -> None:
    assert parse_shard(text) == shard


@pytest.mark.parametrize(
    "text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/-3", "1/2/3", "a/b", "1.0/2", " 1/2", "²/3", "/"]
)
def test_other_shards_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--shard .* expected i/n"):
        parse_shard(text)


def test_as_many_shards_as_are_allowed() -> None:
    most = f"{MOST_SHARDS}/{MOST_SHARDS}"
    assert parse_shard(most) == (MOST_SHARDS, MOST_SHARDS)
    for text in (f"1/{MOST_SHARDS + 1}", "1/1000000000", "1/" + "9" * 5000):
        with pytest.raises(UserError, match=r"--shard '1/.{1,38}': expected i/n with 1 <= i <= n <= "):
            parse_shard(text)


LAUNCHER_VARIABLES = [
    *(name for names in LAUNCHERS.values() for name in names),
    *("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_NUM_NODES", "SLURM_PTY_PORT", "SLURM_JOB_NAME"),
    *("SLURM_JOB_ID", "SLURM_NODEID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"),
    *("NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"),
]


@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_each_launcher_s_processes_share_the_work(monkeypatch: pytest.MonkeyPatch, launcher: str) -> None:
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert launched() == ("", ALONE)
    for name, value in zip(LAUNCHERS[launcher], ("5", "1", "8"), strict=True):
        monkeypatch.setenv(name, value)
    assert launched() == (launcher, Process(5, 1, 8))
    assert process() == Process(5, 1, 8)
    # A task whose flags name its share does that and no less.
    assert process(share_is_named=True) == (Process(5, 1, 8) if launcher == "torchrun" else Process(0, 1, 1))


def test_one_task_a_shell_and_a_batch_script_are_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_LOCALID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert launched() == ("", ALONE)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert launched() == ("srun", Process(0, 0, 4))
    monkeypatch.setenv("SLURM_PTY_PORT", "1")
    assert launched() == ("", ALONE)


def test_of_one_process_torchrun_alone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own variables are then set, and what reads them counts on it."""
    for launcher, expected in (("torchrun", ("torchrun", ALONE)), ("mpirun", ("", ALONE))):
        for name in LAUNCHER_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in zip(LAUNCHERS[launcher], ("0", "0", "1"), strict=True):
            monkeypatch.setenv(name, value)
        assert launched() == expected
        monkeypatch.setenv(LAUNCHERS[launcher][2], "2")
        assert launched() == (launcher, Process(0, 0, 2))


@pytest.mark.parametrize(
    ("rank", "count"),
    [("2", "2"), ("1", ""), ("", "2"), ("x", "2"), ("0", "-1"), ("0", "9" * 10), ("0", "9" * 5000)],
)
def test_half_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch, rank: str, count: str) -> None:
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(UserError, match="in the environment"):
        process()


def test_variables_that_contradict_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in (("SLURM_PROCID", "4"), ("SLURM_LOCALID", "0"), ("SLURM_STEP_NUM_TASKS", "4")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as told:
        launched()
    assert str(told.value) == (
        "SLURM_PROCID=4 and SLURM_STEP_NUM_TASKS=4 in the environment do not belong together; start by srun, "
        "or unset them"
    )
    monkeypatch.setenv("SLURM_PROCID", "x" * 99)
    with pytest.raises(UserError) as told:
        launched()
    assert str(told.value) == (
        f"SLURM_PROCID='{'x' * 80}' in the environment: expected a whole number from 0; unset it"
    )


@pytest.mark.parametrize(
    ("text", "count"),
    [("auto", 64), ("auto/1", 1), ("auto/7", 7), ("auto/100000", 100_000), ("1/2", None), (None, None)],
)
def test_auto(text: str | None, count: int | None) -> None:
    assert parse_auto(text) == count


@pytest.mark.parametrize("text", ["auto/0", "auto/x", "auto/", "auto/100001", "auto/-1", "auto/2/3"])
def test_auto_of_no_number_is_refused(text: str) -> None:
    with pytest.raises(UserError) as told:
        parse_auto(text)
    assert str(told.value) == f"--shard {text!r}: expected auto, or auto/n with n from 1 to 100000"


@pytest.mark.parametrize(
    "text", ["0/2", "3/2", "x", "1/", "automatic", "auto/2x", "1/100001", f"1/{'9' * 5000}", "\u0661/\u0662"]
)
def test_no_shard(text: str) -> None:
    with pytest.raises(UserError, match="expected"):
        parse_shard(text)


def test_a_shard_of_a_shard_is_one_of_all() -> None:
    """Each of 2 x 3 parts has a number of its own."""
    parts = [Shard(i, 3).within(Shard(j, 2)) for j in (1, 2) for i in (1, 2, 3)]
    assert parts == [Shard(number, 6) for number in range(1, 7)]
