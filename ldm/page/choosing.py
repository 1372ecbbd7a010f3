"""Which checkpoint and which VLLM the page takes where no flag says so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from egogen.errors import UserError
from egogen.layout import run_root
from egogen.shipped import TOY_START
from ldm.page.page_options import PageOptions

log = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """A checkpoint, and the VLLM that it was trained beside; None where stage 2 draws alone."""

    ckpt: Path
    vllm: Path | None


def choose(options: PageOptions) -> Chosen:
    """What the flags name; without them the newest result of the demo, else the toy start.

    Raises:
        UserError: there is nothing; says how to get some.
    """
    if options.ckpt:
        return Chosen(options.ckpt, options.vllm)
    toy = run_root() / "toy"
    results = sorted(toy.glob("logs/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    shipped = TOY_START / "lego.safetensors"
    if results:
        found, vllm = results[-1], toy / "vllm"
    elif shipped.is_file():
        found, vllm = shipped, TOY_START / "vllm"
    else:
        raise UserError(
            f"no checkpoint: neither {toy}/logs/*/checkpoints/last.ckpt nor {shipped} is there; make one by "
            "bash scripts/demo.sh, or name one by --ckpt (and its VLLM by --vllm)"
        )
    log.info("taking %s", found)
    return Chosen(found, stage_one(vllm, options.vllm_python))


def stage_one(vllm: Path, python: Path) -> Path | None:
    """The VLLM if it can be run; else the page goes on without, and says so."""
    if not vllm.is_dir():
        log.warning("%s: not there; descriptions are typed by hand", vllm)
    elif not python.exists():
        log.warning(
            "%s: not found; descriptions are typed by hand. bash scripts/setup.sh vllm makes stage 1's "
            "environment", python,
        )  # fmt: skip
    else:
        return vllm
    return None
