"""Results on disk: files, rows by frame, intervals, the published tables."""
