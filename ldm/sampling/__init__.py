"""Drawing the frames of a split."""
