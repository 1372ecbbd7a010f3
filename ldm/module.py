"""`LatentDiffusion`: one training step of stage 2, its average and its checkpoint format."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as lightning
import torch
from jaxtyping import Float, Int64
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from egogen.errors import UserError
from egogen.seeds import item_seed
from ldm.checkpoints.published_names import EMA_DECAY, EMA_UPDATES, ema_name, published_names
from ldm.checkpoints.safe_reading import ARCHITECTURE, RESOLUTION, SETTINGS
from ldm.checkpoints.single_file import load_state
from ldm.checkpoints.writing import published_state
from ldm.conditioner import embed
from ldm.config.sections import TrainConfig
from ldm.data.image_features import Batch
from ldm.diffusion.schedule import p2_weight, training_schedule
from ldm.guidance import Drop, build_context, draw_drop
from ldm.networks.architecture import Parts
from ldm.networks.distilled import DISTILLED
from ldm.networks.scales import distilled_of
from ldm.networks.shapes import LATENT_SCALE
from ldm.networks.text import make_tokenizer
from ldm.training.adamw import Apart, gradient_norm, make_optimizer, rate, renew
from ldm.training.ema import Ema

log = logging.getLogger(__name__)


class Noised(NamedTuple):
    """What a step predicts from: x_t at t, its noise epsilon, and I, the source frames' latents."""

    latents: Float[Tensor, "b 4 h w"]
    t: Int64[Tensor, " b"]
    noise: Float[Tensor, "b 4 h w"]
    source: Float[Tensor, "b 4 h w"]


class Conditions(NamedTuple):
    """What `build_context` takes: psi(R), psi("") and the conditioner's tokens."""

    text: Float[Tensor, "b t ctx"]
    null_text: Float[Tensor, "1 t ctx"]
    vllm: Float[Tensor, "b v ctx"] | None


