"""What stage 2 is trained on and draws from: pairs of frames, their texts, features and draws."""
