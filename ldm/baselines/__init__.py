"""Systems that LEGO is compared with; each draws the same frames into the same layout."""
