"""What a diffusers pipeline of others says of itself: class, arguments, size; read before its weights are."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)
from huggingface_hub import snapshot_download

from egogen.annotations import check_object
from egogen.errors import UserError, reason, shorten
from egogen.files import read_json
from ldm.baselines.hub_name import hub_name
from ldm.checkpoints.diffusers_folder import INDEX
from ldm.config.baselines import GIVEN as OURS

LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
# What a pipeline takes or has that draws from more than a frame and a text, or draws something else.
MORE = {
    "mask_image": "a mask", "control_image": "a control image", "controlnet": "a control image",
    "num_frames": "the length of a video",
}  # fmt: skip
KINDS = (
    "image-to-image and instruction-editing pipelines of diffusers, such as "
    "StableDiffusionInstructPix2PixPipeline, StableDiffusionXLImg2ImgPipeline or FluxKontextPipeline"
)


@dataclass(frozen=True)
class PipelineIndex:
    """A pipeline's folder, as far as it can be known without its weights.

    Raises:
        UserError: it is none of diffusers' own pipelines from a frame and a text to a frame, or asks for code
            of others.
    """

    folder: Path

    def __post_init__(self) -> None:
        taken = self.parameters
        for name in ("image", "prompt"):
            if name not in taken:
                raise UserError(f"{self.folder}: {self.name} takes no {name!r}; allowed are {KINDS}")
        parts = inspect.signature(self.kind.__init__).parameters
        for name, what in MORE.items():
            if name in taken or name in parts:
                raise UserError(f"{self.folder}: {self.name} asks for {what} too; allowed are {KINDS}")
        self.components  # noqa: B018 - checks them

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """What `model_index.json` says."""
        path = self.folder / INDEX
        if not path.is_file():
            raise UserError(
                f"{self.folder}: no {INDEX} here; expected a diffusers pipeline: its folder, or its id on "
                "the hub, such as timbrooks/instruct-pix2pix"
            )
        return check_object(read_json(path), f"{path}", "settings by name")

    @cached_property
    def kind(self) -> type[diffusers.DiffusionPipeline]:
        """The pipeline's class, one of diffusers' own; of one that draws from texts its twin for frames."""
        name = self.content.get("_class_name")
        found = getattr(diffusers, name, None) if isinstance(name, str) else None
        if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
            ours = "; LEGO's own are drawn by --method lego" if name == "LegoPipeline" else ""
            raise UserError(
                f"{self.folder / INDEX}: _class_name: got {shorten(name)}, which diffusers "
                f"{diffusers.__version__} does not have; allowed are {KINDS}; code of others is not run{ours}"
            )
        twins = [
            AUTO_IMAGE2IMAGE_PIPELINES_MAPPING[key]
            for key, other in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.items()
            if other is found and key in AUTO_IMAGE2IMAGE_PIPELINES_MAPPING
        ]
        return found if "image" in inspect.signature(found.__call__).parameters or not twins else twins[0]

    @property
    def name(self) -> str:
        """Of the class."""
        return self.kind.__name__

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What a call of the pipeline takes, by name."""
        taken = inspect.signature(self.kind.__call__).parameters
        named = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        return {name: each for name, each in taken.items() if each.kind in named and name != "self"}

    @cached_property
    def components(self) -> Mapping[str, Any]:
        """Classes of its parts; those that are left out have none."""
        found = {}
        for name, stated in self.content.items():
            match stated:
                case [str() as library, str() as kind]:
                    found[name] = self.component(name, library, kind)
        return found

    def component(self, name: str, library: str, kind: str) -> type:
        """The class of a part, from diffusers, transformers or a pipeline's own module in diffusers."""
        home: object = LIBRARIES.get(library)
        if home is None and library.isidentifier() and find_spec(f"diffusers.pipelines.{library}"):
            home = getattr(diffusers.pipelines, library)
        found = getattr(home, kind, None)
        if not isinstance(found, type):
            raise UserError(
                f"{self.folder / INDEX}: {name}: got {shorten(f'{library}.{kind}')}; allowed are classes of "
                "the installed diffusers and transformers; code of others is not run"
            )
        return found

    @property
    def own_side(self) -> int | None:
        """The side of its frames, in pixels; None where it does not say.

        UNets state it in latent cells; pipelines of transformers draw about a megapixel by default.
        """
        if "unet" not in self.components:
            return 1024
        unet, vae = (self.settings(name) for name in ("unet", "vae"))
        match unet.get("sample_size"), vae.get("block_out_channels"):
            case int(cells), [*levels] if (side := cells * 2 ** (len(levels) - 1)) % 8 == 0:
                return side
        return None

    def sized(self, side: int) -> dict[str, int]:
        """What has the pipeline draw squares of a side, where its call does not take the frame's own."""
        sizes = {"height": side, "width": side, "max_area": side**2}
        return {name: value for name, value in sizes.items() if name in self.parameters}

    def settings(self, part: str) -> Mapping[str, object]:
        """What a part's `config.json` says."""
        path = self.folder / part / "config.json"
        return check_object(read_json(path), f"{path}", "settings by name") if path.exists() else {}

    def check_arguments(self, given: Mapping[str, object]) -> None:
        """Checks what a configuration hands on to the pipeline's call.

        Raises:
            UserError: it does not take an argument, or one is missing.
        """
        free = [name for name in self.parameters if name not in OURS]
        for name in given:
            if name not in free:
                (near, *_) = [*difflib.get_close_matches(name, free, n=1), ""]
                raise UserError(
                    f"pipeline.arguments.{name}: {self.name} does not take it"
                    f"{near and f'; did you mean {near!r}?'}; allowed are {', '.join(free)}"
                )
        for name in free:
            if self.parameters[name].default is inspect.Parameter.empty and name not in given:
                raise UserError(f"pipeline.arguments: {self.name} needs {name!r}; give it by --pipeline-args")


def open_index(name: Path) -> PipelineIndex:
    """Opens a pipeline's folder, or its id on the hub, of which settings alone are fetched.

    Args:
        name: the folder, `owner/name` or `owner/name@revision`.

    Raises:
        UserError: see `PipelineIndex`; or the hub cannot be asked.
    """
    if name.is_file():
        raise UserError(f"{name}: is a file; --method pipeline takes a diffusers folder, or an id on the hub")
    if name.is_dir():
        return PipelineIndex(name)
    if (remote := hub_name(name)) is None:
        raise UserError(f"{name}: no such folder, and no id on the hub (owner/name, owner/name@revision)")
    wanted = [INDEX, "*/config.json"]
    try:  # those that were fetched before are taken from the hub's cache
        folder = snapshot_download(remote.repository, revision=remote.revision, allow_patterns=wanted)
        return PipelineIndex(Path(folder))
    except UserError:
        raise
    except (OSError, ValueError) as error:
        first = reason(error).split(". ")[0][:200]
        raise UserError(
            f"--ckpt {name}: no such folder, and no answer from the hub ({first}); give a diffusers folder, "
            f"or fetch it where there is a network: {remote.download}"
        ) from None


def local_folder(name: Path) -> Path:
    """The folder of a pipeline with its weights, which are fetched where an id on the hub is given.

    Raises:
        UserError: the hub cannot be asked.
    """
    if name.is_dir() or (remote := hub_name(name)) is None:
        return name
    try:  # what its index names, and of weights safetensors alone
        fetch = diffusers.DiffusionPipeline.download
        return Path(fetch(remote.repository, revision=remote.revision, use_safetensors=True))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--ckpt {name}: cannot be fetched ({' '.join(reason(error).split())[:300]})"
        ) from None
