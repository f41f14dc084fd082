"""The engine of this one machine."""
