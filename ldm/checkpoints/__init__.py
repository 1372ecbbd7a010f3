"""Checkpoints into networks and back, by published names, without executing anything in them."""
