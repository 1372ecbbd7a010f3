"""The web page: `python app.py`, then open the address that it prints."""

from egogen.cli import run
from ldm.page.__main__ import main

if __name__ == "__main__":
    run(main)
