"""Sizes of the toy's networks: small ones for minutes, sharp ones for hours."""

from __future__ import annotations

from ldm.networks.shapes import LATENT_CHANNELS, Architecture, TextShape, UNetShape, VAEShape

SMALL = Architecture(
    unet=UNetShape(
        channels=[32, 64, 128],
        attention=[False, True, True],
        blocks=1,
        heads=2,
        groups=8,
        in_channels=LATENT_CHANNELS,
    ),
    vae=VAEShape(channels=[32, 32], blocks=1, groups=8),
    text=TextShape(width=128, layers=2, heads=2, intermediate=512),
    llm_width=128,
    mixer_width=256,
)
# Four pixels a latent along a side, so that frames of 64 pixels cost the UNet no more than small ones of 32.
# A UNet of 2.8 million weights: three of them (editor, LEGO, its distillation) and all else fit into 24 MB.
SHARP = Architecture(
    unet=UNetShape(
        channels=[32, 64, 96],
        attention=[False, True, True],
        blocks=1,
        heads=2,
        groups=8,
        in_channels=LATENT_CHANNELS,
    ),
    vae=VAEShape(channels=[16, 32, 64], blocks=1, groups=4),
    text=TextShape(width=128, layers=2, heads=2, intermediate=512),
    llm_width=128,
    mixer_width=256,
)
SHAPES = {"small": SMALL, "sharp": SHARP}
