"""The inference data plane: a process of its own."""
