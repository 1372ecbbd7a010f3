"""Makes EgoGen data sets from raw data; `python -m egogen.prepare`. The step before both stages."""
