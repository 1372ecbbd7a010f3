"""Settings of stage 2: typed sections, and YAML files merged into them."""
