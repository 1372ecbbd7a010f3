"""What happens around training steps: checkpoints and signals, pictures, progress, speed."""
