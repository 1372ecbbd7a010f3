"""Stage 2: a latent diffusion model that draws the action frame from the frame, the description and features."""
