"""Keys and values that are made once give what diffusers' attention gives at every step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from ldm.networks.architecture import build
from ldm.networks.attention import fixed_context, is_plain
from ldm.pipeline import LegoPipeline
from tests.ldm.toy_run import ATTENTIVE


@torch.no_grad()
def test_fixed_context_is_plain_attention() -> None:
    torch.manual_seed(0)
    unet = build(ATTENTIVE).unet.eval()
    contexts = torch.randn(3, 20, 32)
    rows = torch.tensor([2, 0, 1, 1])
    sample, t = torch.randn(4, 8, 16, 12), torch.tensor([5, 80, 300, 999])
    expected = unet(sample, t, contexts[rows]).sample
    before = unet.attn_processors
    with fixed_context(unet, contexts) as fixed:
        fixed.select(rows)
        for _ in range(2):
            found = unet(sample, t, torch.zeros(4, 20, 32)).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert unet.attn_processors == before
    torch.testing.assert_close(unet(sample, t, contexts[rows]).sample, expected)


def test_processors_come_back_after_an_error() -> None:
    unet = build(ATTENTIVE).unet
    before = unet.attn_processors
    with (
        pytest.raises(RuntimeError, match="inside"),
        fixed_context(unet, torch.zeros(1, 4, 32)),
    ):
        raise RuntimeError("inside")
    assert unet.attn_processors == before


def test_attention_that_somebody_set_is_left_alone() -> None:
    torch.manual_seed(0)
    parts = build(ATTENTIVE)
    pipeline = LegoPipeline.from_parts(parts)
    arguments = {
        "image": torch.rand(2, 3, 32, 32) * 2 - 1, "prompt": ["a", "b"], "num_inference_steps": 2,
        "noise": torch.randn(3, 2, 4, 16, 16), "output_type": "latent",
    }  # fmt: skip
    with pipeline.quiet():
        fixed = pipeline(**arguments).images
        parts.unet.set_attn_processor(AttnProcessor())
        assert not is_plain(parts.unet)
        own = pipeline(**arguments).images
    # Two orders of summation in 32 bits, a hundredfold by guidance (7.5) and the first step (sigma 14);
    # how far apart they are depends on the processor (2e-4 on one).
    torch.testing.assert_close(fixed, own, rtol=1e-4, atol=1e-3)
    assert all(isinstance(found, AttnProcessor) for found in parts.unet.attn_processors.values())


def test_a_slice_of_the_pipeline_is_pinned() -> None:
    """Nine values, so that nothing between weights and picture changes unnoticed."""
    torch.manual_seed(0)
    pipeline = LegoPipeline.from_parts(build(replace(ATTENTIVE, mixer_width=2048)))
    generator = torch.Generator().manual_seed(1)
    with pipeline.quiet():
        image = pipeline(
            torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1,
            "open the box",
            torch.randn(1, 256, 24, generator=generator),
            torch.randn(1, 77, 24, generator=generator),
            num_inference_steps=4,
            noise=torch.randn(5, 1, 4, 16, 16, generator=generator),
            output_type="np",
        ).images
    assert image.shape == (1, 32, 32, 3)
    expected = torch.tensor(PINNED)
    torch.testing.assert_close(
        torch.from_numpy(image[0, -3:, -3:, -1]).flatten(), expected, rtol=0, atol=1e-3
    )


PINNED = [0.4081, 0.4294, 0.3653, 0.5006, 0.4458, 0.4041, 0.6414, 0.4557, 0.4228]
