"""Is a folder a sound EgoGen data set? Checks texts, frames, targets, features; repairs what is safe."""
