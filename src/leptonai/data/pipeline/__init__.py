"""Pipelines: what is done to data before a model sees it, in training and in serving alike."""