class LatentDiffusion(lightning.LightningModule):
    """Noise prediction in latent space, conditioned on frame, description and VLLM features."""

    frozen: tuple[str, ...] = ("vae", "text_encoder")  # parts that no step changes

    sqrt_product: Tensor
    sqrt_rest: Tensor
    timestep_weight: Tensor

    def __init__(self, parts: Parts, config: TrainConfig) -> None:
        super().__init__()
        self.unet, self.vae, self.text_encoder, self.conditioner = parts
        self.config = config
        self.shape = config.model.shape
        self.tokenizer = make_tokenizer()
        self.vae.requires_grad_(False).eval()
        self.text_encoder.requires_grad_(False).eval()
        self.unet.train()
        if config.model.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        if config.model.channels_last:
            self.unet.to(memory_format=torch.channels_last)
        if config.model.compile:
            self.unet.compile()
        if self.conditioner is not None:
            self.conditioner.train()
            self.conditioner.set_dropout(config.model.mixer_dropout)
            self.conditioner.requires_grad_(config.model.train_conditioner)
        schedule = training_schedule()
        self.register_buffer("sqrt_product", schedule["sqrt_alphas_cumprod"], persistent=False)
        self.register_buffer("sqrt_rest", schedule["sqrt_one_minus_alphas_cumprod"], persistent=False)
        weight = p2_weight(schedule, config.optimizer.p2_k, config.optimizer.p2_gamma)
        self.register_buffer("timestep_weight", weight, persistent=False)
        self.ema = Ema(self.trained(), config.model.ema_decay)
        self.recent: list[str] = []  # ids of the items since the last optimiser step
        self.bad: list[str] = []  # those of them whose loss is not finite
        self.skipped = 0  # optimiser steps in a row without a finite gradient

    @property
    def parts(self) -> Parts:
        """The networks."""
        return Parts(self.unet, self.vae, self.text_encoder, self.conditioner)

    def trained(self) -> dict[str, nn.Parameter]:
        """Trained parameters by own name: the UNet's, and the conditioner's unless published (F-S2-01)."""
        found = {f"unet.{name}": value for name, value in self.unet.named_parameters() if value.requires_grad}
        if self.conditioner is not None and self.config.model.train_conditioner:
            found |= {f"conditioner.{name}": value for name, value in self.conditioner.named_parameters()}
        return found

    def apart(self) -> dict[str, float]:
        """Trained parameters with a rate of their own: by own name, how many times the settings'."""
        return {}

    # --- the loss ----------------------------------------------------------------------------------

    def loss(
        self,
        batch: Batch,
        *,
        t: Int64[Tensor, " b"] | None = None,
        noise: Float[Tensor, "b 4 h w"] | None = None,
        drop: Drop | None = None,
    ) -> Float[Tensor, " b"]:
        """Squared error on the noise, its mean for each sample (Rombach et al. 2022, equation 2).

        What is not given is taken from the batch, as `ldm.data.pairs.EgoGenPairs` put it there, else drawn.

        Args:
            batch: see `ldm.data.pairs.Sample`; a scaled `target_latent` [b, 4, h, w] replaces the
                posterior's draw.
            t: timesteps 0 .. 999.
            noise: epsilon.
            drop: what guidance dropout takes away.
        """
        noised = self.noised(batch, t, noise)
        if drop is None:
            count, device = len(noised.t), noised.t.device
            r = batch["drop"] if "drop" in batch else torch.rand(count, device=device)
            drop = draw_drop(r, self.config.model.drop_each)
        context = self.context(batch, drop)
        source = torch.where(drop.image[:, None, None, None], 0.0, noised.source)
        predicted = self.unet(torch.cat([noised.latents, source], dim=1), noised.t, context).sample
        return self.squared_error(predicted, noised.noise, noised.t)

    def noised(self, batch: Batch, t: Tensor | None = None, noise: Tensor | None = None) -> Noised:
        """The batch's target latents with noise of their timesteps; see `loss`."""
        source, target = self.latents(batch)  # b 4 h w
        t = batch.get("t") if t is None else t
        t = torch.randint(0, len(self.sqrt_product), (len(target),), device=target.device) if t is None else t
        t = self.timestep(t)
        noise = batch.get("noise") if noise is None else noise
        noise = torch.randn_like(target) if noise is None else noise
        noisy = self.sqrt_product[t, None, None, None] * target + self.sqrt_rest[t, None, None, None] * noise
        return Noised(noisy, t, noise, source)

    def timestep(self, t: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """The timestep that is trained for a drawn one: itself."""
        return t

    def squared_error(
        self, predicted: Float[Tensor, "b 4 h w"], wanted: Float[Tensor, "b 4 h w"], t: Int64[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Mean squared error of each sample, by its timestep's weight."""
        error = functional.mse_loss(predicted.float(), wanted, reduction="none").mean(dim=(1, 2, 3))
        return error * self.timestep_weight[t]

    @torch.no_grad()
    def latents(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Source latent (posterior mode, not scaled) and target latent (posterior sample, scaled).

        Always in 32 bits: the VAE loses detail in fewer, and a cache of latents costs nothing.
        """
        if "source_latent" in batch:
            mean, std = batch["target_moments"].chunk(2, dim=1)
            return batch["source_latent"], LATENT_SCALE * self.posterior_draw(batch, mean, std)
        with torch.autocast(self.device.type, enabled=False):
            source = self.vae.encode(batch["source"]).latent_dist.mode()
            if "target_latent" in batch:
                return source, batch["target_latent"]
            posterior = self.vae.encode(batch["target"]).latent_dist
        return source, LATENT_SCALE * self.posterior_draw(batch, posterior.mean, posterior.std)

    @staticmethod
    def posterior_draw(batch: Batch, mean: Tensor, std: Tensor) -> Tensor:
        """A draw from the VAE's posterior, by the batch's own noise if it has some."""
        noise = batch["posterior_noise"] if "posterior_noise" in batch else torch.randn_like(mean)
        return mean + std * noise

    def context(self, batch: Batch, drop: Drop) -> Float[Tensor, "b t ctx"]:
        """The conditioning tokens after guidance dropout; the same function serves sampling."""
        return build_context(*self.conditions(batch), drop.text)

    def conditions(self, batch: Batch) -> Conditions:
        """What the batch's contexts are built of."""
        with torch.no_grad():
            text = batch.get("text")
            text = embed(self.text_encoder, self.tokenizer, batch["prompt"]) if text is None else text
            null_text = embed(self.text_encoder, self.tokenizer, [""])
        vllm = None
        if self.conditioner is not None:
            vllm = self.conditioner(batch.get("vllm_image"), batch.get("vllm_text"))
        return Conditions(text, null_text.to(text), vllm)

    # --- Lightning's steps -------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Puts the average where it belongs."""
        self.ema.to("cpu" if self.config.model.ema_on_cpu else self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of a batch. The items carry their draws; the mixer's dropout is keyed here."""
        place = ("dropout", str(self.trainer.global_step), str(batch_idx), str(self.global_rank))
        torch.manual_seed(item_seed(self.config.trainer.seed, *place))
        losses = self.loss(batch)
        finite = losses.detach().isfinite()
        self.recent += batch["item"]
        if not finite.all():
            self.bad += [item for item, good in zip(batch["item"], finite.tolist(), strict=True) if not good]
        loss = losses.mean()
        self.log("train/loss_simple", loss, prog_bar=True, batch_size=len(losses))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """Loss with noise and timestep fixed by the item's id, with last and averaged weights."""
        measured = self.measure(batch)
        loss = measured().mean()
        with self.ema.applied(self.trained()):
            average = measured().mean()
        for name, value in (("val/loss_simple", loss), ("val/loss_simple_ema", average)):
            self.log(name, value, batch_size=len(batch["prompt"]), sync_dist=True)

    def measure(self, batch: Batch) -> Callable[[], Float[Tensor, " b"]]:
        """What validation measures with the weights that are in place: the loss without dropout."""
        keep = torch.zeros(len(batch["prompt"]), dtype=torch.bool, device=self.device)
        return lambda: self.loss(batch, drop=Drop(keep, keep))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over what is trained."""
        settings = self.config.optimizer
        trained, apart = self.trained(), self.apart()
        others = [Apart([trained[name]], factor) for name, factor in apart.items()]
        rest = [value for name, value in trained.items() if name not in apart]
        optimizer = make_optimizer(rest, settings, others)
        last = max(1, self.config.trainer.max_steps)
        # A plain function leaves no state to save.
        schedule = LambdaLR(optimizer, lambda step: rate(settings, step, last))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(
        self,
        epoch: int,  # noqa: ARG002 - Lightning's signature
        batch_idx: int,  # noqa: ARG002
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], float] | None = None,
    ) -> None:
        """Steps optimiser and average, unless the gradient is not finite: then it is named and left out.

        Gradients are equal on all processes by now, and so is the decision.

        Raises:
            UserError: `trainer.max_nonfinite` steps in a row had no finite gradient.
        """
        assert optimizer_closure is not None
        loss = optimizer_closure()
        norm = gradient_norm(self.trained().values())
        self.log("train/gradient_norm", norm)
        recent, bad = self.recent, self.bad
        self.recent, self.bad = [], []
        if norm.isfinite():
            self.skipped = 0
            optimizer.step(closure=lambda: loss)
            self.ema.update(self.trained())
            return
        self.skipped += 1
        recent, bad = self.of_all_processes(recent), self.of_all_processes(bad)
        say = log.warning if self.trainer.is_global_zero else log.debug
        say(
            "step %d is left out, its %s not finite; items: %s",
            self.trainer.global_step,
            "loss is" if bad else "gradient is",
            ", ".join(bad or recent),
        )
        optimizer.zero_grad()
        # Lightning counts steps by this call; without gradients it changes nothing.
        optimizer.step(closure=lambda: loss)
        if self.skipped >= self.config.trainer.max_nonfinite:
            raise UserError(
                f"training: {self.skipped} steps in a row had no finite gradient, the last with the items "
                f"{', '.join((bad or recent)[:10])}; the checkpoints before them are good. Lower "
                "optimizer.lr, set trainer.precision=32-true, or look at these items"
            )

    def of_all_processes(self, items: list[str]) -> list[str]:
        """The items of all processes."""
        if self.trainer.world_size == 1:
            return items
        parts: list[list[str]] = [[] for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Moves the average after every batch, also between steps, where that is asked for (F-S2-07)."""
        stepped = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        if self.config.model.ema_every == "batch" and not stepped:
            self.ema.update(self.trained())

    # --- checkpoints -------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores weights and averages by their published names, so that a `last.ckpt` is a LEGO file."""
        if not self.trainer.is_global_zero:
            checkpoint["state_dict"] = {}  # only the first process writes
            return
        names, state = self.stored_names(), self.stored()
        for own, value in self.ema.values().items():
            state[ema_name(names[own])] = value.detach().cpu()
        state[EMA_DECAY] = torch.tensor(self.ema.decay)
        state[EMA_UPDATES] = torch.tensor(self.ema.updates, dtype=torch.int32)
        checkpoint["state_dict"] = state
        checkpoint[ARCHITECTURE] = asdict(self.shape)
        checkpoint[RESOLUTION] = self.config.data.resolution
        checkpoint[SETTINGS] = asdict(self.config)
        if stated := distilled_of(self.unet):
            checkpoint[DISTILLED] = asdict(stated)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Loads published names strictly, gives Lightning the result, and counts batches anew.

        The optimiser keeps its moments and takes this run's settings.

        A checkpoint is always made at the end of an optimiser step; how many batches that took depends on the
        number of processes then, and may differ now.
        """
        state = checkpoint["state_dict"]
        self.check_base(checkpoint)
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        last = max(1, self.config.trainer.max_steps)
        renew(checkpoint, self.config.optimizer, last, on_gpu, [*self.apart().values()])
        self.restore(state, Path("checkpoint to resume"))
        names = self.stored_names()
        averages = {own: state[ema_name(names[own])] for own in self.ema.names}
        self.ema.restore(averages, int(state[EMA_UPDATES]))
        checkpoint["state_dict"] = self.state_dict()
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        batches = checkpoint["global_step"] * self.trainer.accumulate_grad_batches
        for counts in (progress["total"], progress["current"]):
            counts.update(ready=batches, started=batches, processed=batches, completed=batches - 1)

    def stored_names(self) -> dict[str, str]:
        """What a checkpoint calls each weight that it holds: own name -> name there."""
        return published_names(self.parts, self.shape)

    def stored(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the weights, by its names."""
        return published_state(self.parts, self.shape)

    def restore(self, state: Mapping[str, Tensor], path: Path) -> None:
        """Takes over what `stored` gave, strictly."""
        load_state(self.parts, self.shape, state, path)

    def check_base(self, checkpoint: Mapping[str, Any]) -> None:
        """Raises a `UserError` unless what no step changes is as in the checkpoint to resume."""
        self.check_frozen(checkpoint["state_dict"])

    def check_frozen(self, state: Mapping[str, Tensor]) -> None:
        """Latents are encoded once, by what `model.start` holds: that must be the checkpoint's.

        Raises:
            UserError: VAE, text encoder, or another part that stays as it is, are others.
        """
        names = published_names(self.parts, self.shape)
        for part in self.frozen:
            module = getattr(self, part)
            for own, value in module.state_dict().items() if module is not None else ():
                saved = state.get(names[f"{part}.{own}"])
                if saved is not None and not torch.equal(saved.flatten().to(value), value.flatten()):
                    raise UserError(
                        f"model.start: its {part} is not that of the checkpoint to resume (tensor {own!r}); "
                        "set it to what the run was begun with"
                    )
