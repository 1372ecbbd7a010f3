"""People as judges: a local page on which they pick the best of several systems' frames."""
