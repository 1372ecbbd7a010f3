"""The methods of drawing by name, and what each has of the settings; no torch."""

from __future__ import annotations

COPY = "copy"  # the source frame itself; there is nothing to draw
GUIDED = ("lego", "ip2p")  # by the guidance of InstructPix2Pix: section `sampling`
PLAIN = ("sdedit", "proxnpi", "proxmasactrl")  # by a plain Stable Diffusion: the section of their name
PIPELINE = "pipeline"  # by any diffusers pipeline from frame and text to frame
SECTIONED = (*PLAIN, PIPELINE)  # have a section of their name
METHODS = (*GUIDED, *SECTIONED, COPY)
# Of `sampling`; other methods have their own.
OF_GUIDED = (
    "scheduler", "steps", "timesteps", "scales_txt", "scales_img", "interval_txt", "interval_img", "loras",
)  # fmt: skip
