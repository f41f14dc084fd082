"""Steps over tables: one file a family."""
