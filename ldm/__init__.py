"""Stage 2: a latent diffusion model draws the action frame from frame, description and stage-1 features."""
