"""Starts, limits and watches one attempt. Needs the standard library only."""
