"""The methods of drawing by name, and what each has of the settings; no torch."""

from __future__ import annotations

COPY = "copy"  # the source frame itself; there is nothing to draw
GUIDED = ("lego", "ip2p")  # by the guidance of InstructPix2Pix: section `sampling`
PLAIN = ("sdedit", "proxnpi", "proxmasactrl")  # by a plain Stable Diffusion: the section of their name
METHODS = (*GUIDED, *PLAIN, COPY)
OF_GUIDED = ("scheduler", "steps", "scales_txt", "scales_img")  # of `sampling`; other methods have their own
