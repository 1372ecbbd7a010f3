"""16 bits: where `auto` takes them, that manifests say so, and how near their frames are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from egogen.errors import UserError
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig
from ldm.networks import precision
from ldm.networks.architecture import build
from ldm.networks.packing import pack_convolutions
from ldm.networks.precision import Precisions, choose_precisions
from ldm.pipeline import LegoPipeline
from ldm.sampling import methods
from ldm.sampling.drawing_plan import DrawingPlan
from ldm.sampling.methods import make_drawer, prepare
from tests.ldm.toy_run import SHAPE

CPU, WIDE, NARROW = torch.device("cpu"), 320, 64


@pytest.mark.parametrize(
    ("wanted", "tiles", "width", "expected"),
    [
        ("auto", True, WIDE, ("bf16", "bf16")),
        ("auto", True, NARROW, ("32", "32")),
        ("auto", False, WIDE, ("32", "32")),
        ("32", True, WIDE, ("32", "32")),
        ("bf16", True, NARROW, ("bf16", "bf16")),
        ("bf16", False, WIDE, ("bf16", "32")),
    ],
)
def test_what_a_setting_means_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
    wanted: precision.Precision,
    tiles: bool,
    width: int,
    expected: tuple[str, str],
) -> None:
    monkeypatch.setattr(precision, "has_tiles", lambda: tiles)
    assert choose_precisions(wanted, CPU, width) == expected


def test_tiles_are_asked_of_torch() -> None:
    """Witness: what Linux says of the processor."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert precision.has_tiles() == ("amx_tile" in flags)


@torch.no_grad()
def test_frames_in_16_bits_are_near_and_given_in_32() -> None:
    """Witness: the same networks in 32 bits; 40 dB (PSNR, values from -1 to 1)."""
    torch.manual_seed(0)
    parts = build(SHAPE)
    generator = torch.Generator().manual_seed(1)
    given = {
        "image": torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1, "prompt": ["cut", "open"],
        "noise": torch.randn(5, 2, 4, 16, 16, generator=generator), "num_inference_steps": 4,
        "guidance_scale": 3.0, "output_type": "pt",
    }  # fmt: skip
    frames = []
    for precisions in (Precisions("32", "32"), Precisions("32", "bf16"), Precisions("bf16", "bf16")):
        prepare(parts, CPU, precisions, compiled=False)
        pipeline = LegoPipeline.from_parts(parts)
        with pipeline.quiet():
            frames.append(pipeline(**given).images)
        assert (parts.unet.dtype, parts.vae.dtype) == tuple(map(precision.dtype_of, precisions))
    exact, *half = frames
    for frame in half:
        assert frame.dtype == torch.float32
        error = (frame - exact).square().mean()
        assert 0 < error < 4e-4


@pytest.mark.skipif(not precision.has_tiles(), reason="needs a CPU that multiplies 16-bit matrices by tiles")
@torch.no_grad()
def test_packed_convolutions_change_no_bit() -> None:
    """Witness: the same layers with their own weights, for three rows, one, and a frame."""
    torch.manual_seed(0)
    parts = build(SHAPE)
    frame, latent = torch.rand(1, 3, 32, 32) * 2 - 1, torch.randn(3, 8, 16, 16)
    context = torch.randn(3, 9, parts.unet.config["cross_attention_dim"])

    def results(dtype: torch.dtype) -> list[torch.Tensor]:
        steps = [parts.unet(latent[:n].to(dtype), 7, context[:n].to(dtype)).sample for n in (3, 1)]
        return [*steps, parts.vae.encode(frame.to(dtype)).latent_dist.mean]

    prepare(parts, CPU, Precisions("bf16", "bf16"), compiled=False)
    assert "forward" in vars(parts.unet.conv_in)
    assert "forward" in vars(parts.vae.encoder.conv_in)
    packed = results(torch.bfloat16)
    for network in (parts.unet, parts.vae):
        pack_convolutions(network, False)
    for found, expected in zip(packed, results(torch.bfloat16), strict=True):
        assert torch.equal(found, expected)
    prepare(parts, CPU, Precisions("bf16", "bf16"), compiled=False)
    prepare(parts, CPU, Precisions("32", "32"), compiled=False)
    assert "forward" not in vars(parts.unet.conv_in)


def test_compiling_is_refused_where_weights_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "on_tiles", lambda _: True)
    words = ["data.resolution=32", "sampling.compile=true", "sampling.precision=bf16"]
    editor = Path(__file__).parents[2] / "assets" / "toy" / "ip2p.safetensors"
    plan = DrawingPlan("ip2p", load_config(GenerateConfig, [], words), editor, True, CPU)
    with pytest.raises(UserError, match=r"sampling.compile: got True, allowed: false in 16 bits on a CPU"):
        make_drawer(plan, editor)


@pytest.mark.long
@torch.no_grad()
def test_compiled_networks_draw_the_same_frame() -> None:
    """Witness: the same networks, not compiled; 1e-4 of values from -1 to 1. A minute or two of compiling."""
    torch.manual_seed(0)
    parts = build(SHAPE)
    latent, context = torch.randn(3, 8, 16, 16), torch.randn(3, 9, parts.unet.config["cross_attention_dim"])

    def results() -> list[torch.Tensor]:
        steps = [parts.unet(latent[:n], 7, context[:n]).sample for n in (3, 1)]
        return [*steps, parts.vae.decode(latent[:1, :4]).sample]

    expected = results()
    prepare(parts, CPU, Precisions("32", "32"), compiled=True)
    for found, wanted in zip(results(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
        assert not torch.equal(found, wanted)  # compiled indeed
