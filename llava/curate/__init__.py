"""Curates descriptions: a language model writes out what a label leaves open; stage 1 is tuned on them."""
