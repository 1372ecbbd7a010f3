"""Lists the commands of this package."""

from egogen.cli import run
from egogen.commands import show

if __name__ == "__main__":
    run(lambda: show("llava"))
