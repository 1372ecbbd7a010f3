"""Gives models and data away: the card of a model, what of a folder is sent, and sending it to the hub."""
