"""Linear starts: an autoencoder that begins as averaging, a UNet that begins as the identity.

Training for minutes cannot find exact arithmetic, and group norms hide how large a value is. So the four
channels of a norm group make a lane: x, -x, and a constant with both signs that dominates the group's spread.
The last residual branches begin at zero; silu(x) - silu(-x) = x undoes the last activation. All may change.
"""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from ldm.networks.shapes import LATENT_CHANNELS, LATENT_SCALE

LANE = 4  # channels of a lane, and of every norm group of the toy networks
REFERENCE = 8.0
# What the norm divides a lane of values with spread 1 by.
SPREAD = math.sqrt((1 + REFERENCE**2) / 2)
SILENT = -14.0  # log-variance of latents: no noise to speak of
LUMINANCE = (0.299, 0.587, 0.114)
DETAIL_GAIN = 1.0  # of edges, which are fainter than colours: more would take the networks' care from colours


def mute_branches(network: nn.Module) -> None:
    """Lets an autoencoder's residual and attention branches begin at zero."""
    for name, module in network.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            assert isinstance(module, nn.Conv2d | nn.Linear)
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def write_lane(conv: nn.Conv2d, lane: int, taps: Float[Tensor, "i k k"]) -> None:
    """Lets a convolution put what `taps` reads, and the constants, into a lane of its output."""
    first = lane * LANE
    conv.weight[first : first + LANE] = 0
    conv.weight[first], conv.weight[first + 1] = taps, -taps
    assert conv.bias is not None
    conv.bias[first : first + LANE] = torch.tensor([0.0, 0.0, REFERENCE, -REFERENCE])


def pass_lane(conv: nn.Conv2d, lane: int, kernel: Float[Tensor, "k k"]) -> None:
    """Lets a convolution carry a lane on, filtered by a kernel."""
    taps = torch.zeros(conv.in_channels, *kernel.shape)
    taps[lane * LANE], taps[lane * LANE + 1] = kernel / 2, -kernel / 2
    write_lane(conv, lane, taps)


def read_lane(conv: nn.Conv2d, lane: int, row: int) -> None:
    """Lets a convolution after norm and activation give a lane's value as one of its outputs."""
    middle = conv.kernel_size[0] // 2
    first = lane * LANE
    conv.weight[row, first, middle, middle], conv.weight[row, first + 1, middle, middle] = SPREAD, -SPREAD


def silence(*layers: nn.Conv2d) -> None:
    """Lets layers give zero until rows are set."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


def centre(size: int = 3) -> Float[Tensor, "k k"]:
    """The kernel that changes nothing."""
    kernel = torch.zeros(size, size)
    kernel[size // 2, size // 2] = 1
    return kernel


@torch.no_grad()
def pass_colours_through(vae: AutoencoderKL) -> None:
    """Starts an autoencoder: the mean colour of a latent's block and one edge; decoded by repetition."""
    mute_branches(vae)
    encoder, decoder = vae.encoder, vae.decoder
    silence(encoder.conv_out, decoder.conv_out, vae.quant_conv, vae.post_quant_conv)
    block_mean, edge = torch.zeros(3, 3), torch.zeros(3, 3)
    block_mean[:2, :2] = 0.25
    edge[0, 0], edge[1, 1] = DETAIL_GAIN, -DETAIL_GAIN
    downs = [block.downsamplers[0].conv for block in encoder.down_blocks[:-1]]
    ups = [block.upsamplers[0].conv for block in decoder.up_blocks[:-1]]
    shortcuts = [
        resnet.conv_shortcut
        for block in (*encoder.down_blocks, *decoder.up_blocks)
        for resnet in block.resnets
        if resnet.conv_shortcut is not None
    ]
    for lane in range(LATENT_CHANNELS):
        colours = torch.tensor(LUMINANCE) if lane == 3 else torch.eye(3)[lane]
        write_lane(encoder.conv_in, lane, colours[:, None, None] * centre())
        for level, down in enumerate(downs):
            pass_lane(down, lane, edge if lane == 3 and level == 0 else block_mean)
        read_lane(encoder.conv_out, lane, lane)
        write_lane(decoder.conv_in, lane, torch.eye(LATENT_CHANNELS)[lane][:, None, None] * centre())
        for shortcut in shortcuts:
            pass_lane(shortcut, lane, centre(1))
        for up in ups:
            pass_lane(up, lane, centre())
        vae.quant_conv.weight[lane, lane] = vae.post_quant_conv.weight[lane, lane] = 1
        if lane < 3:
            read_lane(decoder.conv_out, lane, lane)
    vae.quant_conv.bias[LATENT_CHANNELS:] = SILENT


@torch.no_grad()
def standardize_latents(vae: AutoencoderKL, frames: Float[Tensor, "n 3 r r"]) -> None:
    """Centres each latent channel, and scales all to a standard deviation of 1 / 0.18215, as published."""
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in frames[::8].split(32)])
    mean = latents.mean(dim=(0, 2, 3))  # [4]
    factor = float(1 / LATENT_SCALE / (latents - mean[:, None, None]).std())
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight /= factor
    vae.quant_conv.bias[:LATENT_CHANNELS] = (vae.quant_conv.bias[:LATENT_CHANNELS] - mean) * factor
    vae.quant_conv.weight[:LATENT_CHANNELS] *= factor
    vae.quant_conv.bias[LATENT_CHANNELS:] += 2 * math.log(factor)  # log-variance


@torch.no_grad()
def pass_noise_through(unet: UNet2DConditionModel) -> None:
    """Starts a UNet as the identity, the right prediction where nearly all is noise.

    Each latent channel travels through the outermost skip connection into a lane. Only the last block's
    branch begins at zero: what the others make of picture and text is there to be used from the first step.
    """
    silence(unet.up_blocks[-1].resnets[-1].conv2)
    shortcut = unet.up_blocks[-1].resnets[-1].conv_shortcut
    first_skip = shortcut.in_channels - unet.conv_in.out_channels
    silence(unet.conv_out)
    for channel in range(LATENT_CHANNELS):
        unet.conv_in.weight[channel], unet.conv_in.bias[channel] = 0, 0
        unet.conv_in.weight[channel, channel] = centre()
        taps = torch.zeros(shortcut.in_channels, 1, 1)
        taps[first_skip + channel] = 1
        write_lane(shortcut, channel, taps)
        read_lane(unet.conv_out, channel, channel)
