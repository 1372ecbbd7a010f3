"""Fetches what the authors and others published: data, weights, features; goes on after an interruption."""
