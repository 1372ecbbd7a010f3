"""How every command starts and ends: parser, logging, exit codes. Step 0 of each flow."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable

from egogen.errors import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
DEBUG_FLAG = "--debug"


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Makes a parser that shows defaults in `--help` and knows `--debug`.

    Args:
        prog: what the user types, such as `python -m ldm.sample`.
        description: text for `--help`; usually the module's docstring.
    """
    made = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("-d", DEBUG_FLAG, action="store_true", help="on an error, show the full traceback")
    return made


def run(main: Callable[[], object]) -> None:
    """Runs a command; ends the process with code 0, 2 (a `UserError`, one line) or 130 (Ctrl-C).

    With `--debug` on the command line exceptions keep their traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # These libraries log every request and font look-up at INFO.
    for noisy in ("httpx", "httpx2", "matplotlib", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        raise SystemExit(EXIT_INTERRUPTED) from None
    except UserError as error:
        if {"-d", DEBUG_FLAG} & set(sys.argv):
            raise
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        raise SystemExit(EXIT_USER_ERROR) from None
