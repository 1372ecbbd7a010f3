"""EPIC-KITCHENS-100: its tables, and the pairs that are made of them."""
