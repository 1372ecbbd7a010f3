"""What is in a data set: counts, words, sizes, and a page of examples."""
