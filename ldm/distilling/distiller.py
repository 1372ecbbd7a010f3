"""`Distiller`: a training step of the student, which learns the guided teacher's prediction, or its path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ldm.config.distillation import DistillConfig
from ldm.data.image_features import Batch
from ldm.diffusion.phases import Phases, jump, schedule_table
from ldm.distilling.teacher import GuidedTeacher, predict
from ldm.guidance import Drop, build_context
from ldm.module import Conditions, LatentDiffusion, Noised
from ldm.networks.architecture import Parts
from ldm.networks.scales import add_scale_layer, state_distilled

LAYER = "unet.time_embedding.cond_proj.weight"  # reads the scales


class Distiller(LatentDiffusion):
    """Trains a student's UNet; VAE, text encoder and conditioner are the teacher's, frozen and shared.

    Args:
        teacher: the networks of a trained LEGO, with their averaged weights.
        student: the UNet that learns; a layer for scales is added where it has none.
        config: the run's settings.
    """

    frozen = ("vae", "text_encoder", "conditioner")
    table: Tensor

    def __init__(self, teacher: Parts, student: UNet2DConditionModel, config: DistillConfig) -> None:
        add_scale_layer(student)
        state_distilled(student, config.distill.stated)
        super().__init__(teacher._replace(unet=student), config)
        self.distillation = config.distill
        self.phases = Phases(config.distill.grid, config.distill.phases)
        if self.conditioner is not None:
            self.conditioner.requires_grad_(False).eval()
        self.teacher_unet = teacher.unet  # goes where the module goes
        self.teacher = GuidedTeacher(teacher.unet)
        if config.model.channels_last:
            teacher.unet.to(memory_format=torch.channels_last)
        if config.model.compile:
            teacher.unet.compile()
        self.register_buffer("table", schedule_table(), persistent=False)

    def trained(self) -> dict[str, nn.Parameter]:
        """The student's UNet."""
        return {f"unet.{name}": value for name, value in self.unet.named_parameters()}

    def apart(self) -> dict[str, float]:
        """The layer that reads the scales is new, and learns faster."""
        return {LAYER: self.distillation.scale_layer_rate}

    def timestep(self, t: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """With phases, a time of the grid."""
        return self.phases.on_grid(t) if self.distillation.method == "consistency" else t

    def loss(
        self,
        batch: Batch,
        *,
        t: Int64[Tensor, " b"] | None = None,
        noise: Float[Tensor, "b 4 h w"] | None = None,
        drop: Drop | None = None,  # noqa: ARG002 - the guided teacher has done what dropout is for
        scales: Float[Tensor, "b 2"] | None = None,
    ) -> Float[Tensor, " b"]:
        """How far the student is from the teacher (`guidance`), or from itself a step on (`consistency`).

        What is not given is taken from the batch, else drawn.

        Args:
            batch: see `ldm.data.pairs.Sample`.
            t: timesteps 0 .. 999; with phases, the grid's time at or above each counts.
            noise: epsilon.
            drop: not used.
            scales: w_T and w_I of each sample.
        """
        noised = self.noised(batch, t, noise)
        with torch.no_grad():
            conditions = self.conditions(batch)
        scales = self.scales(batch) if scales is None else scales
        if self.distillation.method == "guidance":
            target = self.teacher(noised.latents, noised.t, noised.source, conditions, scales)
            return self.squared_error(self.predict(noised, conditions, scales), target, noised.t)
        target = self.consistent(noised, conditions, scales)  # first: it borrows the student's weights
        return self.pseudo_huber(self.student_jump(noised, conditions, scales), target)

    def scales(self, batch: Batch) -> Float[Tensor, "b 2"]:
        """w_T and w_I, uniform over the ranges that are trained."""
        drawn = batch.get("scales")
        drawn = torch.rand(len(batch["prompt"]), 2, device=self.device) if drawn is None else drawn
        ranges = torch.tensor([self.distillation.text_scales, self.distillation.image_scales]).to(drawn)
        return ranges[:, 0] + drawn * (ranges[:, 1] - ranges[:, 0])

    def predict(
        self, noised: Noised, conditions: Conditions, scales: Float[Tensor, "b 2"]
    ) -> Float[Tensor, "b 4 h w"]:
        """e_S(x_t, t, I, T, w), by the weights that are in place."""
        context = build_context(*conditions)
        return predict(self.unet, noised.latents, noised.t, noised.source, context, scales)

    def student_jump(
        self, noised: Noised, conditions: Conditions, scales: Float[Tensor, "b 2"]
    ) -> Float[Tensor, "b 4 h w"]:
        """f(x, t) = D(x, t, E(t), e_S): to the edge of its phase in one step."""
        predicted = self.predict(noised, conditions, scales)
        return jump(noised.latents, predicted, noised.t, self.phases.edge(noised.t), self.table)

    @torch.no_grad()
    def teacher_step(
        self, noised: Noised, conditions: Conditions, scales: Float[Tensor, "b 2"]
    ) -> Float[Tensor, "b 4 h w"]:
        """D(x_t, t, t', e~) is x', at the next time of the grid on the guided teacher's path."""
        guided = self.teacher(noised.latents, noised.t, noised.source, conditions, scales)
        return jump(noised.latents, guided, noised.t, self.phases.following(noised.t), self.table)

    @torch.no_grad()
    def consistent(
        self, noised: Noised, conditions: Conditions, scales: Float[Tensor, "b 2"]
    ) -> Float[Tensor, "b 4 h w"]:
        """The target f_S-(x', t'), by the student's moving average; x' itself where t' is the edge."""
        moved = self.teacher_step(noised, conditions, scales)
        following = self.phases.following(noised.t)
        at_edge = following == self.phases.edge(noised.t)
        # Rows at an edge may be at the clean end, which is no timestep: their jump is not used.
        there = noised._replace(latents=moved, t=torch.where(at_edge, noised.t, following))
        with self.ema.applied(self.trained()):
            jumped = self.student_jump(there, conditions, scales)
        return torch.where(at_edge[:, None, None, None], moved, jumped)

    def pseudo_huber(
        self, found: Float[Tensor, "b 4 h w"], wanted: Float[Tensor, "b 4 h w"]
    ) -> Float[Tensor, " b"]:
        """sqrt(difference^2 + d^2) - d, its mean for each sample (Song and Dhariwal 2023, equation 8)."""
        d = self.distillation.huber
        return (((found - wanted) ** 2 + d**2).sqrt() - d).mean(dim=(1, 2, 3))

    @torch.no_grad()
    def measure(self, batch: Batch) -> Callable[[], Float[Tensor, " b"]]:
        """What validation measures: with phases, one jump over a whole phase against the teacher's steps.

        A consistency loss alone compares the student with itself, and falls also where both are wrong.
        """
        if self.distillation.method == "guidance":
            return lambda: self.loss(batch)
        noised, conditions, scales = self.noised(batch), self.conditions(batch), self.scales(batch)
        begin = self.phases.begin(noised.t)
        a, s = self.table[:, begin + 1, None, None, None]
        now, t = self.table[:, noised.t + 1, None, None, None], noised.t
        clean = (noised.latents - now[1] * noised.noise) / now[0]
        start = noised._replace(latents=a * clean + s * noised.noise, t=begin)
        there = start
        for _ in range(self.phases.grid // self.phases.parts):
            t = self.phases.following(there.t)
            there = there._replace(latents=self.teacher_step(there, conditions, scales), t=t)
        return lambda: self.pseudo_huber(self.student_jump(start, conditions, scales), there.latents)
