"""How every command starts and ends: parser, logging, exit codes. Step 0 of each flow.

It needs the standard library alone, as all that a command imports before it has parsed its arguments: so
`--help` is quick, and a command in the wrong environment can say which it needs.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import logging
import os
import select
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import MISSING, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from egogen import logs
from egogen.disk import free_bytes, full, no_room, readable
from egogen.errors import UserError, check_text, shorten
from egogen.layout import expanded, run_root
from egogen.variables import check_variables

ENVIRONMENTS = {"llava": "vllm", "ldm": "ldm"}  # of the packages; egogen runs in both
MARKS = {"vllm": "deepspeed", "ldm": "diffusers"}  # what only that environment holds
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
MOST_WORKERS = 4096
# What the system says of a file, and no program can mend; more than a full disk.
OF_FILES = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE),
    *(errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EISDIR),
}
EXIT_UNREAD = 128 + signal.SIGPIPE
DEBUG_FLAG = "--debug"
ROOT_DOORS = {  # published names
    "ldm.train": "python main.py",
    "ldm.page": "python app.py",
    "egogen.ray_job": "python scripts/ray_job.py",
}
OWN_FLAGS = (DEBUG_FLAG, logs.QUIET_FLAG, logs.JSON_FLAG)  # of every command

Options = TypeVar("Options")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default is False or action.default in ("", [], ())
        return action.help if nothing or action.required else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Tells mistakes in JSON where that is asked for."""

    def error(self, message: str) -> NoReturn:
        """Ends with code 2."""
        if logs.JSON_FLAG in sys.argv:
            told = {"level": "error", "logger": __name__, "message": f"{self.prog}: {message}"}
            self.exit(EXIT_USER_ERROR, json.dumps(told, ensure_ascii=False) + "\n")
        super().error(message)


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Makes a parser that shows defaults in `--help` and knows the flags of every command.

    Args:
        prog: what the user types, such as `python -m ldm.sample`.
        description: text for `--help`; usually the module's docstring.
    """
    made = Parser(prog=prog, description=description, formatter_class=HelpFormatter)
    made.add_argument("-d", DEBUG_FLAG, action="store_true", help="on an error, show the full traceback")
    made.add_argument(logs.QUIET_FLAG, action="store_true", help="tell warnings and errors alone")
    made.add_argument(logs.JSON_FLAG, action="store_true", help="tell on stderr a JSON object a line")
    return made


def flag(meaning: str, **how: object) -> Any:  # noqa: ANN401 - stands for a field of any type
    """A field of a dataclass for `options`, filled from the flag of its name.

    Args:
        meaning: text for `--help`.
        how: as `add_argument` takes it (a default may be a function, called when the flags are read); or
            `positional=True`: an argument by its place; `either=True`: one of these must be given, and of
            those with `either="a word"` no two; `group="title"`: below a title of their own in `--help`;
            `spelled=("-n", "--name")`: the flag's names, where it is not the field's with dashes.
    """
    default = how.get("default", False if how.get("action") == "store_true" else None)
    made = default if callable(default) else lambda: default  # where options are not read, but made
    needed = how.get("positional") or how.get("required")
    return field(kw_only=True, metadata={"help": meaning, **how}, default_factory=MISSING if needed else made)  # type: ignore[call-overload]  # MISSING stands for none


def options(
    kind: type[Options],
    argv: Sequence[str] | None,
    prog: str,
    description: str | None,
    epilog: str | None = None,
) -> Options:
    """Reads the command line into a frozen dataclass whose fields are flags (`flag`).

    Args:
        kind: the dataclass; its `__post_init__` may raise `argparse.ArgumentTypeError`.
        argv: the words; None takes the process's.
        prog: as for `parser`.
        description: likewise.
        epilog: text for `--help` behind the flags.

    Raises:
        SystemExit: a flag is unknown, or its value is none or does not fit the others; with code 2.
        UserError: the bytes of a text are no characters.
    """
    made = parser(prog, description)
    made.epilog = epilog
    groups: dict[object, argparse._ActionsContainer] = {None: made}
    spelled: dict[str, str] = {}
    among_flags = False  # words by their place may stand among the flags
    for each in fields(kind):  # type: ignore[arg-type]
        how = dict(each.metadata)
        if callable(how.get("default")):
            how["default"] = how["default"]()
        if how.get("type") is Path:
            how["type"] = path
        place = how.pop("positional", False)
        names = (each.name,) if place else how.pop("spelled", (f"--{each.name.replace('_', '-')}",))
        spelled[each.name] = "/".join(names)
        title, either = how.pop("group", None), how.pop("either", None)
        if title not in groups:
            groups[title] = made.add_argument_group(title)
        if either not in groups:
            groups[either] = made.add_mutually_exclusive_group(required=either is True)
        groups[title or either].add_argument(*names, **how)
        among_flags |= place
    values = vars(made.parse_intermixed_args(argv) if among_flags else made.parse_args(argv))
    for each in fields(kind):  # type: ignore[arg-type]
        words = values[each.name] if isinstance(values[each.name], list) else [values[each.name]]
        for word in words:
            if isinstance(word, str):  # a path may have any bytes
                check_text(spelled[each.name], word)
    try:
        return kind(**{each.name: values[each.name] for each in fields(kind)})  # type: ignore[arg-type]
    except argparse.ArgumentTypeError as error:
        made.error(f"{error}")


def path(text: str) -> Path:
    """A flag's path, `~` and all.

    Raises:
        argparse.ArgumentTypeError: it is empty, begins with a home folder that is not there, or is too long.
    """
    if not text:  # it would be the folder that one is in
        raise argparse.ArgumentTypeError("found nothing, expected a path; is a variable of the shell unset?")
    try:
        return expanded(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(f"{error}") from None


def report_file(ending: str) -> Callable[[str], Path]:
    """What reads a flag's file for a report: no file of another kind is lost to it."""

    def read(text: str) -> Path:
        if not text.lower().endswith(ending):
            raise argparse.ArgumentTypeError(f"found {shorten(text)}, expected a name that ends in {ending}")
        return path(text)

    return read


