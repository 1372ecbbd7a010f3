"""A toy Stable Diffusion, built from the toy world in minutes: `python -m ldm.toy`."""
