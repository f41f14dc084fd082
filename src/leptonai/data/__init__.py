"""Datasets, in the user's own process."""
