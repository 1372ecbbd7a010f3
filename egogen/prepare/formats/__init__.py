"""Formats of other tools: tables of images and downloads come in, Parquet and WebDataset go out."""
