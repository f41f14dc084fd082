"""Datasets: real samples with ids, and how they are divided."""

from leptonai.data.split import Split, split

__all__ = ["Split", "split"]
