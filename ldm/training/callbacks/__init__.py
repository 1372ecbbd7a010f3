"""What happens beside the training steps: checkpoints, grids, progress, speed."""
