"""Builds a toy LLaVA from the toy world in a minute or two: the stand-in for the published starting point."""
