"""The networks that metrics see with, and their weights."""
