"""Kinds of models that are served without code: how each is recognised, checked and opened."""
