"""Quality gates: what is wrong with a dataset, measured and said before a model learns it.

Each file is a family of checks: pure functions from values to what they found. What a dataset holds
is read in `check.py`, by `scanning.py` and `frames.py` (tables), `images.py` and `texts.py`.
"""
