"""The work of `python -m llava.toy.ship`; the command tells what it is for."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from egogen.errors import UserError
from egogen.files import atomic_open
from llava.checkpoints.clip_tower import find_clip
from llava.checkpoints.config_json import is_published, read_config
from llava.checkpoints.published_folder import write_published
from llava.checkpoints.tokenizer import MODEL
from llava.checkpoints.weights import VISION, WEIGHTS, our_name, read_file, weight_files
from llava.model import load
from llava.toy.ship import ShipLlavaOptions

log = logging.getLogger(__name__)

SETTINGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    MODEL,
)


def ship(options: ShipLlavaOptions) -> None:
    """Writes `llava`, `vllm` and the CLIP that both name.

    Raises:
        UserError: the two name different CLIPs, or theirs is nowhere.
    """
    names = {str(read_config(folder).get("mm_vision_tower")) for folder in (options.start, options.tuned)}
    (name, *others) = names
    clip = find_clip(name, options.start)
    if others or clip is None:
        raise UserError(
            f"{options.tuned}: sees with {' and '.join(names)}; expected the CLIP beside {options.start}"
        )
    write_half(clip, options.out / name, keep_vision=True)
    for source, target in ((options.start, "llava"), (options.tuned, "vllm")):
        with tempfile.TemporaryDirectory() as folder:
            write_half(as_published(source, Path(folder)), options.out / target, keep_vision=False)


def as_published(source: Path, folder: Path) -> Path:
    """A LLaVA in the published format: the folder itself, or what is written of it into another one."""
    raw = read_config(source)
    if is_published(raw):
        return source
    model, tokenizer, _ = load(source)
    write_published(model, tokenizer, folder, str(raw["mm_vision_tower"]))
    return folder


def write_half(source: Path, target: Path, keep_vision: bool) -> None:
    """Writes a folder's weights in 16 bits, and copies its settings.

    Raises:
        UserError: a value is too large for 16 bits.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(source):
        tensors |= read_file(file)
    kept = {
        name: value.half().contiguous().clone()
        for name, value in tensors.items()
        if keep_vision or not our_name(name).startswith(VISION)
    }
    check_finite(source, kept)
    for name in SETTINGS:
        if (source / name).is_file():
            with atomic_open(target / name) as copy:
                copy.write((source / name).read_bytes())
    with atomic_open(target / WEIGHTS[0]) as out:
        save_file(kept, out.name, metadata={"format": "pt"})
    log.info("%s: %.1f MB", target, (target / WEIGHTS[0]).stat().st_size / 1e6)


def check_finite(source: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises a `UserError` for a weight that is no number in 16 bits."""
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{source}: {name} holds values that 16 bits cannot; expected |x| < 65504")
