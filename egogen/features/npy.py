"""The published form of features, a float16 `.npy` file each: written by `llava.describe`, read by stage 2.

Image feature: the projector's output, [256, d]. Text feature: one last-layer state a generated token, [n, d]
(spec: stage1-vllm-protocol, section 5).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from threading import Lock
from tokenize import TokenError

import numpy as np
from jaxtyping import Float, Float16, Float32

from egogen.errors import UserError
from egogen.features.store_names import IMAGE_TOKENS
from egogen.files import atomic_open, regular
from egogen.hints import hint
from egogen.unfetched import check_stands
from egogen.walks import walk_files

log = logging.getLogger(__name__)

TEXT_TOKENS = 77
# What numpy raises for damaged bytes, a damaged header included.
BROKEN = (
    OSError, ValueError, TypeError, EOFError, SyntaxError, TokenError, MemoryError, OverflowError,
    LookupError, AttributeError, RuntimeError,
)  # fmt: skip
# NumPy parses a header as Python, which two threads may not before 3.11.8 and 3.12.1: the collector can
# switch threads halfway, and a SystemError tells of a "recursion depth mismatch" (cpython#106905).
PARSING = Lock()
REMEDY = "run the describe step again with this checkpoint"


def write_feature(path: Path, values: np.ndarray) -> None:
    """Writes a feature [tokens, d] atomically as float16.

    Raises:
        ValueError: it is not two-dimensional, or a value does not fit float16.
    """
    half = as_half(values, path)
    with atomic_open(path) as file:
        # Through memory: NumPy's own writing to a file passes over a full disk where the array is small.
        whole = BytesIO()
        np.save(whole, half)
        file.write(whole.getbuffer())


def as_half(values: np.ndarray, where: Path | str) -> Float16[np.ndarray, "n d"]:
    """A feature in float16, checked before it is written.

    Raises:
        ValueError: see `write_feature`.
    """
    if values.ndim != 2:
        raise ValueError(f"{where}: a feature is [tokens, d], got shape {values.shape}")
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"{where}: a feature holds values that are not finite in float16")
    return half


def read_image_feature(
    path: Path, width: int | None = None, outline: bool = False
) -> Float[np.ndarray, "256 d"]:
    """Reads an image feature.

    Args:
        path: the `.npy` file.
        width: the expected d, where it is known.
        outline: its header and size tell whether it is whole; its values stay unread.

    Raises:
        UserError: missing or unreadable file, another shape, values that are not finite.
    """
    return as_image_feature((mapped if outline else load)(path), path, width)


def as_image_feature(values: np.ndarray, path: Path, width: int | None) -> np.ndarray:
    """Checks the shape of an image feature."""
    if values.ndim != 2 or values.shape[0] != IMAGE_TOKENS or width not in (None, values.shape[1]):
        expected = f"({IMAGE_TOKENS}, {width or 'd'})"
        raise UserError(f"{path}: image features are {values.shape}, expected {expected}; {REMEDY}")
    return values


def read_text_feature(
    path: Path, width: int | None = None, outline: bool = False
) -> Float[np.ndarray, "n d"]:
    """Reads a text feature; accepts the published variants.

    Three dimensions [n, t, d] keep the last of t. One dimension [d] is read as one token if `width` equals d:
    the published code squeezes a single token away (F-S1-02).

    Args:
        path: the `.npy` file.
        width: the expected d, where it is known.
        outline: as of an image feature.

    Raises:
        UserError: missing or unreadable file, another shape, values that are not finite.
    """
    return as_text_feature((mapped if outline else load)(path), path, width)


def as_text_feature(values: np.ndarray, path: Path, width: int | None) -> np.ndarray:
    """Checks the shape of a text feature and makes it [n, d]."""
    if values.ndim == 3 and values.shape[1] > 0:
        values = values[:, -1]  # [n, d]
    if values.ndim == 1 and width is not None and len(values) == width:
        values = values[None]  # [1, d]
    if values.ndim != 2 or values.shape[0] == 0 or width not in (None, values.shape[1]):
        expected = f"(tokens, {width or 'd'})"
        raise UserError(f"{path}: text features are {values.shape}, expected {expected}; {REMEDY}")
    return values


def read_pair(
    image: Path, text: Path, width: int | None = None
) -> tuple[Float32[np.ndarray, "i d"], Float32[np.ndarray, "t d"]]:
    """Reads both features of an action as the LDM takes them, 256 and 77 tokens.

    Raises:
        UserError: see `read_image_feature`; or they are not of one width.
    """
    seen = read_image_feature(image, width).astype(np.float32)
    return seen, fit_tokens(read_text_feature(text, seen.shape[1]))


def fit_tokens(values: Float[np.ndarray, "n d"], tokens: int = TEXT_TOKENS) -> Float32[np.ndarray, "t d"]:
    """Cuts or zero-pads a text feature to the LDM's number of tokens."""
    fitted = np.zeros((tokens, values.shape[1]), np.float32)
    fitted[: len(values)] = values[:tokens]
    return fitted


def load(path: Path) -> np.ndarray:
    """Loads a float array of finite values as float16.

    Raises:
        UserError: missing or unreadable file, another type, values that are not finite.
    """
    values = opened(path, lambda: read_array(path))
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise UserError(f"{path}: features hold values that are not finite; {REMEDY}")
    return half


def read_array(path: Path) -> np.ndarray:
    """Reads an `.npy` file; nothing else that numpy knows."""
    content = BytesIO(path.read_bytes())  # the slow part, in as many threads as there are
    with PARSING:
        return np.lib.format.read_array(content, allow_pickle=False)


def mapped(path: Path) -> np.ndarray:
    """A float array whose values are read from the file when they are used.

    Raises:
        UserError: missing or cut-off file, another type.
    """

    def read() -> np.ndarray:
        with PARSING:
            return np.lib.format.open_memmap(path, mode="r")

    return opened(path, read)


def opened(path: Path, read: Callable[[], np.ndarray]) -> np.ndarray:
    """What `read` gives, if it is a float array.

    Raises:
        UserError: missing or unreadable file, another type.
    """
    regular(path)
    try:
        values = read()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such feature file{hint(path) or '; run the describe step for this split'}"
        ) from None
    except BROKEN as error:
        check_stands(path)
        raise UserError(f"{path}: not a readable .npy file ({error}); delete it and {REMEDY}") from None
    if values.dtype.kind != "f":
        raise UserError(f"{path}: features are {values.dtype}, expected floating point; {REMEDY}")
    return values


def is_done(path: Path) -> bool:
    """Whether a feature [n, d] is on disk, by its file's header and size; a damaged one gets a warning."""
    try:
        shape = mapped(path).shape
    except UserError:
        shape = ()
    done = len(shape) == 2 and shape[0] > 0
    if not done and path.exists():
        log.warning("%s: empty, cut off or of another shape; it is made anew", path)
    return done


class NpyFiles:
    """The features in a folder of `.npy` files, by name.

    Args:
        folder: what names are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self.place = folder

    def __contains__(self, name: object) -> bool:
        return (self.place / str(name)).exists()

    @property
    def names(self) -> list[str]:
        """Names of all features, in order."""
        return sorted(path.relative_to(self.place).as_posix() for path in walk_files(self.place, "*.npy"))

    def path(self, name: str) -> Path:
        """A feature's file, for messages."""
        return self.place / name

    def read(self, name: str) -> np.ndarray:
        """A feature as it is in its file; see `load`."""
        return load(self.path(name))

    read_checked = read

    def outline(self, name: str) -> np.ndarray:
        """A feature whose values stay unread; see `mapped`."""
        return mapped(self.path(name))
