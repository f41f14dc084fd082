"""Content-addressed bytes, below both the platform and the user's side."""
