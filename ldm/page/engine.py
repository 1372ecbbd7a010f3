"""The loaded networks: says how a frame would be drawn, and draws a batch of frames."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from egogen.errors import UserError, check, check_choice
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.stated_sizes import guidance_of, resolution_of
from ldm.config.sections import SamplingConfig
from ldm.networks.architecture import Parts
from ldm.networks.devices import find_device
from ldm.networks.distilled import Distilled
from ldm.networks.precision import choose_precisions
from ldm.networks.scales import distilled_of
from ldm.networks.shapes import LATENT_SCALE
from ldm.page.choosing import Chosen
from ldm.page.frame_settings import FrameSettings, Networks, edit_options, in_words
from ldm.page.page_options import PageOptions
from ldm.pipeline import LegoPipeline
from ldm.sampling.asking import check_vllm
from ldm.sampling.edit_options import RESOLUTION, EditOptions
from ldm.sampling.editing import Condition, decode, shaped
from ldm.sampling.methods import prepare

log = logging.getLogger(__name__)
OnStep = Callable[[int, Float[Tensor, "b 4 h w"]], None]
MAIN = "LEGO"
GPU_BATCH = 8


class Method(NamedTuple):
    """A checkpoint that draws: `side` of its square, `width` of the features that it takes, if any."""

    name: str
    networks: Networks
    parts: Parts
    pipelines: dict[str, LegoPipeline]
    side: int
    distilled: Distilled | None
    width: int | None

    def pipeline(self, scheduler: str) -> LegoPipeline:
        """The networks with a scheduler."""
        if scheduler not in self.pipelines:
            made = LegoPipeline.from_parts(self.parts, scheduler)
            made.set_progress_bar_config(disable=True)
            self.pipelines[scheduler] = made
        return self.pipelines[scheduler]


class Plan(NamedTuple):
    """How one frame is drawn, settled before it waits."""

    method: Method
    options: EditOptions
    sampling: SamplingConfig
    side: int

    @property
    def asks_stage_one(self) -> bool:
        """Whether stage 1 describes, or makes the features of a description."""
        return self.method.networks.vllm is not None

    @property
    def kind(self) -> Hashable:
        """Frames of one kind can be drawn in one batch."""
        return self.method.name, self.side, repr(self.sampling)


class PageCancelledError(Exception):
    """Nobody waits for what is being made."""


class Wanted(NamedTuple):
    """One frame of a batch."""

    photo: Image.Image
    condition: Condition
    seed: int


class Engine:
    """The methods by name, the first of them LEGO; one thread draws with them.

    Args:
        methods: loaded.
        options: limits.
        batch: frames drawn in one pass of the networks.
    """

    def __init__(self, methods: Sequence[Method], options: PageOptions, batch: int) -> None:
        self.methods = {method.name: method for method in methods}
        self.options, self.batch = options, batch

    def plan(self, settings: FrameSettings, photo: Path) -> Plan:
        """Settles how a frame is drawn.

        Raises:
            UserError: it cannot be, or is more than this page allows; in the page's words.
        """
        name = settings.method or MAIN
        check_choice("method", name, *self.methods)
        method = self.methods[name]
        try:
            asked = edit_options(settings, method.networks, photo)
            sampling = asked.sampling(method.distilled, guidance_of(method.parts))
        except UserError as error:
            raise in_words(error) from None
        side = settings.resolution or method.side
        most = max(self.options.max_side, method.side)
        check("size", side, f"up to {most} on this page", side <= most)
        steps = self.options.max_steps
        check("steps", sampling.steps, f"up to {steps} on this page", sampling.steps <= steps)
        return Plan(method, asked, sampling, side)

    def draw(
        self,
        plan: Plan,
        wanted: Sequence[Wanted],
        watch: Callable[[Sequence[int]], OnStep],
    ) -> list[Image.Image | Exception]:
        """Draws frames of one kind together; one that fails is an error in its place.

        Args:
            plan: of all of them.
            wanted: the frames.
            watch: what is told of each step of the frames at these places; it may raise `PageCancelledError`.
        """
        made = self.together(plan, wanted, watch(range(len(wanted))))
        if made is None:
            made = [self.by_itself(plan, each, watch([place])) for place, each in enumerate(wanted)]
        return made

    def by_itself(self, plan: Plan, wanted: Wanted, on_step: OnStep) -> Image.Image | Exception:
        """Draws one frame of a batch that failed."""
        try:
            (made,) = self.together(plan, [wanted], on_step) or []
        except PageCancelledError as error:
            return error
        return made

    def together(
        self, plan: Plan, wanted: Sequence[Wanted], on_step: OnStep
    ) -> list[Image.Image | Exception] | None:
        """Draws a batch; None if it failed and its frames are to be tried one by one.

        Raises:
            PageCancelledError: as `on_step` does.
        """
        photos, conditions, seeds = zip(*wanted, strict=True)
        try:
            squares = decode(
                plan.method.pipeline(plan.sampling.scheduler), photos, conditions, plan.side, plan.sampling,
                seeds, check_finite=False, on_step=on_step,
            )  # fmt: skip
        except (UserError, RuntimeError) as error:
            if len(wanted) == 1:
                return [alone(error)]
            log.warning("a batch of %d failed; its frames are drawn one by one: %s", len(wanted), error)
            return None
        return [finished(square, photo) for square, photo in zip(squares, photos, strict=True)]


def finished(square: Float[Tensor, "3 r r"], photo: Image.Image) -> Image.Image | UserError:
    """A drawn frame in the photo's shape, unless it holds values that are no numbers."""
    if square.isfinite().all():
        return shaped(square, photo)
    return UserError("the frame came out as no numbers; lower the guidance, or draw in 32 bits")


