"""How fast the Trainer is, beside loops that are written by hand. See `__main__`."""
