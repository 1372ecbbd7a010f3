"""Puts measured runs beside each other and beside the paper: tables, pictures, curves. The last step."""
