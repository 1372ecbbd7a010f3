"""Stage 2: a latent diffusion model draws the action frame from frame, description and stage-1 features."""

from egogen import __version__ as __version__
