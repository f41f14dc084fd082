"""The control plane: the API, and the loops that bring what is there to what is asked."""
