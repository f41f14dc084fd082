"""Observe, decide, apply: one loop for each concern."""