def workers(text: str) -> int:
    """A flag's number of threads or processes.

    Raises:
        argparse.ArgumentTypeError: it is none that a machine has.
    """
    if not text.isdecimal() or not 1 <= int(text[:9]) <= MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"found {shorten(text)}, expected 1 to {MOST_WORKERS}")
    return int(text)


def run(main: Callable[[], object]) -> None:
    """Runs a command; ends the process with code 0, 2 (`UserError` or a full disk: one line) or 130 (Ctrl-C).

    With `--debug` on the command line exceptions keep their traceback. Where the reader of what it prints has
    gone (`| head`), it ends without a word, with the code of a program that the pipe's signal ends.
    """
    open_streams()
    logs.start(sys.argv)
    threading.excepthook = of_a_thread
    # Pillow warns of photos above 89 megapixels, which cameras take; it refuses those above 179.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    try:
        check_variables()
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        if not unread(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        raise SystemExit(EXIT_UNREAD) from None
    except KeyboardInterrupt:
        tell("interrupted; run the same command again to go on")
        raise SystemExit(EXIT_INTERRUPTED) from None
    except Exception as error:
        told = error if isinstance(error, UserError) else told_of(error, main)
        if told is not None and not {"-d", DEBUG_FLAG} & set(sys.argv):
            tell(f"error: {' '.join(f'{told}'.split())}")
            raise SystemExit(EXIT_USER_ERROR) from None
        if logs.in_json():
            logging.getLogger(__name__).exception("%s: %s", type(error).__name__, error)
            raise SystemExit(1) from None
        raise


def told_of(error: Exception, main: Callable[[], object]) -> UserError | None:
    """What to tell of an error that is the machine's, and not the program's; None for any other."""
    if isinstance(error, OSError) and error.errno in OF_FILES and error.filename is not None:
        return UserError(f"{error.filename}: {error.strerror}; mend that and run this again")
    if isinstance(error, RuntimeError) and f"{error}".startswith("Symlink loop"):  # of pathlib, before 3.13
        return UserError(
            f"{error}: links that lead to each other and to no file; mend that and run this again"
        )
    return full_somewhere(error) or elsewhere(error, main)


def of_a_thread(failed: threading.ExceptHookArgs) -> None:
    """What a library's thread meets of a disk is told once, by the main thread, which meets it next."""
    error = failed.exc_value
    of_disk = error is not None and (
        full(error) is not None or (isinstance(error, OSError) and error.errno in OF_FILES)
    )
    if not of_disk or {"-d", DEBUG_FLAG} & set(sys.argv):
        threading.__excepthook__(failed)


def open_streams() -> None:
    """Makes stdout and stderr such that all can be written to them, also where a daemon has closed them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the end
        elif isinstance(stream, io.TextIOWrapper):  # a terminal may not have every character
            stream.reconfigure(errors="backslashreplace")


def unread(stream: IO[str]) -> bool:
    """Whether a stream is a pipe at whose other end nobody is."""
    poll = select.poll()
    try:
        poll.register(stream, 0)
    except (OSError, ValueError):  # no file at all
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def tell(line: str) -> None:
    """The last line of a command that fails."""
    if logs.in_json():
        logging.getLogger(__name__).error("%s", line.removeprefix("error: "))
        return
    with suppress(OSError):  # where stderr takes nothing, the code alone tells
        sys.stderr.write(f"{line}\n")


def full_somewhere(error: Exception) -> UserError | None:
    """What to tell of a full disk where nobody has said which file did not fit; None for any other error."""
    cause = full(error)
    if cause is None:
        return None
    name = getattr(cause, "filename2", None) or getattr(cause, "filename", None)  # of a copy: where to
    if name is not None:
        return no_room(Path(name), cause)
    places = dict.fromkeys((Path.cwd(), run_root().absolute(), Path(tempfile.gettempdir())))
    free = ", ".join(f"{readable(free_bytes(place))} on that of {place}" for place in places)
    return UserError(
        f"a disk is full ({cause}); free are {free}. Free some room, also where what is printed goes"
    )


def environment_of(words: Sequence[str]) -> str:
    """The environment that a command needs, by the module behind its `-m`; empty if any will do."""
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return ENVIRONMENTS.get(module.partition(".")[0], "")


def own_environment() -> str:
    """The environment that this process runs in; empty if it is none of ours."""
    return next((name for name, mark in MARKS.items() if find_spec(mark)), "")


def typed(module: str) -> str:
    """What a person types to run a module."""
    return ROOT_DOORS.get(module, f"python -m {module}")


def elsewhere(error: Exception, main: Callable[[], object]) -> UserError | None:
    """What to tell where a library is not installed: which environment the command needs, how to enter it."""
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing in ("", "egogen", *ENVIRONMENTS):
        return None
    module = main.__module__
    spec = sys.modules["__main__"].__spec__
    if module == "__main__" and spec is not None:  # by `python -m`
        module = spec.name
    module = module.removesuffix(".__main__")
    needed = ENVIRONMENTS.get(module.partition(".")[0])
    if needed and find_spec(MARKS[needed]):
        return UserError(
            f"no module {missing!r} here, though this is the environment {needed!r}; if a setting asks for "
            f"it, leave that out or install it (python -m pip install {missing}); if it has gone, "
            f"bash scripts/setup.sh {needed} brings it back"
        )
    name, first = f"environment {needed!r}" if needed else "environment 'vllm' or 'ldm'", needed or "ldm"
    if (Path(__file__).parents[1] / "scripts" / "run.sh").is_file():
        how = (
            f"run it by: bash scripts/run.sh {first} {typed(module)} ... "
            f"(bash scripts/setup.sh {first} makes the environment, or finds what it lacks)"
        )
    else:
        how = f"make one by: pip install 'lego-egogen[{first}]'"
    return UserError(f"no module {missing!r} here; {typed(module)} needs the {name}; {how}")
