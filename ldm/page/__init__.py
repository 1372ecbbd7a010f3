"""The web page for single frames: what is drawn on it, for whom, in which order."""
