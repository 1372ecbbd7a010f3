"""What a training step needs besides the loss: optimiser, average, callbacks."""
