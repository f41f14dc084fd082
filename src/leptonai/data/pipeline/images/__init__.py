"""Steps over images: one file a family."""
