"""Ego4D: its annotation file, and the pairs that are made of it."""
