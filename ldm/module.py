"""`LatentDiffusion`: one training step of stage 2, its optimiser, its average and its checkpoint format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from egogen.seeds import item_seed
from ldm.architecture import LATENT_SCALE, Parts
from ldm.checkpoint import (
    ARCHITECTURE,
    EMA_DECAY,
    EMA_UPDATES,
    load_state,
    published_state,
    training_schedule,
)
from ldm.config import TrainConfig
from ldm.ema import Ema
from ldm.guidance import Drop, build_context, draw_drop
from ldm.names import ema_name, published_names
from ldm.text import embed, make_tokenizer

Batch = dict[str, Any]


def p2_weight(schedule: Mapping[str, Tensor], k: float, gamma: float) -> Float[Tensor, " steps"]:
    """Weight of each timestep's loss, 1 / (k + SNR)^gamma (Choi et al. 2022, equation 8)."""
    snr = (schedule["sqrt_alphas_cumprod"] / schedule["sqrt_one_minus_alphas_cumprod"]) ** 2
    return (k + snr) ** -gamma


class LatentDiffusion(lightning.LightningModule):
    """Noise prediction in latent space, conditioned on frame, description and VLLM features.

    Args:
        parts: the networks, loaded.
        config: the run's settings.
    """

    sqrt_product: Tensor
    sqrt_rest: Tensor
    timestep_weight: Tensor

    def __init__(self, parts: Parts, config: TrainConfig) -> None:
        super().__init__()
        self.unet, self.vae, self.text_encoder, self.conditioner = parts
        self.config = config
        self.shape = config.model.architecture
        self.tokenizer = make_tokenizer()
        self.vae.requires_grad_(False).eval()
        self.text_encoder.requires_grad_(False).eval()
        self.unet.train()
        if config.model.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        schedule = training_schedule()
        self.register_buffer("sqrt_product", schedule["sqrt_alphas_cumprod"], persistent=False)
        self.register_buffer("sqrt_rest", schedule["sqrt_one_minus_alphas_cumprod"], persistent=False)
        weight = p2_weight(schedule, config.optimizer.p2_k, config.optimizer.p2_gamma)
        self.register_buffer("timestep_weight", weight, persistent=False)
        self.ema = Ema(self.trained(), config.model.ema_decay)

    @property
    def parts(self) -> Parts:
        """The networks."""
        return Parts(self.unet, self.vae, self.text_encoder, self.conditioner)

    def trained(self) -> dict[str, nn.Parameter]:
        """Trained parameters by own name: the UNet's, and the conditioner's unless published (F-S2-01)."""
        found = {f"unet.{name}": value for name, value in self.unet.named_parameters()}
        if self.conditioner is not None and self.config.model.train_conditioner:
            found |= {f"conditioner.{name}": value for name, value in self.conditioner.named_parameters()}
        return found

    def loss(
        self,
        batch: Batch,
        *,
        t: Int64[Tensor, " b"] | None = None,
        noise: Float[Tensor, "b 4 h w"] | None = None,
        drop: Drop | None = None,
    ) -> Float[Tensor, " b"]:
        """Squared error on the noise, its mean for each sample (Rombach et al. 2022, equation 2).

        Args:
            batch: see `ldm.data.Sample`; a scaled `target_latent` [b, 4, h, w] replaces the posterior's draw.
            t: timesteps 0 .. 999; drawn if None.
            noise: epsilon; drawn if None.
            drop: what guidance dropout takes away; drawn if None.
        """
        source, target = self.latents(batch)  # b 4 h w
        count = len(target)
        t = torch.randint(0, len(self.sqrt_product), (count,), device=self.device) if t is None else t
        noise = torch.randn_like(target) if noise is None else noise
        if drop is None:
            drop = draw_drop(torch.rand(count, device=self.device), self.config.model.drop_each)
        context = self.context(batch, drop)
        source = torch.where(drop.image[:, None, None, None], 0.0, source)
        noisy = self.sqrt_product[t, None, None, None] * target + self.sqrt_rest[t, None, None, None] * noise
        predicted = self.unet(torch.cat([noisy, source], dim=1), t, context).sample
        error = functional.mse_loss(predicted.float(), noise, reduction="none").mean(dim=(1, 2, 3))
        return error * self.timestep_weight[t]

    @torch.no_grad()
    def latents(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Source latent (posterior mode, not scaled) and target latent (posterior sample, scaled).

        Both frames of a pair are mirrored together with probability `data.flip`, in training.
        """
        flip_rate = self.config.data.flip if self.training else 0.0
        given = batch["source_latent"] if "source_latent" in batch else batch["source"]
        flip = torch.rand(len(given), device=given.device) < flip_rate
        if "source_latent" in batch:
            rows = torch.arange(len(given), device=given.device)
            source = given[rows, flip.long()]
            mean, std = batch["target_moments"][rows, flip.long()].chunk(2, dim=1)
            return source, LATENT_SCALE * (mean + std * torch.randn_like(mean))
        mirrored = flip[:, None, None, None]
        source = self.vae.encode(torch.where(mirrored, given.flip(-1), given)).latent_dist.mode()
        if "target_latent" in batch:
            return source, batch["target_latent"]
        target = torch.where(mirrored, batch["target"].flip(-1), batch["target"])
        return source, LATENT_SCALE * self.vae.encode(target).latent_dist.sample()

    def context(self, batch: Batch, drop: Drop) -> Float[Tensor, "b t ctx"]:
        """The conditioning tokens after guidance dropout; the same function serves sampling."""
        with torch.no_grad():
            text = batch.get("text")
            text = embed(self.text_encoder, self.tokenizer, batch["prompt"]) if text is None else text
            null_text = embed(self.text_encoder, self.tokenizer, [""])
        vllm = None
        if self.conditioner is not None:
            vllm = self.conditioner(batch["vllm_image"], batch["vllm_text"])
        return build_context(text, null_text, vllm, drop.text)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of a batch; its draws depend on seed, epoch, batch and rank alone."""
        place = ("train", str(self.current_epoch), str(batch_idx), str(self.global_rank))
        torch.manual_seed(item_seed(self.config.trainer.seed, *place))
        loss = self.loss(batch).mean()
        self.log("train/loss_simple", loss, prog_bar=True, batch_size=len(batch["prompt"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """Loss with noise and timestep fixed by the item's id, with last and averaged weights."""
        keep = torch.zeros(len(batch["prompt"]), dtype=torch.bool, device=self.device)
        t, noise = self.fixed_draws(batch)
        for name, average in (("val/loss_simple", False), ("val/loss_simple_ema", True)):
            if average:
                with self.ema.applied(self.trained()):
                    loss = self.loss(batch, t=t, noise=noise, drop=Drop(keep, keep))
            else:
                loss = self.loss(batch, t=t, noise=noise, drop=Drop(keep, keep))
            self.log(name, loss.mean(), batch_size=len(keep), sync_dist=True)

    def fixed_draws(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Timestep and noise of each item, keyed by its id."""
        given = batch["source_latent"][:, 0] if "source_latent" in batch else batch["source"]
        factor = 1 if "source_latent" in batch else self.shape.vae.factor
        size = (4, given.shape[-2] // factor, given.shape[-1] // factor)
        draws = []
        for item in batch["item"]:
            generator = torch.Generator().manual_seed(item_seed(self.config.trainer.seed, "val", item))
            time = torch.randint(0, len(self.sqrt_product), (), generator=generator)
            draws.append((time, torch.randn(size, generator=generator)))
        t, noise = (torch.stack(values).to(self.device) for values in zip(*draws, strict=True))
        return t, noise

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - one of Lightning's many forms
        """AdamW over what is trained."""
        settings = self.config.optimizer
        optimizer = AdamW(
            self.trained().values(),
            lr=settings.lr,
            betas=(settings.betas[0], settings.betas[1]),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
        schedule = LambdaLR(
            optimizer, lambda step: self.rate(step)
        )  # a plain function leaves no state to save
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """Share of the learning rate at an optimiser step: linear warm-up, then constant or half a cosine."""
        settings, last = self.config.optimizer, self.config.trainer.max_steps
        warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
        if settings.schedule == "constant":
            return warm
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / last)))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's signature
        """Steps the optimiser, then the average."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.trained())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores weights and averages by their published names, so that a `last.ckpt` is a LEGO file."""
        names = published_names(self.parts, self.shape)
        state = published_state(self.parts, self.shape)
        for own, value in self.ema.values().items():
            state[ema_name(names[own])] = value.detach()
        state[EMA_DECAY] = torch.tensor(self.ema.decay)
        state[EMA_UPDATES] = torch.tensor(self.ema.updates, dtype=torch.int32)
        checkpoint["state_dict"] = state
        checkpoint[ARCHITECTURE] = asdict(self.shape)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Loads published names strictly, and gives Lightning the result."""
        state = checkpoint["state_dict"]
        load_state(self.parts, self.shape, state, Path("checkpoint to resume"))
        names = published_names(self.parts, self.shape)
        averages = {own: state[ema_name(names[own])] for own in self.ema.names}
        self.ema.restore(averages, int(state[EMA_UPDATES]))
        checkpoint["state_dict"] = self.state_dict()
