"""How commands begin and end: flags, exit codes, one-line errors, tracebacks on request."""

import argparse
import errno
import io
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path

import pytest

from egogen import cli
from egogen.errors import UserError
from egogen.layout import data_root, run_root, weights_root
from tests.workbench import ROOT


def fail() -> None:
    raise UserError("a.json: found 3,\n  expected 4")


def interrupt() -> None:
    raise KeyboardInterrupt


def meet_a_read_only_disk() -> None:
    raise OSError(errno.EROFS, "Read-only file system", "out/a.bin")


def crash() -> None:
    raise ZeroDivisionError


def lack() -> None:
    raise ModuleNotFoundError("No module named 'mpi4py'", name="mpi4py")


lack.__module__ = "llava.train"


@pytest.fixture(autouse=True)
def plain_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])


def test_a_command_that_ends_well() -> None:
    done: list[int] = []
    cli.run(lambda: done.append(1))
    assert done == [1]


@pytest.mark.parametrize(
    ("main", "code", "line"),
    [
        (fail, 2, "error: a.json: found 3, expected 4\n"),
        (meet_a_read_only_disk, 2, "error: out/a.bin: Read-only file system; mend that and run this again\n"),
        (interrupt, 130, "interrupted; run the same command again to go on\n"),
    ],
)
def test_one_line_and_a_code(capsys: pytest.CaptureFixture[str], main: object, code: int, line: str) -> None:
    assert callable(main)
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == code
    assert capsys.readouterr().err == line


def test_the_right_environment_is_not_told_to_be_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library may be missing that only a setting asks for."""
    for mark, told in (
        ("json", "though this is the environment 'vllm'"),
        ("nothing", "needs the environment 'vllm'"),
    ):
        monkeypatch.setitem(cli.MARKS, "vllm", mark)
        with pytest.raises(SystemExit) as ended:
            cli.run(lack)
        assert ended.value.code == 2
        assert told in capsys.readouterr().err


def test_a_terminal_without_a_character_shows_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    cli.run(lambda: print("PSNR ↑ 12 ± 1"))  # noqa: T201
    ascii_only.flush()
    assert ascii_only.buffer.getvalue() == rb"PSNR \u2191 12 \xb1 1" + b"\n"


@dataclass(frozen=True)
class Texts:
    prompt: str | None = cli.flag("a text")
    words: list[str] = cli.flag("texts", positional=True, nargs="*", default=[])
    place: Path | None = cli.flag("any bytes", type=Path)


@pytest.mark.parametrize("words", [["--prompt", "caf\udce9"], ["a", "caf\udce9"]])
def test_bytes_that_are_no_text_are_one_line(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"^(--prompt|words): got 'caf\\udce9', expected text in UTF-8"):
        cli.options(Texts, words, "command", None)
    assert cli.options(Texts, ["--place", "caf\udce9"], "command", None).place == Path("caf\udce9")


def test_debug_keeps_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--debug"])
    with pytest.raises(UserError):
        cli.run(fail)


def wrong_word() -> None:
    cli.parser("words", None).parse_args(["--what"])


def test_failures_in_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--log-json"])
    monkeypatch.setattr(logging, "_defaultFormatter", None)
    for main, code, message in (
        (fail, 2, "a.json: found 3, expected 4"),
        (interrupt, 130, "interrupted; run the same command again to go on"),
        (crash, 1, "ZeroDivisionError: "),
        (wrong_word, 2, "words: unrecognized arguments: --what"),
    ):
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        with pytest.raises(SystemExit) as ended:
            cli.run(main)
        assert ended.value.code == code
        told = json.loads(capsys.readouterr().err.splitlines()[-1])
        assert (told["level"], told["message"]) == ("error", message)
        assert ("traceback" in told) == (code == 1)
    logging.captureWarnings(False)


FAILS = "from egogen.cli import run; from egogen.layout import Layout; run(lambda: Layout('a', 'b'))"
PRINTS = "import sys; from egogen.cli import run; run(lambda: sys.stdout.write({words!r} * {count}))"


@pytest.mark.parametrize("count", [1, 100_000])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(count: int) -> None:
    """As of `| head`: little is printed when the process ends, much before that."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-S", "-c", PRINTS.format(words="line\n", count=count)]
    ran = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (128 + signal.SIGPIPE, "")


def test_another_broken_pipe_is_no_reader_that_has_gone() -> None:
    def broken() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        cli.run(broken)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_where_stderr_takes_nothing_the_code_tells() -> None:
    bar = "from egogen.progress import Progress; run(lambda: [*Progress(range(3), unit='x')])"
    works = f"from egogen.cli import run; {bar}"
    for words, code in ((works, 0), (FAILS, 2)):
        command = f"{sys.executable} -c {shlex.quote(words)} 2>/dev/full"
        assert subprocess.run(["bash", "-c", command], cwd=ROOT, check=False).returncode == code


def test_closed_streams_are_no_error() -> None:
    """As a daemon's are."""
    for words, code in ((PRINTS.format(words="line", count=1), 0), (FAILS, 2)):
        command = f"{sys.executable} -S -c {shlex.quote(words)} >&- 2>&-"
        assert subprocess.run(["bash", "-c", command], cwd=ROOT, check=False).returncode == code


def test_a_programmer_s_error_is_never_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.run(crash)


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    made = cli.parser("python -m egogen.toy", "Draws 100% of the frames.")
    made.add_argument("--size", type=int, default=64, help="height in pixels")
    with pytest.raises(SystemExit):
        made.parse_args(["--help"])
    text = capsys.readouterr().out
    assert "python -m egogen.toy" in text
    assert "Draws 100% of the frames." in text
    assert "height in pixels (default: 64)" in text
    assert "(default: False)" not in text
    assert made.parse_args(["--debug"]).debug is True


