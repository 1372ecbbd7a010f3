"""Makes EgoGen data sets from raw data, and other formats from them. The step before both stages."""
