"""Lepton: an open AI cloud that a team runs itself."""

__version__ = "0.1.0"