def alone(error: UserError | RuntimeError) -> UserError:
    """What to tell where a single frame cannot be drawn."""
    if isinstance(error, torch.OutOfMemoryError):
        return UserError("the GPU's memory is full; choose a smaller size")
    if isinstance(error, UserError):
        return in_words(error)
    log.exception("a frame failed")
    return UserError("the drawing failed by a fault of ours, which the page's terminal shows; try again")


@torch.no_grad()
def glimpse(
    plan: Plan, latents: Float[Tensor, "b 4 h w"], photos: Sequence[Image.Image]
) -> list[Image.Image]:
    """What frames look like that are not finished yet."""
    vae = plan.method.parts.vae
    decoded = vae.decode((latents / LATENT_SCALE).to(vae.dtype)).sample.float().nan_to_num()
    return [shaped(square, photo) for square, photo in zip(decoded, photos, strict=True)]


def load_engine(options: PageOptions, chosen: Chosen) -> Engine:
    """Loads all checkpoints onto the device.

    Raises:
        UserError: one is none, or does not fit the VLLM or the preset.
    """
    device = find_device(options.device)
    main = Networks(
        chosen.ckpt, options.config, chosen.vllm, options.no_ema, options.preset, options.precision,
        options.device, options.vllm_python,
    )  # fmt: skip
    methods = [load_method(MAIN, main, device)]
    for name, ckpt in options.others().items():
        networks = main._replace(ckpt=ckpt, config=None)
        methods.append(load_method(name, networks, device))
    batch = options.batch or (1 if device.type == "cpu" else GPU_BATCH)
    return Engine(methods, options, batch)


def load_method(name: str, networks: Networks, device: torch.device) -> Method:
    """Loads one checkpoint; of those to compare with, one that takes no features draws without stage 1."""
    needs = True if networks.vllm is not None and name == MAIN else None
    parts = load_parts(networks.ckpt, networks.config, not networks.no_ema, needs)
    width = None if parts.conditioner is None else int(parts.conditioner.config.llm_width)
    if width is None:
        networks = networks._replace(vllm=None)
    distilled = distilled_of(parts.unet, f"{networks.ckpt}")
    asked = edit_options(FrameSettings(action="check"), networks, Path("photo"))
    sampling = asked.sampling(distilled, guidance_of(parts))
    if networks.vllm is not None:
        check_vllm(asked, networks.vllm, width)
    precisions = choose_precisions(sampling.precision, device, parts.unet.config.block_out_channels[0])
    prepare(parts, device, precisions, compiled=False)
    side = resolution_of(parts) or RESOLUTION
    log.info("%s: %s, draws at %d; UNet in %s, VAE in %s", name, networks.ckpt, side, *precisions)
    return Method(name, networks, parts, {}, side, distilled, width)
