"""Pairs of frames, and how the protocols read them."""
