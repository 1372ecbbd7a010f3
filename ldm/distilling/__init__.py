"""Distillation: the guided teacher, a student that takes the scales as its input, phases, baking."""
