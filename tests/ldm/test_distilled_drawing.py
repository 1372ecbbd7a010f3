"""How a distilled network draws, at toy size: one row a step, by its phases, baked; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline
from torch import Tensor

from egogen.errors import UserError
from ldm.config.sections import SamplingConfig
from ldm.diffusion.phases import CLEAN, Phases, jump, schedule_table
from ldm.diffusion.sampler import make_scheduler
from ldm.distilling.teacher import predict
from ldm.networks.architecture import Parts
from ldm.networks.distilled import Distilled
from ldm.networks.scales import (
    add_scale_layer,
    bake,
    distilled_of,
    embed_scales,
    state_distilled,
    takes_scales,
)
from ldm.pipeline import LegoPipeline
from ldm.sampling.drawing_config import for_checkpoint, read_config
from ldm.sampling.edit_options import DrawingOptions
from tests.ldm.test_distilling import TRAILING, parts_of


def distilled_pipeline(phases: int | None = None, seed: int = 3) -> LegoPipeline:
    parts = parts_of(seed)
    add_scale_layer(parts.unet)
    torch.nn.init.normal_(parts.unet.time_embedding.cond_proj.weight, std=0.05)
    state_distilled(parts.unet, Distilled([1, 5], [1, 2], phases))
    return LegoPipeline.from_parts(parts)


def drawn(
    pipeline: LegoPipeline, steps: int = 4, text: float = 3.0, image: float = 1.5, **more: object
) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    source = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    with pipeline.quiet():
        return pipeline(
            source, ["open", "cut"], num_inference_steps=steps, guidance_scale=text,
            image_guidance_scale=image, latents=torch.randn(2, 4, 16, 16, generator=generator),
            generator=torch.Generator().manual_seed(2), output_type="latent", **more,
        ).images  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("phases", [1, 4])
def test_a_drawing_is_the_chain_of_jumps_one_row_a_step(phases: int) -> None:
    """Witness: f by `jump`; the scheduler is stock."""
    pipeline = distilled_pipeline(phases)
    seen: list[tuple[int, ...]] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    found = drawn(pipeline, phases)
    hook.remove()
    assert seen == [(2, 8, 16, 16)] * phases
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    pipeline.scheduler = TRAILING()
    assert drawn(pipeline, phases).equal(found)
    generator = torch.Generator().manual_seed(1)
    source = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    x = torch.randn(2, 4, 16, 16, generator=generator)
    context, _ = pipeline.encode_context(["open", "cut"])
    latent = pipeline.vae.encode(source).latent_dist.mode()
    chain, table, scales = Phases(40, phases), schedule_table(), torch.tensor([[3.0, 1.5]] * 2)
    t = torch.full((2,), 999)
    while t[0] != CLEAN:
        noise = predict(pipeline.unet, x, t, latent, context, scales)
        x, t = jump(x, noise, t, chain.edge(t), table), chain.edge(t)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_guidance_is_an_input_and_never_applied_again() -> None:
    pipeline = distilled_pipeline()
    seen: list[int] = []
    pipeline.unet.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    first = drawn(pipeline, text=3.0)
    assert seen == [2] * 4
    assert not drawn(pipeline, text=4.0).equal(first)  # it is heard
    with torch.no_grad():
        pipeline.unet.time_embedding.cond_proj.weight.zero_()
    assert drawn(pipeline, text=4.0).equal(drawn(pipeline, text=1.0))  # by the layer alone


@pytest.mark.parametrize(
    ("phases", "asked", "message"),
    [
        (None, {"text": 5.1}, r"guidance_scale: got 5.1, allowed: 1 to 5, for which this checkpoint was"),
        (None, {"text": 0.0}, r"guidance_scale: got 0.0, allowed: 1 to 5"),
        (None, {"image": 2.5}, r"image_guidance_scale: got 2.5, allowed: 1 to 2"),
        (None, {"guidance_interval": (0.3, 5.0)}, r"guidance_interval: a distilled checkpoint is"),
        (None, {"negative_prompt": "no hand"}, r"negative_prompt: a distilled checkpoint is guided"),
        (4, {"steps": 8}, r"num_inference_steps: got 8, allowed: 4: this checkpoint was"),
    ],
)  # fmt: skip
def test_what_it_was_not_distilled_for_is_refused(
    phases: int | None, asked: dict[str, Any], message: str
) -> None:
    pipeline = distilled_pipeline(phases)
    with pytest.raises(UserError, match=message):
        drawn(pipeline, **asked)


def test_phases_are_drawn_by_trailing_ddim_alone() -> None:
    pipeline = distilled_pipeline(4)
    parts = Parts(pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.conditioner)
    for name in ("euler_ancestral", "ddim", "ddim_trailing"):
        assert LegoPipeline.from_parts(parts, name).scheduler.config.timestep_spacing == "trailing"
    with pytest.raises(UserError, match=r"scheduler: got 'dpmpp_2m', allowed: ddim_trailing, by whose steps"):
        LegoPipeline.from_parts(parts, "dpmpp_2m")
    pipeline.scheduler = make_scheduler("ddim")
    with pytest.raises(
        UserError, match=r"got DDIMScheduler with timestep_spacing 'leading'; this checkpoint of 4"
    ):
        drawn(pipeline)


# --- baking --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phases", [None, 4])
def test_a_baked_network_is_plain_and_draws_the_same(phases: int | None) -> None:
    pipeline = distilled_pipeline(phases)
    unbaked = drawn(pipeline)
    generator = torch.Generator().manual_seed(3)
    x, latent = torch.randn(2, 2, 4, 16, 16, generator=generator)
    t, context = torch.tensor([40, 999]), torch.randn(2, 77, 32, generator=generator)
    with torch.no_grad():
        wanted = predict(pipeline.unet, x, t, latent, context, torch.tensor([[3.0, 1.5]] * 2))
        bake(pipeline.unet, 3.0, 1.5)
        found = predict(pipeline.unet, x, t, latent, context)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert not takes_scales(pipeline.unet)
    assert not any("cond_proj" in name for name in pipeline.unet.state_dict())
    assert distilled_of(pipeline.unet) == Distilled([3, 3], [1.5, 1.5], phases, baked=True)
    # Untrained, it draws latents up to 25 and enlarges the rounding of each of its steps.
    torch.testing.assert_close(drawn(pipeline), unbaked, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match=r"guidance_scale: got 4.0, allowed: 3, which is baked in"):
        drawn(pipeline, text=4.0)
    with pytest.raises(UserError, match=r"takes no guidance scales: w_T 3 and w_I 1.5 are baked in"):
        bake(pipeline.unet, 3.0, 1.5)


def test_a_baked_one_is_drawn_without_guidance_by_what_is_not_ours(tmp_path: Path) -> None:
    """The stock pipeline would guide it a second time: its card says how not to, our command refuses."""
    pipeline = distilled_pipeline(4)
    bake(pipeline.unet, 3.0, 1.5)
    pipeline.save_instruct_pix2pix(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "settings = {'num_inference_steps': 4, 'guidance_scale': 1.0}" in card
    assert "3 and 1.5, in its weights: draw it without guidance" in card
    stock = StableDiffusionInstructPix2PixPipeline.from_pretrained(tmp_path, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    rows: list[int] = []
    stock.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    stock("open", torch.rand(1, 3, 32, 32), num_inference_steps=4, guidance_scale=1.0, output_type="latent")
    assert rows == [1] * 4
    with pytest.raises(UserError, match=r"is distilled, and would be guided a second time; draw it by"):
        read_config([], "pipeline", tmp_path)


def test_what_is_told_of_a_distilled_drawing_is_what_is_drawn(caplog: pytest.LogCaptureFixture) -> None:
    stated = Distilled([1, 5], [1, 2], 2)
    with caplog.at_level("INFO"):
        made = DrawingOptions(ckpt=Path("x")).sampling(stated, [3.0, 1.5])
    assert (made.scales_txt, made.scales_img, made.steps) == ([3.0], [1.5], 2)
    assert "scales" not in caplog.text
    assert "sampling.steps: 2, since this checkpoint was distilled" in caplog.text
    made = DrawingOptions(ckpt=Path("x"), preset="published", steps=2).sampling(stated, [3.0, 1.5])
    assert made.scheduler == "ddim_trailing"
    with pytest.raises(UserError, match=r"sampling\.interval_img: got \[0\.28, 5\.42\], allowed: none"):
        for_checkpoint(SamplingConfig(steps=2, interval_img=[0.28, 5.42]), stated)


def test_what_cannot_be_baked_is_refused() -> None:
    with pytest.raises(UserError, match=r"w_T: got 9.0, allowed: 1 to 5"):
        bake(distilled_pipeline().unet, 9.0, 1.5)
    with pytest.raises(UserError, match=r"takes no guidance scales; give one of ldm.distill"):
        bake(parts_of().unet, 3.0, 1.5)


def test_scales_have_the_embedding_of_latent_consistency_models() -> None:
    """Witness: LCM's closed form, section 4.2 of Luo et al. 2023 and its code."""
    scales = torch.tensor([[1.0, 1.5], [7.5, 3.0]])
    frequencies = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(128) / 127)
    angles = 1000 * scales[:, :, None] * frequencies  # b 2 128
    wanted = torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)
    # Angles up to 7500, whose rounding in 32 bits is 5e-4.
    torch.testing.assert_close(embed_scales(scales), wanted, rtol=0, atol=1e-3)
