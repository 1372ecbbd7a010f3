"""Makes EgoGen data sets, and other formats from them."""
