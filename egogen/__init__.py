"""What both stages share: the EgoGen data set, its paths, feature files and the toy world. No torch."""

__version__ = "0.1.0"
