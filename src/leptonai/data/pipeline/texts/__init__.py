"""Steps over texts: one file a family."""