def test_noisy_libraries_are_quiet() -> None:
    cli.run(lambda: None)
    assert logging.getLogger("PIL").getEffectiveLevel() == logging.WARNING


@dataclass(frozen=True)
class Words:
    """Arguments of each kind that `options` knows."""

    place: str = cli.flag("by its place", positional=True)
    some_size: int = cli.flag("a number", type=int, default=lambda: 3)
    left: str | None = cli.flag("either this", either=True)
    right: str | None = cli.flag("or that", either=True)

    def __post_init__(self) -> None:
        if self.some_size < 1:
            raise ArgumentTypeError(f"--some-size: found {self.some_size}, expected at least 1")


def test_flags_become_a_dataclass() -> None:
    read = cli.options(Words, ["here", "--left", "a", "--debug"], "words", None)
    assert read == Words(place="here", some_size=3, left="a", right=None)


@dataclass(frozen=True)
class MoreWords(Words):
    """Flags below a title, and two of which one at most is given; those of the class above come first."""

    before: float = cli.flag("so long before", type=float, default="0.5", either="time", metavar="SEC")
    after: float | None = cli.flag("or after", type=float, either="time", metavar="SEC")
    filters: bool = cli.flag("looks at pictures", action="store_true", group="filters by a model")


def test_flags_of_a_command_follow_those_that_it_shares(capsys: pytest.CaptureFixture[str]) -> None:
    read = cli.options(MoreWords, ["here", "--left", "a", "--after", "1"], "words", None)
    assert (read.before, read.after, read.filters) == (0.5, 1.0, False)
    for argv, code in ((["here", "--left", "a", "--before", "1", "--after", "1"], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as end:
            cli.options(MoreWords, argv, "words", None, "Exit code: 0.")
        assert end.value.code == code
    shown = capsys.readouterr()
    assert "not allowed with argument --before" in shown.err
    assert "[--before SEC | --after SEC]" in shown.out
    assert shown.out.index("--some-size") < shown.out.index("--after SEC ")
    assert shown.out.index("filters by a model:") < shown.out.index("Exit code: 0.")


def test_options_made_in_python_have_the_defaults_of_the_flags() -> None:
    made = Words(place="here")
    assert (made.some_size, made.left, made.right) == (3, None, None)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["here"], "one of the arguments --left --right is required"),
        (["here", "--left", "a", "--right", "b"], "not allowed with argument"),
        (
            ["here", "--left", "a", "--some-size", "0"],
            "--some-size: found 0, expected at least 1",
        ),
        (["--left", "a"], "required: place"),
    ],
)
def test_flags_that_do_not_fit_end_with_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.options(Words, argv, "words", None)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@dataclass(frozen=True)
class Paths:
    one: Path = cli.flag("a path", type=Path, default=Path("x"))
    several: list[Path] = cli.flag("paths", type=Path, nargs="*", default=[])


def test_a_report_is_never_written_over_other_files() -> None:
    assert cli.report_file(".html")("a/B.HTML") == Path("a/B.HTML")
    with pytest.raises(
        argparse.ArgumentTypeError, match=r"found 'ego4d_val\.json', expected .* ends in \.html"
    ):
        cli.report_file(".html")("ego4d_val.json")


def test_a_home_folder_is_expanded_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.options(Paths, ["--one=~/a"], "p", None).one == tmp_path / "a"
    assert cli.options(Paths, ["--several", "~", "b~"], "p", None).several == [tmp_path, Path("b~")]
    for name, root in (("DATA_ROOT", data_root), ("RUN_ROOT", run_root), ("WEIGHTS_ROOT", weights_root)):
        monkeypatch.setenv(name, "~/c")
        assert root() == tmp_path / "c"
    with pytest.raises(SystemExit):
        cli.options(Paths, ["--one=~nobody-of-this-name/a"], "p", None)
    assert "no such home folder" in capsys.readouterr().err


def read_only() -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "/data/x.json")


def test_what_the_system_says_of_a_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(read_only)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: /data/x.json: Permission denied; mend that and run this again\n"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "found nothing, expected a path"),
        ("a" * 256, "no file can be called that"),
        ("b/" * 2049, "no file"),
    ],
)
def test_paths_that_are_none(text: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.options(Paths, ["--one", text], "command", None)
    assert told in capsys.readouterr().err
    assert cli.path("ä" * 127 + "/b") == Path("ä" * 127, "b")


@pytest.mark.parametrize("text", ["0", "-1", "4097", "9" * 5000, "1.5", "", "nan"])
def test_workers_that_no_machine_has(text: str) -> None:
    assert [cli.workers("1"), cli.workers("4096")] == [1, 4096]
    with pytest.raises(ArgumentTypeError, match="expected 1 to 4096"):
        cli.workers(text)


def test_a_full_disk_in_a_thread_is_told_by_the_main_one(capsys: pytest.CaptureFixture[str]) -> None:
    """TensorBoard writes in a thread of its own."""

    def work(error: Exception) -> None:
        raise error

    before = threading.excepthook
    try:
        cli.run(lambda: None)
        full = OSError(errno.ENOSPC, "No space left on device")
        refused = OSError(errno.EROFS, "Read-only file system")
        for error in (full, refused, KeyError("a mistake")):
            thread = threading.Thread(target=work, args=(error,))
            thread.start()
            thread.join()
    finally:
        threading.excepthook = before
    told = capsys.readouterr().err
    assert "No space" not in told
    assert "Read-only" not in told
    assert "KeyError: 'a mistake'" in told


def test_links_that_lead_to_each_other_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: (tmp_path / "a").resolve(strict=True))
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
