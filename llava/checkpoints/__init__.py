"""Files of checkpoints: read safely, checked, written."""
